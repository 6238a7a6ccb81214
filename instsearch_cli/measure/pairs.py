"""Matching pairs of images, found in a collection itself, without labels (after Radenović et al., ECCV 2016).

An image asks for the others as a query does; those whose keypoints agree with its own on one transform match it.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_cli.data import Hits
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.choosing import recorded_pipeline
from instsearch_cli.engine.pipeline import default_preset
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.tensors import answering
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import Photograph
from instsearch_cli.options import make_config
from instsearch_cli.outside.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from instsearch_cli.data import Box, Query
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.session import Index as Session
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index


class Pair(NamedTuple):
    """Rows of two images that match, how many keypoints agree, and where the first image is in the second."""

    a: int
    b: int
    inliers: int
    box: Box


@dataclass
class Mined:
    """What was found. candidates = pairs + rejected + capped."""

    queried: int = 0  #: images that were queries, those skipped included
    candidates: int = 0  #: pairs of images that were verified, each once
    rejected: int = 0  #: of these, with too few inliers
    capped: int = 0  #: matching, but left out because an image has enough others
    pairs: list[Pair] = field(default_factory=list)  #: by descending inliers
    skipped: list[tuple[str, str]] = field(default_factory=list)  #: name and reason
    stopped: bool = False  #: by Ctrl-C

    @property
    def images(self) -> int:
        """How many images the pairs are of."""
        return len({row for pair in self.pairs for row in pair[:2]})


class Miner:
    """Looks for matching pairs with a pipeline of an index. Reads only.

    Raises InstsearchError if the pipeline has no keypoints, besides what Engine raises.
    """

    def __init__(self, index: Index, pipeline: Pipeline, registry: Registry, device: torch.device) -> None:
        name = registry.default("rerank", "pairs")
        self.pipeline = pipeline
        stage = pipeline.with_rerank([name]).rerank[0]
        verifier = registry.get("rerank", name).load()
        self.verifier: Any = verifier(make_config(verifier, stage.options, f"rerank.{name}"), device)
        assembly = Assembly(replace(pipeline, rerank=()), registry, device)
        if assembly.extractor.component.encoding != "keypoints":
            raise InstsearchError(
                f"pairs are verified by keypoints; pipeline '{pipeline.name}' has none, '{pipeline.extractor.name}' "
                f"makes maps.\nRun `instsearch index --index {index.path} --preset {default_preset(registry)} "
                "--keep-features` first, or name a pipeline with keypoints (--pipeline)."
            )
        self.engine = Engine(index, assembly)
        self.data = self.engine.data

    @classmethod
    def of(cls, index: Session, pipeline: str | None = None, options: Sequence[str] = ()) -> Miner:
        """With a recorded pipeline of an index (None: the last), whose verifier ``options`` may set, too."""
        registry = load_registry()
        verified = recorded_pipeline(index.store, pipeline).with_rerank([registry.default("rerank", "pairs")])
        return cls(index.store, verified.with_options(options), registry, pick_device(index.device))

    def sample(self, n: int, seed: int) -> list[int]:
        """``n`` rows by chance, in their order; all for 0."""
        rows = self.data.images
        if 0 < n < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
        return [int(row) for row in rows]

    def name(self, row: int) -> str:
        """What the image is called in the hits of a query, and in a pairs file."""
        return self.data.called(row)

    def mine(
        self, rows: Sequence[int], top: int, least: int, progress: Quiet, most: int | None = None
    ) -> Mined:
        """Verify the best ``top`` other images of each row; keep pairs with at least ``least`` inliers.

        With ``most``, no image is in more pairs than that: those with the most inliers stay. Ctrl-C ends it
        early, with what was found until then.
        """
        mined, seen, found = Mined(), set[frozenset[int]](), list[Pair]()
        progress.start("looking for pairs", len(rows))
        try:
            for row in rows:
                try:
                    found += self._ask(row, top, seen)
                except UnaskedError as reason:
                    mined.skipped.append((self.name(row), str(reason)))
                mined.queried += 1
                progress.advance()
        except KeyboardInterrupt:
            mined.stopped = True
        progress.close()
        matching = [pair for pair in found if pair.inliers >= least]
        mined.pairs, mined.candidates = at_most(matching, most), len(seen)
        mined.rejected, mined.capped = len(seen) - len(matching), len(matching) - len(mined.pairs)
        return mined

    @answering()
    def _ask(self, row: int, top: int, seen: set[frozenset[int]]) -> list[Pair]:
        """The pairs of an image with those of its candidates that are not in ``seen``; then they are."""
        if not writable(self.name(row)):
            raise UnaskedError("a pairs file cannot hold its name")
        try:
            picture = Photograph(self.data.path(row))
            query = self.engine.query(self.name(row), picture, None, frozenset({row}))
        except InstsearchError as error:  # its file is gone or damaged, or it has no keypoints
            reason = str(error).partition("\n")[0].partition(". ")[0]  # without what to do in a query
            for prefix in (f"query '{self.name(row)}': ", f"{printable(self.data.path(row))}: "):
                reason = reason.removeprefix(prefix)
            raise UnaskedError(reason) from error
        hits = self.engine.search([query], top)
        others = [int(other) for other in hits.images[0, : hits.valid(0)]]
        others = [o for o in others if frozenset({row, o}) not in seen and self._differ(row, o)]
        pairs = self._verified(query, row, others)
        seen.update(frozenset({row, other}) for other in others)
        return pairs

    def _differ(self, row: int, other: int) -> bool:
        """Whether the other can be in a pair: no copy of the file, whose difference from it teaches nothing."""
        return self.data.record(row).digest != self.data.record(other).digest and writable(self.name(other))

    def _verified(self, query: Query, row: int, others: Sequence[int]) -> list[Pair]:
        """Hits that come with score 0 leave the verifier with the count of their inliers."""
        if not others:
            return []
        hits = Hits.stack([(np.array(others), np.zeros(len(others), np.float32), None)], len(others))
        with torch.inference_mode():
            hits = self.verifier.rerank([query], hits, self.data, lambda codes, k: hits)
        return [
            Pair(row, int(other), round(float(score)), (float(x0), float(y0), float(x1), float(y1)))
            for other, score, (x0, y0, x1, y1) in zip(
                hits.images[0], hits.scores[0], hits.boxes[0], strict=True
            )
            if score > 0
        ]


class UnaskedError(Exception):
    """Why an image was no query."""


def writable(name: str) -> bool:
    """Whether a pairs file can hold an image's name and give it back."""
    if name.encode("utf-8", "replace").decode("utf-8") != name:
        return False
    read = csv.reader(io.StringIO(as_csv([(name, name)]), newline=""))
    return [[field.strip() for field in line] for line in read] == [[name, name]]


def at_most(pairs: Sequence[Pair], most: int | None) -> list[Pair]:
    """The pairs by descending inliers, but none of an image that is in ``most`` better ones."""
    count, kept = Counter[int](), []
    for pair in sorted(pairs, key=lambda pair: (-pair.inliers, pair)):
        if most is None or max(count[pair.a], count[pair.b]) < most:
            count.update(pair[:2])
            kept.append(pair)
    return kept


def as_csv(names: Sequence[tuple[str, str]]) -> str:
    """The text of a pairs file: two names a line."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(names)
    return text.getvalue()


def write_csv(path: Path, miner: Miner, mined: Mined) -> None:
    """Write the names of the pairs, whole or not at all. Raises InstsearchError where that cannot be."""
    write_text(path, as_csv([(miner.name(pair.a), miner.name(pair.b)) for pair in mined.pairs]))
