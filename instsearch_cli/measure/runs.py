"""Ranked lists as TREC has them: written for other programs, and those of other programs scored.

A line a hit, ``query Q0 image rank score tag``, ranks from 1. Whitespace, control characters and ``%`` in names are
percent-encoded, and bytes that are no UTF-8. Programs that read runs sort by score: where the scores of a ranking do
not fall, as where only its first hits were reranked, the lines have 0, -1, -2, ... in their place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.measure.evaluation import (
    MAIN,
    Evaluation,
    Tops,
    among,
    judged_settings,
    kept_hits,
    means_of,
    positives_of,
    score_ranking,
)
from instsearch_cli.outside.files import is_there, open_plain
from instsearch_formats.files import replacing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.components import Dataset
    from instsearch_cli.measure.evaluation import Ranked

DEPTH = 1000  #: hits of a query that are written
LONGEST = 10_000  #: bytes of a line
MOST = 20_000_000  #: lines of a file


@dataclass(frozen=True)
class ScoredRun:
    """A run that another program made, scored on a dataset.

    strangers  lines of queries or of images that the dataset has not
    silent     queries of the dataset without a line: their average precision is 0
    missing    images of the dataset that are not there, where only those that are there count
    """

    name: str
    dataset: Dataset
    evaluation: Evaluation
    strangers: int
    silent: int
    missing: int = 0

    @property
    def metrics(self) -> dict[str, float | None]:
        """mAP and the others, by name."""
        return self.evaluation.metrics

    @property
    def queries(self) -> list[dict[str, Any]]:
        """The numbers of each query."""
        return self.evaluation.queries

    def plain(self, present_only: bool = False) -> dict[str, Any]:
        """JSON-ready, with the keys of a pipeline's evaluation where it has them."""
        report: dict[str, Any] = {
            "dataset": self.dataset.name,
            "name": self.name,
            "metrics": self.metrics,
            "queries": self.queries,
            "protocol": self.dataset.protocol,
            "strangers": self.strangers,
            "silent": self.silent,
        }
        if present_only:
            report["present_only"] = {
                "missing_images": self.missing,
                "missing_positives": self.evaluation.lost,
                "dropped_queries": self.evaluation.dropped,
            }
        return report


def write_run(path: Path, rankings: Mapping[str, Sequence[Ranked]], tag: str) -> None:
    """Write the ranked lists of queries, whole or not at all. Raises InstsearchError where that cannot be."""
    try:
        with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            for query, hits in rankings.items():
                scores = falling_scores([hit.score for hit in hits])
                for rank, (hit, score) in enumerate(zip(hits, scores, strict=True), 1):
                    line = (encoded(query), "Q0", encoded(hit.image), rank, f"{score:.9g}", encoded(tag))
                    file.write(" ".join(map(str, line)) + "\n")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def falling_scores(scores: Sequence[float]) -> Sequence[float]:
    """Scores of a ranking that are finite and never rise: its own, or 0, -1, -2, ..."""
    falls = all(a >= b for a, b in pairwise(scores)) and all(map(math.isfinite, scores))
    return scores if falls else [-float(i) for i in range(len(scores))]


def read_run(path: Path, names: Collection[str] = ()) -> dict[str, list[tuple[str, float]]]:
    """The images of each query with their scores, best first, equal ones by rank.

    A field that is one of the ``names`` as it stands, and none of them decoded, is that name.
    Raises InstsearchError with the number of the first line that is none of a run.
    """
    lines: dict[str, list[tuple[float, int, str]]] = {}
    there: dict[bytes, str] = {}

    def name_of(field: bytes) -> str:
        if field not in there:
            plain, name = field.decode("utf-8", "surrogateescape"), decoded(field)
            there[field] = plain if plain in names and name not in names else name
        return there[field]

    try:
        with open_plain(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if number > MOST:
                    raise InstsearchError(f"{path} has more than {MOST:,} lines")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip() or len(line) > LONGEST:
                    query, image, rank, score = _parsed(line, f"{path}, line {number}")
                    lines.setdefault(name_of(query), []).append((-score, rank, name_of(image)))
    except OSError as error:
        raise InstsearchError(f"cannot read {path}: {error.strerror or error}") from error
    return {query: [(name, -score) for score, _, name in sorted(hits)] for query, hits in lines.items()}


def _parsed(line: bytes, where: str) -> tuple[bytes, bytes, int, float]:
    """The query, image, rank and score of a line."""
    fields = line.split()
    wrong = InstsearchError(f"{where}: this is no line of a TREC run, query Q0 image rank score tag")
    if len(line) > LONGEST or len(fields) != 6:
        raise wrong
    try:
        rank, score = int(fields[3][:20]), float(fields[4])
    except ValueError:
        raise wrong from None
    if not math.isfinite(score):
        raise wrong
    return fields[0], fields[2], rank, score


def score_run(
    dataset: Dataset, path: Path, tops: Tops | None = None, keep: int = 0, present_only: bool = False
) -> ScoredRun:
    """Score a run on a dataset's queries, as a pipeline's rankings are: junk skipped, excluded images left out.

    With ``present_only`` images that are not there are neither ranked nor missed, and the queries of which nothing is
    left are dropped. Raises InstsearchError for a file that is no run, and for one that has nothing of the dataset.
    """
    tops, refs = tops or Tops(dataset.tops), dataset.queries()
    images, ids = {ref.name for ref in dataset.images()}, {ref.id for ref in refs}
    there = {ref.name for ref in dataset.images() if is_there(ref.path)} if present_only else images
    run = read_run(path, images | ids)
    evaluation, seen, silent = Evaluation({}, [], {}), 0, 0
    strangers = sum(len(hits) for query, hits in run.items() if query not in ids)
    for ref in refs:
        judged = judged_settings(dataset, ref, dataset.settings)
        if present_only:
            evaluation.lost += len(positives_of(*judged.values()) - there)
            judged = {setting: among(j, there) for setting, j in judged.items()}
        if not positives_of(*judged.values()) or (present_only and not is_there(ref.image)):
            evaluation.dropped.append(ref.id)
            continue
        hits: dict[str, float] = {}
        for name, score in run.get(ref.id, ()):
            if name in images:
                hits.setdefault(name, score)  # one that is there twice counts where it is first
            else:
                strangers += 1
        seen, silent = seen + len(hits), silent + (not hits)
        ranked = [name for name in hits if name in there and name not in judged[MAIN].exclude]
        scored = score_ranking(ranked, judged, dataset.average_precision, tops)
        evaluation.queries.append({"id": ref.id, **scored, "localised": None})
        if keep:
            scores = [hits[name] for name in ranked[:keep]]
            evaluation.rankings[ref.id] = kept_hits(ranked[:keep], scores, None, judged[MAIN])
    if not seen:
        some = printable(next(iter(run), "")) or "nothing"
        raise InstsearchError(
            f"{path} has no image of a query of '{dataset.name}'; its first query is '{some}', "
            f"the dataset's '{printable(refs[0].id)}'"
        )
    evaluation.metrics = means_of(evaluation.queries, dataset.settings, tops)
    return ScoredRun(path.stem, dataset, evaluation, strangers, silent, len(images) - len(there))


def encoded(name: str) -> str:
    """A name as a field of a line."""
    return "".join(
        c if c.isprintable() and not c.isspace() and c != "%" else quote(_encoded(c)) for c in name
    )


def _encoded(character: str) -> bytes:
    """UTF-8; what stands for another byte of a file's name is that byte."""
    other = "\udc80" <= character <= "\udcff"
    return character.encode("utf-8", "surrogateescape" if other else "surrogatepass")


def decoded(field: bytes) -> str:
    """The name that a field of a line is."""
    return unquote_to_bytes(field).decode("utf-8", "surrogateescape")
