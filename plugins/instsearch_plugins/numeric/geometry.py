"""Keypoints of two pictures: matching them, and the transform that most of the matches agree on.

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

SCALES = (0.1, 10.0)  # plausible change of size
STRETCH = 4.0  # plausible ratio of an affine model's two scales
REFINEMENTS = 4  # rounds of least squares at most


class Transform(NamedTuple):
    """x' = A x + t: A f32[..., 2, 2], t f32[..., 2]."""

    A: np.ndarray
    t: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Points f32[n, 2] under each transform: f32[..., n, 2]."""
        moved: np.ndarray = x @ np.swapaxes(self.A, -1, -2) + self.t[..., None, :]
        return moved

    @property
    def scale(self) -> np.ndarray:
        """sqrt |det A|"""
        scale: np.ndarray = np.sqrt(np.abs(np.linalg.det(self.A)))
        return scale

    @property
    def angle(self) -> np.ndarray:
        """The rotation nearest to A, in degrees."""
        A = self.A
        turn = np.arctan2(A[..., 1, 0] - A[..., 0, 1], A[..., 0, 0] + A[..., 1, 1])
        angle: np.ndarray = np.degrees(turn)
        return angle


class Verified(NamedTuple):
    """A transform and how many one-to-one pairs agree with it."""

    transform: Transform
    inliers: int


def ratio_matches(
    a: np.ndarray, pictures: Sequence[np.ndarray], ratio: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lowe's ratio test: for each picture b the pairs (i, j), b_j nearest to a_i, with
    |a_i - b_j| < ratio |a_i - b_j'|.

    j' is the second nearest; a picture that has none matches nothing. One product serves all pictures: small
    ones spend more time waiting for threads than multiplying. Descriptors a f32[n, D], b f32[m, D]. Returns
    (i64[k], i64[k]) for each picture.
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
            pairs.append((each[:0], each[:0]))
            continue
        j = distance.argmin(axis=1)
        nearest = (distance[each, j] + own).clip(min=0)
        distance[each, j] = np.inf
        i = np.flatnonzero(nearest < ratio**2 * (distance.min(axis=1) + own))
        pairs.append((i, j[i]))
    return pairs


def similarities(p: np.ndarray, q: np.ndarray) -> Transform:
    """The similarity that each pair of keypoints is by itself.

    A = s R(phi), t = x' - A x,  s = s' / s,  phi = angle' - angle

    p, q f32[m, 4] -> A f32[m, 2, 2], t f32[m, 2].
    """
    s = q[:, 2] / np.maximum(p[:, 2], 1e-6)
    phi = np.radians(q[:, 3] - p[:, 3])
    cos, sin = s * np.cos(phi), s * np.sin(phi)
    A = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    return Transform(A, q[:, :2] - (A @ p[:, :2, None])[..., 0])


def affinity(x: np.ndarray, y: np.ndarray) -> Transform | None:
    """argmin over A, t of sum_i |A x_i + t - y_i|^2 for points f32[n, 2]; None if the x_i lie on a line."""
    centre, target = x.mean(axis=0), y.mean(axis=0)
    A, _, rank, _ = np.linalg.lstsq(x - centre, y - target, rcond=1e-3)
    return Transform(A.T, target - A.T @ centre) if rank == 2 else None


def plausible(A: np.ndarray) -> bool:
    """Whether A f32[2, 2] neither mirrors nor squeezes: det A > 0, scale and stretch within bounds."""
    if np.linalg.det(A) <= 0:
        return False
    large, small = np.linalg.svd(A, compute_uv=False)
    return bool(SCALES[0] <= np.sqrt(large * small) <= SCALES[1] and large <= STRETCH * small)


@dataclass(frozen=True)
class Agreement:
    """When a pair of keypoints agrees with a transform."""

    pixels: float  #: it misses its partner by less
    octaves: float = 1.0  #: its scale changes as the transform's does, up to this factor's log2
    degrees: float = 30.0  #: it turns as the transform does, up to this

    def of(self, transform: Transform, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """bool[..., m] for the pairs p, q f32[m, 4] and each transform."""
        miss = transform(p[:, :2]) - q[:, :2]
        grown = np.log2(np.maximum(q[:, 2], 1e-6) / np.maximum(p[:, 2], 1e-6))
        turned = q[:, 3] - p[:, 3]
        scale = np.maximum(transform.scale, 1e-6)
        off = (turned - transform.angle[..., None] + 180) % 360 - 180
        agrees: np.ndarray = np.square(miss).sum(axis=-1) < self.pixels**2
        agrees &= np.abs(grown - np.log2(scale)[..., None]) < self.octaves
        agrees &= np.abs(off) < self.degrees
        return agrees


def places(x: np.ndarray) -> np.ndarray:
    """A number for each distinct point of f32[n, 2]: i64[n]. Keypoints with two angles are one place."""
    number: np.ndarray = np.unique(x[:, 0] + 1j * x[:, 1], return_inverse=True)[1]
    return number


def one_to_one(agrees: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many pairs remain where each place takes part in one at most: min of the distinct places.

    agrees bool[h, m]; a and b i64[m], the places of the pairs on each side. Returns i64[h].
    """
    h, pair = np.nonzero(agrees)

    def distinct(place: np.ndarray) -> np.ndarray:
        seen = np.zeros((len(agrees), int(place.max(initial=0)) + 1), bool)
        seen[h, place[pair]] = True
        count: np.ndarray = seen.sum(axis=1)
        return count

    fewer: np.ndarray = np.minimum(distinct(a), distinct(b))
    return fewer


def verify(p: np.ndarray, q: np.ndarray, agreement: Agreement) -> Verified | None:
    """The transform that takes most keypoints p to their partners q.

    Every pair proposes the similarity that it is; the one that most pairs agree with is refined by affine
    least squares on them for as long as that loses none. No chance is involved. p, q f32[m, 4]. Returns
    None where no proposal is plausible.
    Reference: Philbin et al., CVPR 2007, section 5.
    """
    proposals = similarities(p, q)
    likely = np.flatnonzero((proposals.scale >= SCALES[0]) & (proposals.scale <= SCALES[1]))
    if not len(likely):
        return None
    proposals = Transform(proposals.A[likely], proposals.t[likely])
    agrees = agreement.of(proposals, p, q)
    a, b = places(p[:, :2]), places(q[:, :2])
    counts = one_to_one(agrees, a, b)
    winner = int(counts.argmax())
    best = Verified(Transform(proposals.A[winner], proposals.t[winner]), int(counts[winner]))
    pairs = agrees[winner]
    for _ in range(REFINEMENTS):
        refined = affinity(p[pairs, :2], q[pairs, :2]) if best.inliers >= 3 else None
        if refined is None or not plausible(refined.A):
            break
        pairs = agreement.of(refined, p, q)
        count = int(one_to_one(pairs[None], a, b)[0])
        if count < best.inliers:
            break
        gained, best = count > best.inliers, Verified(refined, count)
        if not gained:
            break
    return best


def box_under(transform: Transform, box: Box, size: tuple[float, float]) -> np.ndarray:
    """f32[4]: the bounds of a box's corners under a transform, clipped to a picture of (width, height)."""
    x0, y0, x1, y1 = box
    corners = transform(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32))
    bounds = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    clipped: np.ndarray = np.clip(bounds, 0, np.array([*size, *size])).astype(np.float32)
    return clipped
