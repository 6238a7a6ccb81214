"""Boxes around what is hottest on a map (Zhou et al., "Learning deep features for discriminative localization",
CVPR 2016; at several thresholds, Jiménez, Álvarez and Giró-i-Nieto, "Class-weighted convolutional features for
visual instance search", BMVC 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Area = Literal["cells", "contour"]


def threshold_boxes(heat: np.ndarray, thresholds: Sequence[float], area: Area = "cells") -> np.ndarray:
    """The box of the largest connected part above each threshold.

    M_t = {ij: heat_ij > theta_t max heat}

    Cells that touch at a corner are connected. The largest part has the most cells, the upper left one of equals;
    with ``area`` = contour it is the one whose outer contour, drawn through the centres of its outermost cells,
    encloses most, as the authors' code has it, so that a part one cell wide has none.

    heat: f32[h, w], thresholds: theta f[T] in [0, 1). Returns cells x0, y0, x1, y1 (ends excluded) i64[T, 4]; a map
    without any positive value gives the whole of it T times.
    """
    h, w = heat.shape
    peak = heat.max()
    if not peak > 0:
        return np.tile(np.array([0, 0, w, h], np.int64), (len(thresholds), 1))
    theta = np.asarray(thresholds, heat.dtype)  # as exact as the map: 0.1 is not above a tenth of 1
    masks = (heat > theta[:, None, None] * peak).astype(np.uint8)
    if area == "contour":
        return np.array([_of_contour(mask) for mask in masks], np.int64).reshape(-1, 4)
    return _largest(masks)


def _largest(masks: np.ndarray) -> np.ndarray:
    """The box of each mask's part with the most cells: u8[T, h, w], none of them empty -> i64[T, 4].

    The masks lie one below the other in one picture, an empty row between them.
    """
    T, h, w = masks.shape
    rows = np.pad(masks, ((0, 0), (0, 1), (0, 0))).reshape(-1, w)
    x0, y0, width, height, cells = cv2.connectedComponentsWithStats(rows, connectivity=8)[2][1:].T
    t = y0 // (h + 1)
    order = np.lexsort((x0, y0, -cells, t))
    first = order[np.searchsorted(t[order], np.arange(T))]
    x0, y0 = x0[first], y0[first] - np.arange(T) * (h + 1)
    return np.stack([x0, y0, x0 + width[first], y0 + height[first]], 1).astype(np.int64)


def _of_contour(mask: np.ndarray) -> tuple[int, int, int, int]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    x, y, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return x, y, x + width, y + height
