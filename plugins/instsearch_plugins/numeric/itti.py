"""Pyramids, centre-surround differences and map normalisation of the Itti-Koch saliency model.

As in the SaliencyToolbox (Walther and Koch 2006), from Itti, Koch and Niebur 1998. Scales count from 0, the
image itself; one scale on, both sides are halved.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

KERNEL = np.array([1, 5, 10, 10, 5, 1, 1], np.float32) / 33  #: low-pass filter of the pyramid; not symmetric
CENTRES, DELTAS = (2, 3, 4), (3, 4)  #: scales c of the centre, and s - c of the surround
SCALES = range(2, 9)  #: all that a pair may use
MAP_SCALE = 4  #: every map is brought to the size of this scale, 1/16 of the image
REACH = 4  #: pixels of a Gabor filter on either side of its centre
PERIOD, SIGMA = 7, 2.3333  #: of the Gabor filters, in pixels
M = 10  #: maps are stretched to [0, M] before they are weighed against each other
FLAT = 1e-5  #: features lie in about [-1, 1]: a map with less contrast holds rounding errors only


def pyramid(x: np.ndarray) -> list[np.ndarray]:
    """The map f32[H, W] and its reductions, down to where one side is 1.

    Each step convolves rows and columns with KERNEL, divides by the part of KERNEL that lay inside the map,
    and keeps samples 0, 2, 4, ...: n -> floor(n / 2). A side of 3 becomes its [1 2 1]/4 mean, one of 2 its mean.
    """
    levels = [x]
    while min(x.shape) > 1:
        (rows, top, rows_inside), (columns, left, columns_inside) = (_reduction(n) for n in x.shape)
        x = cv2.sepFilter2D(x, -1, columns, rows, borderType=cv2.BORDER_CONSTANT)
        x = x[top::2, left::2][: len(rows_inside), : len(columns_inside)]
        x = x / (rows_inside[:, None] * columns_inside)
        levels.append(x)
    return levels


@lru_cache(maxsize=256)
def _reduction(n: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Halving a side of n: correlation taps, the first sample kept, the mass of the taps inside at each kept."""
    if n <= 3:
        taps = {2: [1, 1], 3: [1, 2, 1]}[n]
        return np.array(taps, np.float32) / sum(taps), 1, np.ones(1, np.float32)
    inside = np.convolve(np.ones(n), KERNEL)[3 : n + 3]
    return KERNEL[::-1].copy(), 0, inside[0 : n // 2 * 2 : 2].astype(np.float32)


@lru_cache(maxsize=16)
def gabor(theta: int) -> tuple[np.ndarray, np.ndarray]:
    """The two phases psi = 0 and 90 degrees of a Gabor filter, each of mean 0 and norm 1: f32[9, 9].

    g(i, j) = cos(2 pi u / 7 + psi) exp(-(i^2 + j^2) / (2 sigma^2)),  u = i cos theta - j sin theta

    for row i and column j in -4..4; theta, in degrees, is 0 for what varies along the rows' index i.
    """
    i, j = np.mgrid[-4:5, -4:5]
    u = i * np.cos(np.deg2rad(theta)) - j * np.sin(np.deg2rad(theta))
    waves = [
        np.cos(2 * np.pi * u / PERIOD + psi) * np.exp(-(i**2 + j**2) / (2 * SIGMA**2))
        for psi in (0, np.pi / 2)
    ]
    waves = [g - g.mean() for g in waves]
    even, odd = ((g / np.linalg.norm(g)).astype(np.float32) for g in waves)
    return even, odd


def oriented(x: np.ndarray, theta: int, mirrored: bool = True) -> np.ndarray:
    """|x * g_0| + |x * g_90| for the two phases of :func:`gabor`: f32[h, w].

    Beyond its border the map goes on as its mirror image, the border itself not repeated. Else it is zero there, and
    the first and the last 4 rows become zero, too, as in the SaliencyToolbox, which means to make up for what a filter
    misses there by its sum, which is 0.
    """
    border = cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT
    even, odd = (cv2.filter2D(x, -1, g, borderType=border) for g in gabor(theta))
    energy: np.ndarray = np.abs(even) + np.abs(odd)
    if not mirrored:
        energy[:REACH] = energy[-REACH:] = 0
    return energy


def centre_surround(scales: Mapping[int, np.ndarray], double: bool = False) -> np.ndarray:
    """|F(c) - F(s)| for c in CENTRES and s = c + DELTAS, as far as there are scales: f32[n, h, w], n <= 6.

    Every scale is brought to the size of scale 4 by its nearest sample; of the result, the outer
    b = round(max(h, w) / 20) rows and columns are scaled by k / (b + 1), k = 1..b. With ``double``, the
    double opponency of 1998: |F(c) + F(s)| = |(R(c) - G(c)) - (G(s) - R(s))| for F = R - G.
    """
    h, w = scales[MAP_SCALE].shape
    at = {scale: _nearest(x, h, w) for scale, x in scales.items()}
    sign = 1 if double else -1
    maps = np.stack([np.abs(at[c] + sign * at[c + d]) for c in CENTRES for d in DELTAS if c + d in at])
    maps[np.ptp(maps, axis=(1, 2)) <= FLAT] = 0  # before the border gives it a shape
    b = int(max(h, w) / 20 + 0.5)
    maps *= _ramp(h, b)[:, None] * _ramp(w, b)
    return maps


def _nearest(x: np.ndarray, h: int, w: int) -> np.ndarray:
    i, j = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip((h, w), x.shape, strict=True))
    nearest: np.ndarray = x[i[:, None], j]
    return nearest


def _ramp(n: int, b: int) -> np.ndarray:
    ramp = np.minimum(1, np.arange(1, n + 1, dtype=np.float32) / (b + 1))
    return np.multiply(ramp, ramp[::-1])


def stretched_to(x: np.ndarray, top: float) -> np.ndarray:
    """(x - min x) / (max x - min x) * top for each map of f32[..., h, w]; a flat one gives zeros."""
    x = x - x.min((-2, -1), keepdims=True)
    peak = x.max((-2, -1), keepdims=True)
    return np.where(peak > FLAT, x / np.maximum(peak, FLAT) * np.float32(top), np.float32(0))


def iterated(x: np.ndarray, steps: int = 3) -> np.ndarray:
    """Competition within each map of f32[..., h, w] >= 0: peaks that stand alone grow, crowded ones die.

    x <- max(0, x + E x - I x - 0.02 max x),  ``steps`` times

    where E and I are Gaussians of standard deviation 0.02 and 0.25 max(h, w) along rows and columns, each
    with the 1-D peak 0.5 (E) or 1.5 (I) over sigma sqrt(2 pi).
    """
    h, w = x.shape[-2:]
    (E_rows, E_columns), (I_rows, I_columns) = (
        tuple(_blur(n, competitor(h, w, strength, width)) for n in (h, w))
        for strength, width in ((0.5, 0.02), (1.5, 0.25))
    )
    for _ in range(steps):
        excited, inhibited = E_rows @ x @ E_columns.T, I_rows @ x @ I_columns.T
        floor = np.float32(0.02) * x.max((-2, -1), keepdims=True)
        x = np.maximum(x + excited - inhibited - floor, 0)
    return x


def competitor(h: int, w: int, strength: float, width: float) -> tuple[float, ...]:
    """The 1-D Gaussian by which cells of an h x w map excite or inhibit each other.

    g(k) = strength / (sigma sqrt(2 pi)) exp(-k^2 / (2 sigma^2)),  sigma = width max(h, w)

    for |k| up to where g falls below 1 % of its peak, at most floor(min(h, w) / 2) - 1.
    """
    sigma = width * max(h, w)
    half = max(0, min(int(sigma * np.sqrt(2 * np.log(100))), min(h, w) // 2 - 1))
    k = np.arange(-half, half + 1)
    g = strength / (sigma * np.sqrt(2 * np.pi)) * np.exp(-(k**2) / (2 * sigma**2))
    return tuple(g.tolist())


@lru_cache(maxsize=256)
def _blur(n: int, taps: tuple[float, ...]) -> np.ndarray:
    """The matrix f32[n, n] that filters n samples; near the ends, the taps inside make up for those outside."""
    padded = np.pad(np.eye(n), ((0, 0), (len(taps) // 2,) * 2))
    band = np.stack([np.convolve(row, taps, "valid") for row in padded], axis=1)
    band *= sum(taps) / band.sum(1, keepdims=True)
    return band.astype(np.float32)


def promoted(x: np.ndarray, others: bool = False) -> np.ndarray:
    """x (M - m)^2 for each map of f32[..., h, w] in [0, M], m being the mean of its local maxima.

    A local maximum is a cell inside the border, at least 1 and at least its four neighbours. The toolbox
    averages over all of them, with m = 0 for a single one, and leaves a map without any as it is; ``others``
    (1998) leaves one that is as high as the whole map out of the mean, m = 0 where no other remains.
    """
    cell = x[..., 1:-1, 1:-1]
    peak = cell >= 1
    for neighbour in (x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]):
        peak &= cell >= neighbour
    count, total = peak.sum((-2, -1), keepdims=True), (cell * peak).sum((-2, -1), keepdims=True)
    if others:
        highest = x.max((-2, -1), keepdims=True)
        without = (peak & (cell == highest)).any((-2, -1), keepdims=True)
        m = (total - without * highest) / np.maximum(count - without, 1)
        factor = (M - m) ** 2
    else:
        m = np.where(count > 1, total / np.maximum(count, 1), 0)
        factor = np.where(count > 0, (M - m) ** 2, 1)
    weighted: np.ndarray = x * factor.astype(np.float32)
    return weighted
