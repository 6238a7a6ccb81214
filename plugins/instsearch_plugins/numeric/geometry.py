"""Keypoints of two pictures: matching them, and transforms between them.

Keypoints are f32[n, 4] = x, y, scale, angle, the angle in degrees clockwise on the screen, where y points down.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Box


class Transform(NamedTuple):
    """x' = A x + t: A f32[..., 2, 2], t f32[..., 2]."""

    A: np.ndarray
    t: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Points f32[n, 2] under each transform: f32[..., n, 2]."""
        moved: np.ndarray = x @ np.swapaxes(self.A, -1, -2) + self.t[..., None, :]
        return moved

    def at(self, i: int) -> Transform:
        """One of several."""
        return Transform(self.A[i], self.t[i])


def ratio_matches(
    a: np.ndarray, pictures: Sequence[np.ndarray], ratio: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lowe's ratio test: for each picture b the pairs (i, j), b_j nearest to a_i, with
    |a_i - b_j| < ratio |a_i - b_j'|, and how distinct they are, 1 - |a_i - b_j|^2 / |a_i - b_j'|^2.

    j' is the second nearest; a picture that has none matches nothing. One product serves all pictures: small
    ones spend more time waiting for threads than multiplying. Descriptors a f32[n, D], b f32[m, D]. Returns
    (i64[k], i64[k], f32[k]) for each picture.
    Reference: Lowe 2004, section 7.1.
    """
    b = np.concatenate([*pictures, np.empty((0, a.shape[1]), np.float32)])
    squared = a @ (-2 * b).T
    squared += np.einsum("ij,ij->i", b, b)  # |a_i - b_j|^2 less |a_i|^2
    own, each = np.einsum("ij,ij->i", a, a), np.arange(len(a))
    ends = np.cumsum([0, *(len(picture) for picture in pictures)])
    pairs = []
    for first, last in pairwise(ends):
        distance = squared[:, first:last]
        if distance.shape[1] < 2:
            pairs.append((each[:0], each[:0], own[:0]))
            continue
        j = distance.argmin(axis=1)
        nearest = (distance[each, j] + own).clip(min=0)
        distance[each, j] = np.inf
        second = distance.min(axis=1) + own
        i = np.flatnonzero(nearest < ratio**2 * second)
        pairs.append((i, j[i], 1 - nearest[i] / second[i]))
    return pairs


@dataclass(frozen=True)
class Agreement:
    """When a pair of keypoints agrees with a transform."""

    pixels: float | np.ndarray  #: it misses its partner by less; or f32[n], in each of n pictures
    octaves: float = 1.0  #: its scale changes as the transform's does, up to this factor's log2
    degrees: float = 30.0  #: it turns as the transform does, up to this


def places(x: np.ndarray) -> np.ndarray:
    """A number for each distinct point of f32[n, 2]: i64[n]. Keypoints with two angles are one place."""
    both = np.ascontiguousarray(x[:, :2], np.float32).view(np.int64)[:, 0]
    number: np.ndarray = np.unique(both, return_inverse=True)[1]
    return number


def box_under(transform: Transform, box: Box, size: tuple[float, float] | np.ndarray) -> np.ndarray:
    """f32[..., 4]: the bounds of the ellipse in a box under each transform, clipped to a picture of (width, height).

    A c + t -+ sqrt((A o A) r^2),  c the box's centre, r half its sides: the box itself where nothing turns, and no
    wider where something does, as the bounds of the corners would be; what is in a box seldom fills its corners.
    size: of the one picture, or [..., 2] of each.
    """
    x0, y0, x1, y1 = box
    centre = transform(np.array([[x0 + x1, y0 + y1]], np.float32) / 2)[..., 0, :]
    half = np.linalg.norm(transform.A * (np.array([x1 - x0, y1 - y0], np.float32) / 2), axis=-1)
    bounds = np.concatenate([centre - half, centre + half], axis=-1)
    clipped: np.ndarray = np.clip(bounds, 0, np.tile(np.asarray(size), 2)).astype(np.float32)
    return clipped
