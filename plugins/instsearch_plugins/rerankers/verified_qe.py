"""Query expansion from verified hits alone (Chum et al., "Total Recall", ICCV 2007, section 4), over visual words at
keypoints: what is stored is enough, no picture is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from instsearch_cli.data import BoxWeight, Hits, Words
from instsearch_cli.errors import UsageError
from instsearch_plugins.numeric import hamming
from instsearch_plugins.numeric.geometry import Agreement, Transform, places
from instsearch_plugins.numeric.hypotheses import CORRESPONDENCES, verified
from instsearch_plugins.numeric.ranking import occurrences
from instsearch_plugins.rerankers.hit_by_hit import Ranked, Verifying, box_of, hits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instsearch_cli.components import Data
    from instsearch_cli.data import Codes, Query
    from instsearch_plugins.numeric.hypotheses import Found

SIGMA = 24.0  # matches count exp(-h^2 / sigma^2) at h bits


class Points(NamedTuple):
    """Keypoints: words i64[n], geometry f32[n, 4], signatures i64[n] where there are any."""

    words: np.ndarray
    geometry: np.ndarray
    signatures: np.ndarray | None

    def at(self, i: np.ndarray) -> Points:
        signatures = None if self.signatures is None else self.signatures[i]
        return Points(self.words[i], self.geometry[i], signatures)


def matches(a: Points, b: Points, threshold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j) with a_i = b_j whose signatures differ in h <= threshold bits, CORRESPONDENCES at most.

    w_ij = exp(-h^2 / sigma^2) / n_j,  n_j keypoints of b having the word of j; without signatures h = 0

    Returns i, j i64[m] and w f32[m]: the heaviest.
    """
    order = np.argsort(b.words, kind="stable")
    first, last = (np.searchsorted(b.words[order], a.words, side) for side in ("left", "right"))
    many = last - first
    i = np.repeat(np.arange(len(a.words)), many)
    j = order[np.arange(len(i)) + np.repeat(first - (np.cumsum(many) - many), many)]
    w = (1 / np.maximum(many, 1)).astype(np.float32)[i]
    if a.signatures is not None and b.signatures is not None:
        h = hamming.distances(a.signatures[i].view(np.uint64), b.signatures[j].view(np.uint64))
        w = w * hamming.weights(SIGMA, threshold)[h]
    kept = np.argsort(-w, kind="stable")[: min(CORRESPONDENCES, int(np.count_nonzero(w)))]
    return i[kept], j[kept], w[kept]


def agreed(config: Any, own: Points, theirs: Sequence[Points], sizes: Sequence[tuple[int, int]]) -> Found:
    """What keypoints agree on with those of each of some pictures, one at least, of these (width, height).

    config: options ht, tolerance, octaves, degrees and min_inliers of a reranker.
    """
    pairs = [matches(own, other, config.ht) for other in theirs]
    i, w = (np.concatenate([pair[column] for pair in pairs]) for column in (0, 2))
    q = np.concatenate([other.geometry[j] for other, (_, j, _) in zip(theirs, pairs, strict=True)])
    image = np.repeat(np.arange(len(theirs)), [len(pair[0]) for pair in pairs])
    pixels = config.tolerance * np.array(sizes, np.float32).max(axis=1)
    agreement = Agreement(pixels, config.octaves, config.degrees)
    points = places(own.geometry)[i], places(q)
    return verified(own.geometry[i], q, image, points, w, len(theirs), agreement, config.min_inliers)


def mapped_back(geometry: np.ndarray, transform: Transform) -> np.ndarray:
    """Keypoints f32[n, 4] before a transform: x = A^-1 (x' - t), s = s' / sqrt(det A), angle = angle' - phi."""
    A, t = transform
    x = (geometry[:, :2] - t) @ np.linalg.inv(A).T
    s = geometry[:, 2] / np.sqrt(np.linalg.det(A))
    phi = np.degrees(np.arctan2(A[1, 0] - A[0, 1], A[0, 0] + A[1, 1]))
    back: np.ndarray = np.column_stack([x, s, (geometry[:, 3] - phi) % 360]).astype(np.float32)
    return back


def unseen(own: Points, others: Points, cell: float) -> np.ndarray:
    """Which of the other keypoints have no word that another before them, or an own one, has in the same cell.

    cell: side of the squares that the picture is cut into, in pixels. Returns i64[n], ascending.
    """
    words = np.concatenate([own.words, others.words])
    x = np.floor(np.concatenate([own.geometry[:, :2], others.geometry[:, :2]]) / cell)
    first = np.unique(np.column_stack([words, x]), axis=0, return_index=True)[1]
    return np.sort(first[first >= len(own.words)]) - len(own.words)


class VerifiedQueryExpansion(Verifying):
    """Searches again with the query and the keypoints of its verified hits, brought into the query's frame.

    A hit is verified by the words that it shares with the query (and their signatures), at places that agree on a
    transform. Its keypoints that this takes into the query's box are the query's too, but for those whose word is
    there already. The verified hits stay first, with their scores; the others follow in the order, and with the
    scores, of the expanded query, up to the last verified hit's. Where no hit is verified all stay as they are.
    """

    @dataclass(frozen=True)
    class Config:
        depth: int = 10  #: how many of the best hits are looked at
        min_inliers: int = 4  #: fewer inliers than this verify nothing
        min_weight: float = 1.5  #: nor does less than this sum of the inliers' weights w_ij
        ht: int = 36  #: bits out of 64 in which the signatures of a match differ at most
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        octaves: float = 1.0  #: how far an inlier's change of scale may be from the transform's, in log2
        degrees: float = 30.0  #: how far an inlier's turn may be from the transform's

        def __post_init__(self) -> None:
            if min(self.depth, self.min_inliers) < 1 or not 0 <= self.ht <= hamming.BITS:
                raise ValueError(f"depth and min_inliers are at least 1, ht is 0 to {hamming.BITS}")

    config: Config
    on_device: ClassVar[bool] = False
    several: ClassVar[bool] = True

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes | Query], int], Hits],
    ) -> Hits:
        """The hits of the expanded queries. Raises UsageError where queries are not words at keypoints."""
        before = [hits_of(hits, i) for i in range(len(queries))]
        widened = [
            expanded(self.config, query, ranked[0], data)
            for query, ranked in zip(queries, before, strict=True)
        ]
        asked = [more[0] for more in widened if more is not None]
        if not asked:
            return hits
        k = hits.images.shape[1]
        found = search(asked, k)
        again = iter(range(len(asked)))
        return Hits.stack(
            [
                ranked if more is None else _in_turn(ranked, more[1], hits_of(found, next(again)))
                for ranked, more in zip(before, widened, strict=True)
            ],
            k,
        )


def expanded(
    config: VerifiedQueryExpansion.Config, query: Query, rows: np.ndarray, data: Data
) -> tuple[Query, np.ndarray] | None:
    """The query with the keypoints of the verified ones among its best hits, and their rows; None without any."""
    c, box = config, box_of(query)
    local = query.local
    asked = points_of(local)
    own = asked.at(inside_box(asked, box))
    theirs, sizes, there = [], [], []
    rows = rows[(occurrences(rows) == 0) & ~np.isin(rows, list(query.exclude))]
    for inputs in data.inputs(("local",), rows[: c.depth]):
        theirs.append(points_of(inputs.local))
        sizes.append(inputs.size)
        there.append(inputs.row)
    if not theirs or not len(own.words):
        return None
    found = agreed(c, own, theirs, sizes)
    added = []
    sure = (found.inliers > 0) & (found.weight >= c.min_weight)
    for n in np.flatnonzero(sure).tolist():
        shown = theirs[n]._replace(geometry=mapped_back(theirs[n].geometry, found.transforms.at(n)))
        added.append(shown.at(inside_box(shown, box)))
    if not added:
        return None
    more = joined(added)
    more = more.at(unseen(own, more, c.tolerance * max(box[2] - box[0], box[3] - box[1])))
    return _with(query, joined([asked, more]), data), np.array(there)[sure]


def _in_turn(before: Ranked, verified: np.ndarray, found: Ranked) -> Ranked:
    """The verified hits as they were, then what the expanded query found, as sure as the last of these at most.

    Further places in verified hits are among the others.
    """
    first = np.isin(before[0], verified)
    images, scores, boxes = (column[first] for column in before)
    others = ~np.isin(found[0], verified)
    capped = np.minimum(found[1][others], scores[occurrences(images) == 0].min())
    order = np.argsort(-np.concatenate([scores, capped]), kind="stable")
    return (
        np.concatenate([images, found[0][others]])[order],
        np.concatenate([scores, capped])[order],
        np.concatenate([boxes, found[2][others]])[order],
    )


def points_of(local: object) -> Points:
    """The words of keypoints; one that has none stays, as word -1."""
    if not isinstance(local, Words) or local.geometry is None:
        raise UsageError(
            "rerankers verified-qe and aligned need words at keypoints: take --extractor sift --encoder bovw, or "
            "--rerank lqe"
        )
    return Points(local.words.astype(np.int64), local.geometry, local.signatures)


def inside_box(points: Points, box: Sequence[float] | np.ndarray) -> np.ndarray:
    """Those that have a word and are in the box: i64[n]."""
    (x, y), (x0, y0, x1, y1) = points.geometry[:, :2].T, box
    return np.flatnonzero((points.words >= 0) & (x >= x0) & (x < x1) & (y >= y0) & (y < y1))


def joined(parts: Sequence[Points]) -> Points:
    words = np.concatenate([part.words for part in parts])
    geometry = np.concatenate([part.geometry for part in parts])
    signatures = [part.signatures for part in parts if part.signatures is not None]
    return Points(words, geometry, np.concatenate(signatures) if len(signatures) == len(parts) else None)


def _with(query: Query, points: Points, data: Data) -> Query:
    """The query with these keypoints for its own, and the codes that they give."""
    assert isinstance(query.local, Words)
    local = replace(
        query.local,
        words=points.words.astype(np.int32),
        geometry=points.geometry,
        signatures=points.signatures,
    )
    within = query.weights if query.box is None else BoxWeight(query.box, query.weights)
    return replace(query, local=local, codes=data.encoder.aggregate(local, within, None))
