"""Whether two aligned pictures look alike, cell by cell: in gradients, and in hue but for the light's.

What tells look-alikes is a part that should agree, since all around it does, and does not. Edges agree with any edge of
their direction, so that cells count by their corners (Shi and Tomasi 1994), and a hand in front has few.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np

from instsearch_plugins.numeric.registration import (
    BLOCK,
    NOISE,
    STEPS,
    Reference,
    cells,
    correlations,
    gradients,
    magnification,
    registered,
    warped,
)

SIDE = 192  # longer side of the template on which pictures are compared
REACH = 3  # pixels by which cells are moved still
LOW, HIGH = 0.5, 0.8  # correlation from which a cell agrees a little, and wholly
AGREES = 0.6  # correlation from which a cell is taken to agree
SHORT = 0.25  # by how much less than those a cell disagrees
NEUTRAL = 0.12  # saturation below which white balance is read off
OUTSIDE = 225  # what is out of a picture, where it is shown
COLOURED = 0.05  # chroma below which there is no hue


class Whole(Reference):
    """A picture u8[h, w, 3] to compare others with, cell by cell."""

    def __init__(self, picture: np.ndarray) -> None:
        super().__init__(gradients(picture))
        self.picture = picture

    @functools.cached_property
    def corners(self) -> np.ndarray:
        """By how much each cell counts: f32[m, n], which sums to 1 at most; 0 where it is even."""
        corners, own = cornerness(self.gradients), self.energy - NOISE
        textured = own > 0.02 * np.quantile(own, 0.9)
        return np.where(textured, corners / max(float(corners.sum()), 1e-6), 0)


class Template(NamedTuple):
    """A picture, or a box of it, to compare others with, and the same at the sizes of STEPS."""

    whole: Whole
    steps: list[Reference]


class Compared(NamedTuple):
    """A picture aligned with a template. Cells as in registration.

    own      u8[h, w, 3]: the template, as blurred as the picture
    picture  u8[h, w, 3], as the template sees it
    H        f64[3, 3]: where the template's points are in the picture
    ncc      f32[m, n]: how well the gradients agree
    region   bool[m, n]: the convex hull of the cells that agree
    corners  f32[m, n]: by how much each cell counts, which sums to 1 over the template
    texture  f32[m, n]: how strong the picture's gradients are by the template's, where those agree being 1; 1 at most
    """

    own: np.ndarray
    picture: np.ndarray
    H: np.ndarray
    ncc: np.ndarray
    region: np.ndarray
    corners: np.ndarray
    texture: np.ndarray

    @property
    def agreement(self) -> float:
        """The share of the template that agrees: sum_region c_i clip((ncc_i - LOW) / (HIGH - LOW), 0, 1)."""
        alike = np.clip((self.ncc - LOW) / (HIGH - LOW), 0, 1)
        return float((self.corners * alike)[self.region].sum())

    @property
    def detail(self) -> float:
        """Pixels of the picture for each of the template's, along a side, 1 at most."""
        h, w = self.own.shape[:2]
        return min(magnification(self.H, (w, h)), 1.0)

    @property
    def weighed(self) -> float:
        """Agreement times detail: where few pixels were enlarged to many, much agrees by chance."""
        return self.agreement * self.detail

    @property
    def hue(self) -> float:
        """By how much hues differ in the region, 0 to 2 (:func:`hues`)."""
        return hues(self.own, self.picture, self.region)

    @property
    def disagreeing(self) -> np.ndarray:
        """The cells that should agree and do not: bool[m, n].

        These are inside of the region, with others of it all around, and fall short of what agrees by SHORT and more:
        ncc_i < median_j ncc_j - SHORT over the cells j that agree.
        """
        agree = self.region & (self.corners > 0) & (self.ncc > AGREES)
        if not agree.any():
            return agree
        low = float(np.median(self.ncc[agree])) - SHORT
        return _inside(self.region) & (self.corners > 0) & (self.ncc < low)

    @property
    def disagreement(self) -> float:
        """The share of the template that should agree and does not, by how textured the picture is there."""
        return float((self.corners * self.texture)[self.disagreeing].sum())


def template(picture: np.ndarray, box: tuple[float, float, float, float]) -> Template:
    """What is in a box (x0, y0, x1, y1), in pixels of the picture u8[h, w, 3]."""
    x0, y0, x1, y1 = box
    sides = np.maximum([x1 - x0, y1 - y0], 1e-3)

    def sized(longer: int) -> np.ndarray:
        w, h = (max(4, round(side * longer / sides.max() / BLOCK)) * BLOCK for side in sides)
        H = np.array([[sides[0] / w, 0, x0], [0, sides[1] / h, y0], [0, 0, 1]])
        return warped(picture, H, (w, h))[0]

    return Template(Whole(sized(SIDE)), [Reference(gradients(sized(longer))) for longer, _ in STEPS])


def onto_box(A: np.ndarray, t: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The homography that takes the unit square to A x + t, x in a box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    H = np.eye(3)
    H[:2, :2], H[:2, 2] = A * [x1 - x0, y1 - y0], A @ [x0, y0] + t
    return H


def cornerness(g: np.ndarray) -> np.ndarray:
    """sqrt(lambda_2) of each cell's structure tensor, of gradients f32[6, h, w]: f32[m, n]."""
    x, y = g[:3], g[3:]
    xx, xy, yy = (cells(np.einsum("chw,chw->hw", u, v)) for u, v in ((x, x), (x, y), (y, y)))
    smaller = (xx + yy) / 2 - np.sqrt(np.square((xx - yy) / 2) + xy * xy)
    root: np.ndarray = np.sqrt(smaller.clip(0))
    return root


def compared(template: Template, picture: np.ndarray, H: np.ndarray) -> Compared:
    """A picture u8[h, w, 3] with a template, of which a coarse homography takes the unit square into it.

    Where the two could not be registered nothing of them agrees.
    """
    own = template.whole
    h, w = own.picture.shape[:2]
    H, aligned = registered(template.steps, picture, H)
    H = H @ np.diag([1 / w, 1 / h, 1])
    seen, inside = warped(picture, H, (w, h), REACH)
    middle = slice(REACH, REACH + h), slice(REACH, REACH + w)
    if not aligned:
        nothing = np.zeros_like(own.energy)
        return Compared(own.picture, seen[middle], H, nothing, nothing > 0, nothing, nothing)
    enlarged = 1 / max(magnification(H, (w, h)), 0.05)
    if enlarged > 1.2:  # as blurred as the other
        own = Whole(cv2.GaussianBlur(own.picture, (0, 0), 0.4 * np.sqrt(enlarged**2 - 1)))
    there = cells(inside[middle].astype(np.float32)) > 0.9
    return _told(own, seen, H, np.where(there, own.corners, 0))


def common(pictures: np.ndarray) -> tuple[Whole, list[Whole]]:
    """What aligned pictures u8[n, h, w, 3] have in common, their median, and that of all but each one, n of them.

    n is 2 at least. What covers some of them, and the light of one, is not in it.
    """
    n, some = len(pictures), np.sort(pictures, axis=0)
    middle = [some[min(max(k, 0), n - 1)] for k in range(n // 2 - 1, n // 2 + 2)]

    def without(one: np.ndarray) -> np.ndarray:
        if n % 2 == 0:  # of n - 1 that are left, an odd number, there is one in the middle
            left: np.ndarray = np.where(one <= middle[0], middle[1], middle[0])
            return left
        low, high = (
            np.where(one <= middle[0], middle[1], middle[0]),
            np.where(one >= middle[2], middle[1], middle[2]),
        )
        return _mean(low, high)

    whole = middle[1] if n % 2 else _mean(middle[0], middle[1])
    return Whole(whole), [Whole(without(one)) for one in pictures]


def _mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean: np.ndarray = ((a.astype(np.uint16) + b) // 2).astype(np.uint8)
    return mean


def recompared(one: Compared, own: Whole) -> Compared:
    """The same picture, as it is aligned, with another of the template's size. Cells that counted nothing stay so."""
    seen = cv2.copyMakeBorder(one.picture, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    return _told(own, seen, one.H, np.where(one.corners > 0, own.corners, 0))


def _told(own: Whole, seen: np.ndarray, H: np.ndarray, corners: np.ndarray) -> Compared:
    """What comparing says, of cells that count corners f32[m, n]; seen has REACH more on each side than own."""
    h, w = own.picture.shape[:2]
    found = correlations(own, gradients(seen), REACH)
    agree = (found.ncc > AGREES) & (corners > 0)
    region = hull(agree & (_near(agree) >= 4))
    contrast = np.sqrt(found.other / np.maximum(found.own, 1e-6))
    texture = (
        np.minimum(contrast / max(float(np.median(contrast[agree])), 1e-3), 1) if agree.any() else contrast
    )
    picture = seen[REACH : REACH + h, REACH : REACH + w]
    return Compared(own.picture, picture, H, found.ncc, region, corners, texture)


def _near(x: np.ndarray) -> np.ndarray:
    """Sums over the 3 x 3 cells around each."""
    summed: np.ndarray = cv2.boxFilter(
        x.astype(np.float32), cv2.CV_32F, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return summed


def _inside(mask: np.ndarray) -> np.ndarray:
    """The cells of bool[m, n] whose 8 neighbours are of it, too."""
    return mask & (_near(mask) > 8.5)


def hull(mask: np.ndarray) -> np.ndarray:
    """The cells in the convex hull of bool[m, n]."""
    inside = np.zeros(mask.shape, np.uint8)
    if mask.any():
        points = np.ascontiguousarray(np.argwhere(mask)[:, ::-1], np.int32)
        cv2.fillConvexPoly(inside, cv2.convexHull(points), 1)
    return inside > 0


def hues(own: np.ndarray, other: np.ndarray, region: np.ndarray) -> float:
    """By how much the hues of aligned pictures u8[h, w, 3] differ in a region of cells.

    sum_x w (1 - cos(p, q)) / (sum_x w + 1 / 2),  w = min(sqrt(|p| |q|), 1 / 2)

    p, q: the opponent colours (R - G, (R + G) / 2 - B) of a pixel, all in [0, 1]; white balance and exposure of the
    other are brought to the own's by what is neutral, and bright, in the own.
    """
    if not region.any():
        return 0.0
    y, x = np.nonzero(region)
    mask = np.zeros(own.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.stack([x + 1, y + 1], axis=1).astype(np.int32) * BLOCK), 1)
    some = np.flatnonzero(mask[::2, ::2])
    a, b = (
        np.stack(
            [plane[::2, ::2].reshape(-1)[some] for plane in cv2.split(cv2.GaussianBlur(picture, (0, 0), 1.5))]
        )
        / np.float32(255)
        for picture in (own, other)
    )
    light = a.max(axis=0)
    neutral = (light - a.min(axis=0) < NEUTRAL) & (light > 0.35) & (b.max(axis=0) > NEUTRAL)
    n = np.count_nonzero(neutral)
    if n:
        ratio = np.log((b[:, neutral] + 0.02) / (a[:, neutral] + 0.02))
        balance = np.median(ratio - ratio.mean(axis=0), axis=1, keepdims=True)
        b = b / np.exp(np.clip(balance * n / (n + 15), -0.5, 0.5))  # few pixels say little
    bright = light > 0.3
    if bright.any():
        b = b / max(float(np.median(b[:, bright].max(axis=0) / (light[bright] + 0.02))), 0.05)
    p, q = ((c[0] - c[1], (c[0] + c[1]) / 2 - c[2]) for c in (a, b))
    both = np.sqrt((p[0] ** 2 + p[1] ** 2) * (q[0] ** 2 + q[1] ** 2))
    w = np.minimum(np.sqrt(both), 0.5)
    w[w < COLOURED] = 0
    return float(w @ (1 - (p[0] * q[0] + p[1] * q[1]) / (both + 1e-4)) / (w.sum() + 0.5))


def enlarged(
    one: Compared, own: np.ndarray, box: tuple[float, float, float, float], picture: np.ndarray, zoom: int
) -> Compared:
    """The same as sharp as the pictures are, ``zoom`` times as large: own's ``box`` (x0, y0, x1, y1), and the other.

    What is out of the other is grey.
    """
    h, w = one.own.shape[:2]
    size, smaller = (zoom * w, zoom * h), np.diag([1 / zoom, 1 / zoom, 1])
    H = onto_box(np.eye(2), np.zeros(2), box) @ np.diag([1 / w, 1 / h, 1])
    seen, inside = warped(picture, one.H @ smaller, size)
    seen[~inside] = OUTSIDE
    return one._replace(own=warped(own, H @ smaller, size)[0], picture=seen)


def side_by_side(one: Compared, gap: int = 2 * BLOCK) -> np.ndarray:
    """The template and the aligned picture, u8[h, 2 w + gap, 3]; what disagrees is framed red, what agrees green.

    What neither frame holds was not compared: it is even, out of the picture, or covered.
    """
    framed, block = [], len(one.own) // (len(one.ncc) + 1)
    for picture in (one.own, one.picture):
        drawn = picture.copy()
        for cells_, colour in (
            (one.region & ~one.disagreeing, (40, 170, 60)),
            (one.disagreeing, (230, 30, 30)),
        ):
            mask = np.kron(cells_.astype(np.uint8), np.ones((block, block), np.uint8))
            mask = np.pad(mask, block // 2)  # around the cells' centres
            outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            cv2.drawContours(drawn, outlines, -1, colour, max(1, block // BLOCK))
        framed.append(drawn)
    return np.concatenate([framed[0], np.full((len(framed[0]), gap, 3), 255, np.uint8), framed[1]], axis=1)
