"""What rerankers share that look at the best hits, one query and one hit at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from instsearch_cli.components import Reranker
from instsearch_cli.data import BoxWeight, Hits, Keypoints, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.geometry import box_under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch
    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Box, Codes, Features, Inputs, Query
    from instsearch_plugins.numeric.hypotheses import Found

Ranked = tuple[np.ndarray, np.ndarray, np.ndarray]
"""images i64[n], scores f32[n], boxes f32[n, 4] of one query, best first."""


class QueryByQuery(Reranker, ABC):
    """A reranker whose queries do not concern each other. Its ``Config`` has a ``depth``."""

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes], int], Hits],
    ) -> Hits:
        """Look at the first ``depth`` hits of each query; the others come after them."""
        ranked = [self.ranked(query, hits_of(hits, i), data) for i, query in enumerate(queries)]
        return Hits.stack(ranked, hits.images.shape[1])

    @abstractmethod
    def ranked(self, query: Query, hits: Ranked, data: Data) -> Ranked:
        """The hits of one query in their new order."""


class Verifying(Reranker):
    """A reranker that verifies hits by keypoints, no hit by fewer than its option ``min_inliers``."""

    def caution(self, query: Query, name: str) -> str:
        """That a query has fewer keypoints than must be seen again in a hit."""
        if not isinstance(query.features, Keypoints):
            return ""
        n, least = query.features.within(query.box), self.config.min_inliers
        if n >= least:
            return ""
        return (
            f"{n} keypoint{'s' * (n != 1)} in the {'box' if query.box else 'picture'}, and reranker '{name}' verifies "
            f"no hit by fewer than {least}: take a larger box, or an index made with a network "
            "(--extractor squeezenet1_0)"
        )


class ByInliers(QueryByQuery, Verifying):
    """score = inliers + the score before, for verified hits; the others keep score and order, after these.

    A verified hit's box is the query's under the transform that its inliers agree on.
    """

    def ranked(self, query: Query, hits: Ranked, data: Data) -> Ranked:
        """Verify the first ``depth`` hits. Raises UsageError where features are no keypoints."""
        images, scores, boxes = hits[0], hits[1].copy(), hits[2].copy()
        n = len(images)
        passed = np.zeros(n, bool)
        box = box_of(query)
        top = images[: self.config.depth].tolist()
        rank = {row: r for r, row in enumerate(top)}
        for group, found in self._found(query, data.inputs(("features",), top)):
            for i in np.flatnonzero(found.inliers).tolist():
                r = rank[group[i].row]
                passed[r] = True
                scores[r] += found.inliers[i]
                boxes[r] = box_under(found.transforms.at(i), box, group[i].size)
        order = np.lexsort((np.arange(n), np.where(passed, -scores, 0), ~passed))
        return images[order], scores[order], boxes[order]

    @abstractmethod
    def _found(self, query: Query, candidates: Iterable[Inputs]) -> Iterator[tuple[list[Inputs], Found]]:
        """What the query's keypoints in its box agree on in the candidates, some of these at a time."""


class Look(NamedTuple):
    """What became of one hit: its row, its new score, and its box f32[4] if one was found.

    code: f32[D] of what is in the box, where somebody wants it
    """

    row: int
    score: float
    box: np.ndarray | None
    code: Tensor | None = None


class HitByHit(QueryByQuery):
    """New scores for the hits looked at; the others keep their order, after these (:func:`placed`)."""

    @dataclass(frozen=True)
    class Config:
        """Options of rerankers that look at hits."""

        depth: int = 100  #: how many of the best hits are looked at

        def __post_init__(self) -> None:
            if self.depth < 1:
                raise ValueError("depth is at least 1")

    config: Config
    gives_boxes: ClassVar[bool] = True  #: False: a hit that had no box stays without

    def ranked(self, query: Query, hits: Ranked, data: Data) -> Ranked:
        """See :func:`placed`."""
        return self.reordered(hits, self.look(query, hits[0][: self.config.depth], data))

    def reordered(self, hits: Ranked, looks: Iterable[Look]) -> Ranked:
        """Hits in the order of what became of the first ``depth`` of them."""
        images, scores, boxes = hits[0], hits[1], hits[2].copy()
        top = images[: self.config.depth]
        found = np.zeros(len(top), np.float32)
        rank = {int(row): r for r, row in enumerate(top)}
        for row, score, box, _ in looks:
            r = rank[row]
            found[r] = self.counted(score, float(scores[r]))
            if box is not None and (self.gives_boxes or not np.isnan(boxes[r]).any()):
                boxes[r] = box
        return placed(images, scores, boxes, found)

    @abstractmethod
    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """Look at the hits in these rows; one that is left out gets 0."""

    def counted(self, score: float, before: float) -> float:
        """A hit's new score out of what was found and the score before."""
        return score


def hits_of(hits: Hits, i: int) -> Ranked:
    """Those of one query, without the padding."""
    n = hits.valid(i)
    return hits.images[i, :n], hits.scores[i, :n], hits.boxes[i, :n]


def placed(
    images: np.ndarray, scores: np.ndarray, boxes: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits in the order of new scores f32[t] of the first t of them; the others keep theirs, after these.

    Where there are others, the new scores are counted from that of the first of them, so that scores fall along
    the list.
    """
    t, n = len(found), len(images)
    if t < n:
        found = found - min(0.0, float(found.min(initial=0))) + scores[t]
    order = np.concatenate([np.lexsort((np.arange(t), -found)), np.arange(t, n)])
    return images[order], np.concatenate([found, scores[t:]])[order], boxes[order]


def box_of(query: Query) -> Box:
    """The query's box; the whole picture without one."""
    return query.box or (0.0, 0.0, float(query.image.size[0]), float(query.image.size[1]))


def keypoints_of(features: Features | None, box: Box | None) -> Keypoints:
    """Keypoints, in a box alone where there is one. Raises UsageError for maps."""
    if not isinstance(features, Keypoints):
        raise UsageError(
            "this reranker needs keypoints; this pipeline's extractor makes maps. Use --extractor sift, or another "
            "reranker"
        )
    if box is None:
        return features
    inside = BoxWeight(box).over(features)[0].astype(bool)
    return replace(features, values=features.values[inside], geometry=features.geometry[inside])


def likeness(codes: Codes, asked: Codes) -> Tensor:
    """Dot products of all rows of two codes, cosines where rows have unit length: f32[M, Q]."""
    if isinstance(codes, Vectors) and isinstance(asked, Vectors):
        return codes.vectors @ asked.vectors.T
    if not isinstance(codes, SparseVectors) or not isinstance(asked, SparseVectors):
        raise InstsearchError("dense and sparse codes cannot be compared: the index is not of one pipeline")
    import torch

    Q = np.zeros((asked.dim, len(asked.boxes)), np.float32)
    Q[asked.indices, _row_of_each(asked)] = asked.data
    products = torch.from_numpy(codes.data[:, None] * Q[codes.indices])
    row = torch.from_numpy(_row_of_each(codes))
    return products.new_zeros(len(codes.boxes), Q.shape[1]).index_add_(0, row, products)


def _row_of_each(codes: SparseVectors) -> np.ndarray:
    return np.repeat(np.arange(len(codes.boxes)), np.diff(codes.indptr))
