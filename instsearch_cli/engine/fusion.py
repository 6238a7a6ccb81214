"""One list of hits out of those of several views of one object, and of what it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instsearch_cli.boxes import overlap
from instsearch_cli.data import without_equals

if TYPE_CHECKING:
    from collections.abc import Callable

    from instsearch_cli.data import Hits

    Contested = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Fused(NamedTuple):
    """Hits of one question.

    hits     one row of n hits, best first, without padding
    views    i64[n]: the view that each is of
    dropped  f[m]: the scores of hits that the negatives took, best first
    refused  i64[r]: the images that they left no hit
    """

    hits: Hits
    views: np.ndarray
    dropped: np.ndarray
    refused: np.ndarray

    def scored(self, score: Callable[[np.ndarray], np.ndarray]) -> Fused:
        """The same with f32 scores made of these."""
        scores, dropped = (np.asarray(score(s), np.float32) for s in (self.hits.scores, self.dropped))
        return self._replace(hits=replace(self.hits, scores=scores), dropped=dropped)


def alone(hits: Hits, q: int) -> Fused:
    """The hits of query ``q``, which is one view and nothing else."""
    n = hits.valid(q)
    row = replace(
        hits,
        images=hits.images[q : q + 1, :n],
        scores=hits.scores[q : q + 1, :n],
        boxes=hits.boxes[q : q + 1, :n],
    )
    return Fused(row, np.zeros(n, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


def fuse(views: Hits, against: Hits, k: int, contested: Contested = without_equals) -> Fused:
    """The first k of the hits that some view finds, as its best view has it, and negatives leave something of.

    s(i) = min_j contested(max_v s_v(i), s_n(j)), over the hits j of all negatives n that overlap it; i stays where
    that is above -inf, and is the maximum where there are none

    views, against: a row of hits for each view and each negative, best first; an image that is not in a row scores
    nothing there. Ties go by the rank in the view's own list, then by row, so that the order of the views is all one.
    """
    v, rank, images, scores, boxes = _flat(views)
    corners = np.where(np.isnan(boxes), np.inf, boxes)
    order = np.lexsort((v, *corners.T, images, rank, -scores))
    _, first, image = np.unique(images[order], return_index=True, return_inverse=True)
    order = order[v[order] == v[order][first][image]]

    _, _, others, theirs, elsewhere = _flat(against)
    i, j = _pairs(images[order], others)
    there = overlapping(boxes[order][i], elsewhere[j])
    i, j = i[there], j[there]
    left = scores.copy()
    np.minimum.at(left, order[i], contested(scores[order[i]], theirs[j]).astype(left.dtype))
    out = np.isneginf(left[order])
    kept, gone = order[~out], order[out]
    refused = np.setdiff1d(images[gone], images[kept])
    kept = kept[np.argsort(-left[kept], kind="stable")][:k]
    hits = replace(views, images=images[None, kept], scores=left[None, kept], boxes=boxes[None, kept])
    return Fused(hits, v[kept], scores[gone], refused)


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All i, j with a[i] = b[j], of integers i64[n] and i64[m]."""
    by_value = np.argsort(a, kind="stable")
    low, high = (np.searchsorted(a[by_value], b, side) for side in ("left", "right"))
    n = high - low
    j = np.repeat(np.arange(len(b)), n)
    return by_value[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(low, n)], j


def overlapping(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether boxes f32[n, 4] share more than half of the smaller; so do those of which one is unknown: bool[n]."""
    return np.asarray((overlap(a, b) > 0.5) | np.isnan(a).any(axis=1) | np.isnan(b).any(axis=1))


def _flat(hits: Hits) -> tuple[np.ndarray, ...]:
    """Query, rank, image, score and box of all hits that are no padding."""
    q, rank = np.nonzero(hits.images >= 0)
    return q, rank, hits.images[q, rank], hits.scores[q, rank], hits.boxes[q, rank]
