"""The transform that most keypoint correspondences agree on, for many images at once (Philbin et al., CVPR 2007;
Chum, Matas and Kittler, "Locally optimized RANSAC", 2003).

A correspondence of two keypoints is a similarity by itself, so there are as many hypotheses to try as there are
correspondences, and no chance is involved. Keypoints are f32[m, 4] = x, y, scale, angle, the angle in degrees
clockwise on the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instsearch_plugins.numeric.geometry import Transform
from instsearch_plugins.numeric.ranking import ascending, leads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_plugins.numeric.geometry import Agreement

SCALES = (0.1, 10.0)  # plausible change of size
STRETCH = 4.0  # plausible ratio of an affine model's two scales
HYPOTHESES = 24  # of an image at most: its heaviest correspondences
CORRESPONDENCES = 750  # of an image at most: what bounds walls of one brick
REFINEMENTS = 2  # rounds of least squares at most
COMPARED = 75_000  # at once: what they miss by stays in the cache
FAR = 1e12  # in place of a correspondence that is not there

# What a correspondence misses by, along x and along y, is a product of four columns of a motion and four of it.
#   motion          -1  a00 a01 t0 | a10 a11 t1 -1
#   correspondence  x'  x   y   1  | x   y   1  y' | log2 s  cos phi  sin phi
# The middle three of a correspondence are the same ones on either side; the last three are how it changes.
ACROSS, DOWN = (slice(0, 4), slice(0, 4)), (slice(4, 8), slice(1, 5))
AFFINE, CHANGE = slice(1, 7), slice(5, 8)


class Found(NamedTuple):
    """What was found in each of n images.

    inliers    i64[n]: how many correspondences agree; 0 where no plausible transform has enough
    weight     f32[n]: the sum of their weights
    transform  f32[n, 6]: the rows of [A | t], x' = A x + t; NaN where there is none
    """

    inliers: np.ndarray
    weight: np.ndarray
    transform: np.ndarray

    @property
    def transforms(self) -> Transform:
        """A f32[n, 2, 2] and t f32[n, 2]."""
        rows = self.transform.reshape(-1, 2, 3)
        return Transform(rows[..., :2], rows[..., 2])


class _Pairs(NamedTuple):
    """Correspondences, by image: their columns f32[m, 8], their weights f32[m], and the image i64[m] of each.

    a, b: i64[m], numbers of the keypoints on either side, counted from 0 in each image.
    """

    columns: np.ndarray
    weight: np.ndarray
    image: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def at(self, index: np.ndarray) -> _Pairs:
        return _Pairs(*(field.take(index, axis=0) for field in self))


def verified(
    p: np.ndarray,
    q: np.ndarray,
    image: np.ndarray,
    keypoints: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray,
    n_images: int,
    agreement: Agreement,
    least: int = 1,
) -> Found:
    """The transform that takes most of a query's keypoints p to their partners q, for each image.

    h* = argmax_h n_h + e_h,   e_h = sum_{j agrees with h} w_j (1 - d_hj^2 / r^2) / (1 + sum_j w_j) < 1

    where h runs over the similarities that the image's correspondences are, d_hj is by how much correspondence j
    misses its partner under h, r the pixels that it may, and n_h counts those that agree, each keypoint once: the
    fewer of the distinct ones of either side. Where they are ``least`` or more, h* is refined by affine least squares
    on what agrees, for as long as that loses none.

    p, q f32[m, 4]; image i64[m] in [0, n_images); keypoints (i64[m], i64[m]), what numbers the p of the query and
    the q of each image: those at one point, with two angles say, are one; weight f32[m], not negative.
    ``agreement.pixels`` is one number, or one for each image. Of an image the CORRESPONDENCES heaviest count and the
    HYPOTHESES heaviest propose, heaviest to 1 / 65,536 of the largest weight.
    """
    kept, counts = _heaviest(image, weight, n_images)
    p, q, image, weight = (v.take(kept, axis=0) for v in (p, q, image, weight))
    starts = np.cumsum(counts) - counts
    a, b = (_numbered(image, keypoint.take(kept), starts) for keypoint in keypoints)
    pairs = _Pairs(_columns(p, q), weight, image, a, b)
    proposals = _similarities(pairs.columns)
    pixels = np.broadcast_to(np.maximum(agreement.pixels, 1e-3).astype(np.float32), (n_images,))

    inliers = np.zeros(n_images, np.int64)
    transform = np.full((n_images, 6), np.nan, np.float32)
    scratch = np.empty((2, COMPARED), np.float32)
    for images in _alike(counts):
        each = np.arange(counts[images].max())
        there = each < counts[images, None]
        at = np.where(there, starts[images, None] + each, 0)
        winner, inliers[images] = _best(
            proposals, pairs.at(at), at, there, pixels[images], agreement, scratch
        )
        transform[images] = proposals[winner, AFFINE]
    inliers[inliers < least] = 0
    transform[inliers == 0] = np.nan
    return _refined(transform, inliers, pairs, starts, pixels, agreement)


def _heaviest(image: np.ndarray, weight: np.ndarray, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """The CORRESPONDENCES heaviest of each image, image by image and heaviest first, and how many: i64[n_images]."""
    light = (1 - weight / max(float(weight.max(initial=0)), 1e-12)) * 0xFFFF
    order = ascending(image << 16 | light.astype(np.int64))
    counts = np.bincount(image, minlength=n_images)
    if counts.max(initial=0) > CORRESPONDENCES:
        rank = np.arange(len(image)) - (np.cumsum(counts) - counts)[image[order]]
        order, counts = order[rank < CORRESPONDENCES], np.minimum(counts, CORRESPONDENCES)
    return order, counts


def _numbered(image: np.ndarray, keypoint: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Keypoints i64[m] numbered anew from 0 within each image."""
    key = image.astype(np.int64) * (int(keypoint.max(initial=0)) + 1) + keypoint
    order = ascending(key)
    number = np.cumsum(leads(key[order]))
    numbered = np.empty_like(number)
    numbered[order] = number - number[starts[image]]  # ``image`` is in order already
    return numbered


def _columns(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Correspondences as the table above has them: f32[m, 8]."""
    columns = np.ones((len(p), 8), np.float32)
    columns[:, 0], columns[:, 4] = q[:, 0], q[:, 1]
    columns[:, 1:3] = p[:, :2]
    columns[:, 5] = np.log2(np.maximum(q[:, 2], 1e-6) / np.maximum(p[:, 2], 1e-6))
    turn = np.radians(q[:, 3] - p[:, 3])
    columns[:, 6], columns[:, 7] = np.cos(turn), np.sin(turn)
    return columns


def _motions(transform: np.ndarray) -> np.ndarray:
    """Transforms f32[n, 6] as the table above has them: f32[n, 8]."""
    motions = np.full((len(transform), 8), -1, np.float32)
    motions[:, AFFINE] = transform
    return motions


def _similarities(columns: np.ndarray) -> np.ndarray:
    """Of each correspondence A = s R(phi), t = x' - A x, as a motion f32[m, 8]."""
    x_, x, y, _, y_, growth, cos, sin = columns.T
    s = np.exp2(growth)
    c, d = s * cos, s * sin
    return _motions(np.stack([c, -d, x_ - (c * x - d * y), d, c, y_ - (d * x + c * y)], axis=1))


def _change(transform: np.ndarray) -> np.ndarray:
    """How transforms f32[n, 6] with det A > 0 change: log2 sqrt(det A), and the rotation nearest to A: f32[3, n]."""
    a, b, _, c, d, _ = transform.T
    norm = np.hypot(a + d, c - b)
    return np.stack([np.log2(a * d - b * c) / 2, (a + d) / norm, (c - b) / norm])


def _alike(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Images with about as many correspondences, so many as are compared at once; those without are left out."""
    order = np.argsort(-counts)[: np.count_nonzero(counts)]
    while len(order):
        most = int(counts[order[0]])
        several = max(1, COMPARED // (min(most, HYPOTHESES) * most))
        several = min(several, int(np.count_nonzero(counts[order] >= most // 4)))
        yield order[:several]
        order = order[several:]


def _missed(across: np.ndarray, down: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """d^2 / r^2 of what correspondences miss by, which is overwritten."""
    across *= across
    down *= down
    across += down
    across *= 1 / np.square(pixels)
    return across


def _alike_in(change: np.ndarray, other: np.ndarray, rule: Agreement) -> np.ndarray:
    """Which changes f32[3, k] are alike in scale and in turn: bool[k]."""
    agrees: np.ndarray = np.abs(change[0] - other[0]) < rule.octaves
    turn = change[1] * other[1] + change[2] * other[2]
    agrees &= turn > np.float32(np.cos(np.radians(min(rule.degrees, 180))))
    return agrees


def _best(
    proposals: np.ndarray,
    pairs: _Pairs,
    at: np.ndarray,
    there: np.ndarray,
    pixels: np.ndarray,
    agreement: Agreement,
    scratch: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The correspondence i64[B] that proposes best in each image, and how many agree with it i64[B].

    at i64[B, L]: where each image's correspondences are; there bool[B, L]: false where it has fewer. scratch
    f32[2, COMPARED]: fresh memory for every block of images takes longer than what is done in it.
    """
    (B, L), H = at.shape, min(HYPOTHESES, at.shape[1])
    motions, columns = proposals.take(at[:, :H], axis=0), np.ascontiguousarray(pairs.columns.swapaxes(1, 2))
    columns[:, 0][~there] = FAR
    across, down = (
        np.matmul(motions[..., u], columns[:, v], out=room[: B * H * L].reshape(B, H, L))
        for room, (u, v) in zip(scratch, (ACROSS, DOWN), strict=True)
    )
    missed = _missed(across, down, pixels[:, None, None]).reshape(-1)
    near = np.flatnonzero(missed < 1)
    hypothesis, j = np.divmod(near, L)
    first = np.arange(0, B * L, L)[:, None]
    pair = np.repeat(first, H).take(hypothesis) + j
    change = columns[:, CHANGE].swapaxes(0, 1).reshape(3, -1)
    own = (first + np.arange(H)).reshape(-1).take(hypothesis)
    agrees = np.flatnonzero(_alike_in(change.take(own, 1), change.take(pair, 1), agreement))
    hypothesis, pair, missed = hypothesis[agrees], pair[agrees], missed[near[agrees]]

    def distinct(number: np.ndarray) -> np.ndarray:
        seen = np.zeros((int(number.max()) + 1) * B * H, np.uint8)
        seen[number.reshape(-1)[pair] * (B * H) + hypothesis] = 1
        counts: np.ndarray = seen.reshape(-1, B, H).sum(axis=0, dtype=np.uint16)
        return counts

    n = np.minimum(distinct(pairs.a), distinct(pairs.b))
    growth = columns[:, CHANGE][:, 0, :H]
    n[~there[:, :H] | (growth < np.log2(SCALES[0])) | (growth > np.log2(SCALES[1]))] = 0
    weight = np.where(there, pairs.weight, 0)
    gain = weight.reshape(-1)[pair] * (1 - missed)
    support = np.bincount(hypothesis, gain, B * H).reshape(B, H)
    winner = (n + (n > 0) * support / (1 + weight.sum(axis=1, keepdims=True))).argmax(axis=1)
    each = np.arange(B)
    return at[each, winner], n[each, winner]


def _refined(
    transform: np.ndarray,
    inliers: np.ndarray,
    pairs: _Pairs,
    starts: np.ndarray,
    pixels: np.ndarray,
    agreement: Agreement,
) -> Found:
    """Least squares over what agrees, for all images at once, and what is found in the end."""
    image, n_images = pairs.image, len(inliers)
    sides = [starts[image] + number for number in (pairs.a, pairs.b)]

    def agreeing(transform: np.ndarray, some: np.ndarray) -> np.ndarray:
        """The correspondences of some images that agree with the transforms of these."""
        i = np.flatnonzero(some[image])
        of = image[i]
        motions, columns = _motions(transform).take(of, axis=0), pairs.columns.take(i, axis=0)
        across, down = (np.einsum("ij,ij->i", motions[:, u], columns[:, v]) for u, v in (ACROSS, DOWN))
        agrees = _missed(across, down, pixels[of]) < 1
        each = (np.cumsum(some) - 1)[of]
        agrees &= _alike_in(_change(transform[some]).take(each, axis=1), columns[:, CHANGE].T, agreement)
        kept: np.ndarray = i[agrees]
        return kept

    def counted(i: np.ndarray) -> np.ndarray:
        fewer = np.full(n_images, len(image))
        for side in sides:
            seen = np.zeros(len(image), bool)
            seen[side[i]] = True
            fewer = np.minimum(fewer, np.bincount(image[seen], minlength=n_images))
        return fewer

    going = inliers >= 3
    for _ in range(REFINEMENTS):
        i = agreeing(transform, going)
        if not len(i):
            break
        refined, possible = _affinities(pairs.columns[i], image[i], n_images)
        going &= possible
        n = counted(agreeing(refined, going))
        going &= n >= inliers
        transform[going] = refined[going]
        gained = going & (n > inliers)
        inliers, going = np.where(going, n, inliers), gained
    i = agreeing(transform, inliers > 0)
    weight = np.full(n_images, np.inf, np.float32)
    for side in sides:  # each keypoint by its heaviest correspondence
        heaviest = np.zeros(len(image), np.float32)
        np.maximum.at(heaviest, side[i], pairs.weight[i])
        weight = np.minimum(weight, np.bincount(image, heaviest, n_images))
    return Found(inliers, weight.astype(np.float32), transform)


def _affinities(columns: np.ndarray, image: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """argmin over A, t of sum_i |A x_i + t - x'_i|^2 for the correspondences of each image.

    Returns f32[n, 6] and bool[n]: whether it is plausible, which no fit to points on a line is.
    """

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(image, values, n)

    count = np.maximum(np.bincount(image, minlength=n), 1)
    points = columns[:, [1, 2, 0, 4]].T.astype(np.float64)
    centres = [summed(v) / count for v in points]
    x, y, x_, y_ = (v - centre[image] for v, centre in zip(points, centres, strict=True))
    xx, xy, yy = summed(x * x), summed(x * y), summed(y * y)
    det = xx * yy - xy * xy
    spread = det > 1e-6 * (xx + yy) ** 2
    inverse = np.divide(1, det, out=np.zeros(n), where=spread)
    rows = []
    for target, centre in ((x_, centres[2]), (y_, centres[3])):
        tx, ty = summed(target * x), summed(target * y)
        u, v = (tx * yy - ty * xy) * inverse, (ty * xx - tx * xy) * inverse
        rows += [u, v, centre - u * centres[0] - v * centres[1]]
    fitted = np.stack(rows, axis=1)
    return fitted.astype(np.float32), spread & plausible(fitted.reshape(-1, 2, 3)[..., :2])


def plausible(A: np.ndarray) -> np.ndarray:
    """Which affine models f[n, 2, 2] mirror nothing, and change size and shape as far as an object may: bool[n]."""
    (a, b), (c, d) = A.transpose(1, 2, 0)
    det = a * d - b * c
    turning, stretching = np.hypot(a + d, c - b) / 2, np.hypot(a - d, b + c) / 2
    large, small = turning + stretching, turning - stretching  # singular values
    fits: np.ndarray = (det >= SCALES[0] ** 2) & (det <= SCALES[1] ** 2) & (large <= STRETCH * small)
    return fits
