"""Geometric verification of keypoints (Lowe 2004; Philbin et al., CVPR 2007).

A hit whose keypoints agree with the query's on one transform is verified: it moves to the front, and the query's
box under that transform says where the object is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsearch_plugins.numeric.geometry import Agreement, places, ratio_matches
from instsearch_plugins.numeric.hypotheses import Found, verified
from instsearch_plugins.rerankers.hit_by_hit import ByInliers, keypoints_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instsearch_cli.data import Inputs, Keypoints, Query

PRODUCTS = 1 << 22  # pairs of keypoints compared at once


class Geometric(ByInliers):
    """score = inliers + the score before, for verified hits; the others keep score and order, after these.

    The matches that are most distinct, by Lowe's ratio, propose the transforms.
    """

    @dataclass(frozen=True)
    class Config:
        depth: int = 100  #: how many of the best hits are looked at
        ratio: float = 0.95  #: Lowe's ratio test: a match is nearer than this share of the second nearest
        tolerance: float = 0.04  #: how far an inlier may miss, as a share of the picture's longer side
        octaves: float = 1.0  #: how far an inlier's change of scale may be from the transform's, in log2
        degrees: float = 30.0  #: how far an inlier's turn may be from the transform's
        min_inliers: int = 4  #: fewer inliers than this verify nothing

    config: Config
    on_device: ClassVar[bool] = False

    def _found(self, query: Query, candidates: Iterable[Inputs]) -> Iterator[tuple[list[Inputs], Found]]:
        """What the query's keypoints agree on in the candidates, some of these at a time."""
        c, asked = self.config, keypoints_of(query.features, query.box)
        descriptors, geometry = asked.values, asked.geometry
        if len(descriptors) < c.min_inliers:
            return
        points = places(geometry)
        for group in _groups(candidates, PRODUCTS // len(descriptors)):
            matches = ratio_matches(descriptors, [points.values for _, points in group], c.ratio)
            i, distinct = (np.concatenate([match[side] for match in matches]) for side in (0, 2))
            q = np.concatenate(
                [points.geometry[j] for (_, points), (_, j, _) in zip(group, matches, strict=True)]
            )
            image = np.repeat(np.arange(len(group)), [len(match[0]) for match in matches])
            pixels = c.tolerance * np.array([max(inputs.size) for inputs, _ in group], np.float32)
            agreement = Agreement(pixels, c.octaves, c.degrees)
            found = verified(
                geometry[i], q, image, (points[i], places(q)), distinct, len(group), agreement, c.min_inliers
            )
            yield [inputs for inputs, _ in group], found


def _groups(candidates: Iterable[Inputs], keypoints: int) -> Iterator[list[tuple[Inputs, Keypoints]]]:
    """Candidates with their keypoints, in groups that have about so many of these together."""
    group: list[tuple[Inputs, Keypoints]] = []
    count = 0
    for inputs in candidates:
        group.append((inputs, keypoints_of(inputs.features, None)))
        count += len(group[-1][1].values)
        if count >= keypoints:
            yield group
            group, count = [], 0
    if group:
        yield group
