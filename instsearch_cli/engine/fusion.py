"""One list of hits out of those of several views of one object, and of what it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from instsearch_cli.data import Hits


class Fused(NamedTuple):
    """Hits of one question.

    hits     one row of n hits, best first, without padding
    views    i64[n]: the view that each is of
    dropped  f[m]: the scores of hits that the negatives took from among the first
    """

    hits: Hits
    views: np.ndarray
    dropped: np.ndarray

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
    return Fused(row, np.zeros(n, np.int64), np.zeros(0, np.float32))


def fuse(views: Hits, against: Hits, k: int) -> Fused:
    """The first k of the images that some view finds and no negative fits as well; each as its best view has it.

    s(i) = max_v s_v(i),  i stays where s(i) > s_n(i) for every negative n

    views, against: a row of hits for each view and each negative, best first; an image that is not in a row scores
    nothing there. Ties go by the rank in the view's own list, then by row, so that the order of the views is all one.
    """
    v, rank, images, scores, boxes = _flat(views)
    corners = np.where(np.isnan(boxes), np.inf, boxes)
    order = np.lexsort((v, *corners.T, images, rank, -scores))
    rows, first, image = np.unique(images[order], return_index=True, return_inverse=True)
    best = scores[order][first]
    of_best = v[order] == v[order][first][image]
    order, image = order[of_best], image[of_best]

    _, _, others, theirs, _ = _flat(against)
    shared = np.isin(others, rows)
    place = np.searchsorted(rows, others[shared])
    beaten = np.zeros(len(rows), bool)
    beaten[place[theirs[shared] >= best[place]]] = True

    out = beaten[image]
    kept, gone = order[~out][:k], order[:k][out[:k]]
    hits = replace(views, images=images[None, kept], scores=scores[None, kept], boxes=boxes[None, kept])
    return Fused(hits, v[kept], scores[gone])


def _flat(hits: Hits) -> tuple[np.ndarray, ...]:
    """Query, rank, image, score and box of all hits that are no padding."""
    q, rank = np.nonzero(hits.images >= 0)
    return q, rank, hits.images[q, rank], hits.scores[q, rank], hits.boxes[q, rank]
