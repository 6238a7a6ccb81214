"""Geometric verification of keypoints (Lowe 2004; Philbin et al., CVPR 2007).

A hit whose keypoints agree with the query's on one transform is verified: it moves to the front, and the query's
box under that transform says where the object is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.data import BoxWeight, Features, Hits, Keypoints
from instsearch_cli.errors import UsageError
from instsearch_plugins.numeric.geometry import Agreement, Verified, box_under, ratio_matches, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from instsearch_cli.components import Data
    from instsearch_cli.data import Codes, Inputs, Query

PRODUCTS = 1 << 22  # pairs of keypoints compared at once


class Geometric:
    """score = inliers + the score before, for verified hits; the others keep score and order, after these."""

    @dataclass(frozen=True)
    class Config:
        depth: int = 100  #: how many of the best hits are looked at
        ratio: float = 0.95  #: Lowe's ratio test: a match is nearer than this share of the second nearest
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        octaves: float = 1.0  #: how far an inlier's change of scale may be from the transform's, in log2
        degrees: float = 30.0  #: how far an inlier's turn may be from the transform's
        min_inliers: int = 4  #: fewer inliers than this verify nothing

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes], int], Hits],
    ) -> Hits:
        """Verify the first ``depth`` hits of each query. Raises UsageError where features are no keypoints."""
        ranked = [self._ranked(query, hits, i, data) for i, query in enumerate(queries)]
        return Hits.stack(ranked, hits.images.shape[1])

    def _ranked(
        self, query: Query, hits: Hits, i: int, data: Data
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = hits.valid(i)
        images, scores, boxes = hits.images[i, :n], hits.scores[i, :n].copy(), hits.boxes[i, :n].copy()
        verified = np.zeros(n, bool)
        box = query.box or (0.0, 0.0, float(query.image.size[0]), float(query.image.size[1]))
        top = images[: self.config.depth].tolist()
        rank = {row: r for r, row in enumerate(top)}
        for candidate, found in self._verified(_inside(query), data.inputs(("features",), top)):
            r = rank[candidate.row]
            verified[r] = True
            scores[r] += found.inliers
            boxes[r] = box_under(found.transform, box, candidate.size)
        order = np.lexsort((np.arange(n), np.where(verified, -scores, 0), ~verified))
        return images[order], scores[order], boxes[order]

    def _verified(self, query: Arrays, candidates: Iterable[Inputs]) -> Iterator[tuple[Inputs, Verified]]:
        """The candidates that the query's keypoints are found in, a few at a time."""
        c, (descriptors, geometry) = self.config, query
        if len(descriptors) < c.min_inliers:
            return
        for group in _groups(candidates, PRODUCTS // len(descriptors)):
            matches = ratio_matches(descriptors, [values for _, (values, _) in group], c.ratio)
            for (inputs, (_, theirs)), (i, j) in zip(group, matches, strict=True):
                if len(i) < c.min_inliers:
                    continue
                agreement = Agreement(c.tolerance * max(inputs.size), c.octaves, c.degrees)
                found = verify(geometry[i], theirs[j], agreement)
                if found is not None and found.inliers >= c.min_inliers:
                    yield inputs, found


def _groups(candidates: Iterable[Inputs], keypoints: int) -> Iterator[list[tuple[Inputs, Arrays]]]:
    """Candidates with their keypoints, in groups that have about so many of these together."""
    group: list[tuple[Inputs, Arrays]] = []
    count = 0
    for inputs in candidates:
        group.append((inputs, _keypoints(inputs.features)))
        count += len(group[-1][1][0])
        if count >= keypoints:
            yield group
            group, count = [], 0
    if group:
        yield group


Arrays = tuple[np.ndarray, np.ndarray]
"""Descriptors f32[n, D] and geometry f32[n, 4]."""


def _keypoints(features: Features | None) -> Arrays:
    if not isinstance(features, Keypoints):
        raise UsageError(
            "the geometric reranker needs keypoints; this pipeline's extractor makes maps. "
            "Use --extractor sift, or another reranker"
        )
    return features.values.cpu().float().numpy(), features.geometry.cpu().float().numpy()


def _inside(query: Query) -> Arrays:
    """The query's keypoints in its box."""
    values, geometry = _keypoints(query.features)
    if query.box is None:
        return values, geometry
    inside = BoxWeight(query.box).over(query.features)[0].bool().cpu().numpy()
    return values[inside], geometry[inside]
