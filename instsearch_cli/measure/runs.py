"""Ranked lists as TREC has them: written for other programs, and those of other programs scored.

A line a hit, ``query Q0 image rank score tag``, ranks from 1. Whitespace, control characters and ``%`` in names are
percent-encoded, and bytes that are no UTF-8.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import printable
from instsearch_cli.measure.evaluation import (
    MAIN,
    Evaluation,
    Tops,
    judged_settings,
    kept_hits,
    means_of,
    positives_of,
    score_ranking,
)
from instsearch_formats.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    """

    name: str
    dataset: Dataset
    evaluation: Evaluation
    strangers: int
    silent: int

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
        return {
            "dataset": self.dataset.name,
            "name": self.name,
            "metrics": self.metrics,
            "queries": self.queries,
            "protocol": self.dataset.protocol,
            "strangers": self.strangers,
            "silent": self.silent,
        }


def write_run(path: Path, rankings: Mapping[str, Sequence[Ranked]], tag: str) -> None:
    """Write the ranked lists of queries, whole or not at all. Raises InstsearchError where that cannot be."""
    try:
        with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
            for query, hits in rankings.items():
                for rank, hit in enumerate(hits, 1):
                    line = (encoded(query), "Q0", encoded(hit.image), rank, f"{hit.score:.9g}", encoded(tag))
                    file.write(" ".join(map(str, line)) + "\n")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """The images of each query with their scores, best first, equal ones by rank.

    Raises InstsearchError with the number of the first line that is none of a run.
    """
    lines: dict[str, list[tuple[float, int, str]]] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if line.strip():
                    query, hit = _parsed(line, f"{path}, line {number}", number)
                    lines.setdefault(query, []).append(hit)
    except OSError as error:
        raise InstsearchError(f"cannot read {path}: {error.strerror or error}") from error
    return {query: [(name, -score) for score, _, name in sorted(hits)] for query, hits in lines.items()}


def _parsed(line: bytes, where: str, number: int) -> tuple[str, tuple[float, int, str]]:
    """The query of a line, and -score, rank and image, by which hits are sorted."""
    fields = line.split()
    wrong = InstsearchError(f"{where}: this is no line of a TREC run, query Q0 image rank score tag")
    if len(line) > LONGEST or len(fields) != 6 or number > MOST:
        raise wrong
    try:
        rank, score = int(fields[3][:20]), float(fields[4])
    except ValueError:
        raise wrong from None
    if not math.isfinite(score):
        raise wrong
    return decoded(fields[0]), (-score, rank, decoded(fields[2]))


def score_run(dataset: Dataset, path: Path, tops: Tops | None = None, keep: int = 0) -> ScoredRun:
    """Score a run on a dataset's queries, as a pipeline's rankings are: junk skipped, excluded images left out.

    Raises InstsearchError for a file that is no run, and for one that has nothing of the dataset.
    """
    run, tops = read_run(path), tops or Tops(dataset.tops)
    images = {ref.name for ref in dataset.images()}
    evaluation, seen, strangers, silent = Evaluation({}, [], {}), 0, 0, 0
    refs = dataset.queries()
    strangers += sum(len(hits) for query, hits in run.items() if query not in {ref.id for ref in refs})
    for ref in refs:
        judged = judged_settings(dataset, ref, dataset.settings)
        if not positives_of(*judged.values()):
            evaluation.dropped.append(ref.id)
            continue
        hits: dict[str, float] = {}
        for name, score in run.get(ref.id, ()):
            if name in images:
                hits.setdefault(name, score)  # one that is there twice counts where it is first
            else:
                strangers += 1
        seen, silent = seen + len(hits), silent + (not hits)
        ranked = [name for name in hits if name not in judged[MAIN].exclude]
        scored = score_ranking(ranked, judged, dataset.average_precision, tops)
        evaluation.queries.append({"id": ref.id, **scored, "localised": None})
        if keep:
            scores = [hits[name] for name in ranked[:keep]]
            evaluation.rankings[ref.id] = kept_hits(ranked[:keep], scores, None, judged[MAIN])
    if not seen:
        some = printable(next(iter(run), "")) or "nothing"
        raise InstsearchError(
            f"{path} has no image of a query of '{dataset.name}'; its first query is '{some}'"
        )
    evaluation.metrics = means_of(evaluation.queries, dataset.settings, tops)
    return ScoredRun(path.stem, dataset, evaluation, strangers, silent)


def encoded(name: str) -> str:
    """A name as a field of a line."""
    return "".join(
        c if c.isprintable() and not c.isspace() and c != "%" else quote(os.fsencode(c)) for c in name
    )


def decoded(field: bytes) -> str:
    """The name that a field of a line is."""
    return os.fsdecode(unquote_to_bytes(field))
