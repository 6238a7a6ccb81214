"""Aligning a picture with another by their gradients, from a coarse transform on (Lucas and Kanade 1981 in spirit;
by block matching and a robust fit, as Black and Anandan 1996 fit one motion to many).

Pictures are u8[h, w, 3]. Points are x, y in pixels; pixel (0, 0) covers [0, 1) x [0, 1). Homographies f64[3, 3] take
points of the first picture, the template, to the second. Blocks are BLOCK pixels wide, cells two blocks, one cell
beginning at each block: m x n cells of a template of BLOCK (m + 1) x BLOCK (n + 1) pixels.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided

BLOCK = 8
NOISE = 0.5  # mean square of the gradients of an even surface, in grey levels a pixel
STEPS = ((64, 3), (128, 3))  # longer side of the template, and by how many pixels cells are moved
AGREES = 0.4  # correlation from which a cell's move says something
ENOUGH = 8  # cells whose moves say something, of which a homography is found
FEW = 4  # of fewer nothing is
LITTLE = 1.2  # pixels: what is read at steps up to this is not averaged
MISSED = 1.5  # pixels: a move that misses the homography by these counts half
STIFFNESS = np.array(
    [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.1, 0.1]
)  # against leaving the identity: of each entry


class Correlations(NamedTuple):
    """What comparing a template's cells with a picture's gives.

    ncc f32[m, n]: the best over all moves; move i64[m, n, 2]: x, y of it; own, other f32[m, n]: mean squares of the
    gradients of both, the other's at that move.
    """

    ncc: np.ndarray
    move: np.ndarray
    own: np.ndarray
    other: np.ndarray


def gradients(picture: np.ndarray) -> np.ndarray:
    """The horizontal and vertical derivatives of each colour, blurred by a pixel: f32[6, h, w]."""
    found = np.empty((6, *picture.shape[:2]), np.float32)
    for colour, plane in enumerate(cv2.split(cv2.GaussianBlur(picture, (0, 0), 1.0))):
        cv2.Sobel(plane, cv2.CV_32F, 1, 0, found[colour], ksize=3, scale=1 / 8)
        cv2.Sobel(plane, cv2.CV_32F, 0, 1, found[3 + colour], ksize=3, scale=1 / 8)
    return found


class Reference:
    """A picture that others are aligned with: its gradients f32[6, h, w], and what is worked out of them once.

    energy f32[m, n]: mean squares of the gradients in each cell, NOISE higher.
    """

    def __init__(self, gradients: np.ndarray) -> None:
        self.gradients = gradients
        self.energy = cells(np.einsum("chw,chw->hw", gradients, gradients)) + NOISE

    @functools.cached_property
    def textured(self) -> np.ndarray:
        """The cells whose moves say something, which even ones' do not: bool[m, n]."""
        own = self.energy - NOISE
        textured: np.ndarray = own > 0.3 * np.median(own)
        return textured


def cells(x: np.ndarray) -> np.ndarray:
    """Means over the cells of f32[h, w]: f32[m, n]."""
    h, w = x.shape[0] // BLOCK, x.shape[1] // BLOCK
    return _joined(cv2.resize(x[: h * BLOCK, : w * BLOCK], (w, h), interpolation=cv2.INTER_AREA))


def _joined(b: np.ndarray) -> np.ndarray:
    """Cells out of blocks f32[..., m + 1, n + 1]: f32[..., m, n]."""
    rows = b[..., :-1, :] + b[..., 1:, :]
    joined: np.ndarray = (rows[..., :-1] + rows[..., 1:]) / 4
    return joined


def correlations(own: Reference, other: np.ndarray, reach: int) -> Correlations:
    """Normalised cross-correlation of each cell's gradients with those at all moves of a length up to ``reach``.

    ncc = max_d sum_c <g(x), g'(x + d)> / sqrt(sum_c |g(x)|^2 sum_c |g'(x + d)|^2)

    over the pixels x of the cell, sums of squares counted NOISE higher. other f32[6, h + 2 reach, w + 2 reach], the
    gradients of a picture with ``reach`` more on each side.
    """
    c, h, w = own.gradients.shape
    m, n = h // BLOCK, w // BLOCK
    squares = np.einsum("chw,chw->hw", other, other)
    summed = cv2.boxFilter(squares, cv2.CV_32F, (BLOCK, BLOCK), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    moves, sides = _moves(reach), (2 * reach + 1, 2 * reach + 1)
    blocks, (plane, line, pixel) = own.gradients.reshape(c, m, BLOCK, w), other.strides
    moved = as_strided(other, sides + blocks.shape, (line, pixel, plane, BLOCK * line, line, pixel))
    rows = np.zeros((*sides, m, w), np.float32)
    for y, some in enumerate(_reached(reach)):
        np.einsum("cmbw,xcmbw->xmw", blocks, moved[y, some], out=rows[y, some])
    x, y = moves.T
    line, pixel = summed.strides
    theirs = as_strided(summed, (*sides, m, n), (line, pixel, BLOCK * line, BLOCK * pixel))[y, x]
    mean = np.full(BLOCK, 1 / BLOCK**2, np.float32)
    product = _joined((rows.reshape(-1, BLOCK) @ mean).reshape(*sides, m, n)[y, x])
    theirs = _joined(theirs) + NOISE
    r = product / np.sqrt(own.energy * theirs)
    best = r.argmax(axis=0)  # of equals the shortest
    there = best, np.arange(m - 1)[:, None], np.arange(n - 1)
    return Correlations(r[there], moves[best] - reach, own.energy - NOISE, theirs[there] - NOISE)


@functools.cache
def _moves(reach: int) -> np.ndarray:
    """All moves of a length up to ``reach``, the shortest first, counted from -reach: i64[k, 2]."""
    x, y = np.indices((2 * reach + 1, 2 * reach + 1)).reshape(2, -1)
    length = np.square(x - reach) + np.square(y - reach)
    order = np.argsort(length, kind="stable")[: np.count_nonzero(length <= reach**2)]
    return np.column_stack([x, y])[order]


@functools.cache
def _reached(reach: int) -> list[slice]:
    """The x of these moves for each y."""
    far = [math.isqrt(reach**2 - y**2) for y in range(-reach, reach + 1)]
    return [slice(reach - x, reach + x + 1) for x in far]


def warped(
    picture: np.ndarray, H: np.ndarray, size: tuple[int, int], margin: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A picture as a template of (width, height) pixels sees it, with a margin all around.

    What is reduced is averaged first. Returns u8[h, w, 3] and which pixels are in the picture, bool[h, w].
    """
    w, h = size[0] + 2 * margin, size[1] + 2 * margin
    H = H @ _moved(-margin, -margin)
    corners = applied(H, np.array([[0, 0], [w, 0], [w, h], [0, h]], float))
    low = np.clip(np.floor(corners.min(axis=0)) - 2, 0, None).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, picture.shape[1::-1]).astype(int)
    part = picture[low[1] : high[1], low[0] : high[0]]
    if min(part.shape[:2]) < 2:
        return np.zeros((h, w, 3), np.uint8), np.zeros((h, w), bool)
    part, scale = averaged(part, magnification(H, size))
    # OpenCV counts from the centre of the first pixel
    H = _moved(-0.5, -0.5) @ np.diag([scale, scale, 1]) @ _moved(*-low) @ H @ _moved(0.5, 0.5)
    flags = cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(
        part, H, (w, h), flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inside = cv2.warpPerspective(
        np.ones(part.shape[:2], np.uint8), H, (w, h), flags=flags | cv2.INTER_NEAREST
    )
    return seen, inside > 0


def averaged(picture: np.ndarray, step: float) -> tuple[np.ndarray, float]:
    """A picture u8[h, w, 3] to be read every ``step`` pixels, averages of about so many: smaller, and by how much.

    By halves, which is what OpenCV does fast; what is left is blurred as a mean over so many pixels would, whose
    variance is (step^2 - 1) / 12.
    """
    scale = 1.0
    while step >= 2 and min(picture.shape[:2]) >= 4:
        h, w = (side // 2 for side in picture.shape[:2])
        picture = cv2.resize(picture[: 2 * h, : 2 * w], (w, h), interpolation=cv2.INTER_AREA)
        step, scale = step / 2, scale / 2
    if step > LITTLE:
        picture = cv2.GaussianBlur(picture, (3, 3), min(math.sqrt((step**2 - 1) / 12), 1))
    return picture, scale


def _moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def applied(H: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points f64[n, 2] under a homography."""
    moved = np.column_stack([points, np.ones(len(points))]) @ H.T
    z = moved[:, 2:]
    result: np.ndarray = moved[:, :2] / np.where(np.abs(z) < 1e-9, 1e-9, z)
    return result


def magnification(H: np.ndarray, size: tuple[int, int]) -> float:
    """By how much a homography enlarges lengths in the middle of a template of (width, height) pixels."""
    x, y = size[0] / 2, size[1] / 2
    z = H[2] @ [x, y, 1]
    return float(np.sqrt(np.abs(np.linalg.det(H) / z**3)))


def homography(p: np.ndarray, q: np.ndarray, weight: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The homography that takes points p f64[n, 2] of a template to about q, not far from the identity.

    argmin_H sum_i w_i / (1 + e_i^2 / MISSED^2) |(h_1 p_i, h_2 p_i) - (h_3 p_i) q_i|^2 + sum_k s_k (h_k - I_k)^2 sum w

    with e_i by how many pixels it misses, by iterated least squares; coordinates counted from the template's middle in
    halves of its longer side.
    """
    centre, half = np.array(size) / 2, max(size) / 2
    x, y = (p - centre) / half, (q - centre) / half
    X, nothing = np.column_stack([x, np.ones(len(x))]), np.zeros((len(x), 3))
    rows = np.concatenate([np.hstack([X, nothing, -y[:, :1] * x]), np.hstack([nothing, X, -y[:, 1:] * x])])
    target, identity = y.T.reshape(-1), np.array([1.0, 0, 0, 0, 1, 0, 0, 0])
    stiff = np.diag(STIFFNESS * weight.sum())
    w = weight
    for _ in range(5):
        weighted = (rows.reshape(2, -1, 8) * w[:, None]).reshape(-1, 8).T
        h = np.linalg.solve(weighted @ rows + stiff, weighted @ target + stiff @ identity)
        z = X @ [*h[6:], 1]
        missed = (rows @ h - target).reshape(2, -1) / np.where(np.abs(z) < 1e-9, 1e-9, z)
        w = weight / (1 + np.square(missed * (half / MISSED)).sum(axis=0))
    H = np.append(h, 1).reshape(3, 3)
    into = np.array([[1 / half, 0, -centre[0] / half], [0, 1 / half, -centre[1] / half], [0, 0, 1]])
    return np.asarray(np.linalg.inv(into) @ H @ into)


def centres(shape: tuple[int, int]) -> np.ndarray:
    """x, y of the centres of m x n cells: f64[m, n, 2]."""
    y, x = np.indices(shape)
    return np.stack([x + 1, y + 1], axis=-1).astype(float) * BLOCK


def registered(templates: list[Reference], picture: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, bool]:
    """A coarse homography of templates to a picture made finer, template by template, and whether each found enough.

    templates: one picture at several sizes; H takes points of the unit square, which it fills.
    """
    for (_, reach), own in zip(STEPS, templates, strict=True):
        h, w = own.gradients.shape[1:]
        seen, inside = warped(picture, H @ np.diag([1 / w, 1 / h, 1]), (w, h), reach)
        found = correlations(own, gradients(seen), reach)
        there = cells(inside[reach : reach + h, reach : reach + w].astype(np.float32)) > 0.9
        sure = np.clip(found.ncc - AGREES, 0, None) ** 2 * np.sqrt(np.minimum(found.own, found.other).clip(0))
        weight = np.where(there & own.textured, sure, 0)
        some = weight > 0
        if (n := np.count_nonzero(some)) < ENOUGH:
            return H, bool(n >= FEW)
        p = centres(some.shape)[some]
        finer = homography(p, p + found.move[some], weight[some], (w, h))
        H = H @ np.diag([1 / w, 1 / h, 1]) @ finer @ np.diag([w, h, 1])
    return H, True
