"""How well the regions that a detector finds cover the annotated objects, whatever is asked for.

Hosang, Benenson, Dollar and Schiele, What makes for effective detection proposals?, 2016; figure 7 of Xiao et
al., Deeply activated salient region for instance search, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.boxes import iou
from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from numpy.typing import ArrayLike

    from instsearch_cli.data import Box

THRESHOLDS = np.arange(5, 100, 5) / 100


def best_overlaps(regions: ArrayLike, annotated: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each annotated box with a region, and of each region with an annotated box.

    regions [R, 4], annotated [A, 4] of one picture -> f64[A], f64[R]; 0 where there is nothing to overlap with.
    """
    r = np.asarray(regions, np.float64).reshape(-1, 4)
    a = np.asarray(annotated, np.float64).reshape(-1, 4)
    overlaps = iou(a[:, None], r[None, :])
    return overlaps.max(1, initial=0.0), overlaps.max(0, initial=0.0)


def share_at(overlaps: ArrayLike, thresholds: ArrayLike = THRESHOLDS) -> np.ndarray:
    """The share of overlaps that are at least t, for each threshold t: f64[T]; NaN of no overlaps.

    Of the largest overlaps of annotated boxes it is the recall, of those of regions the share that cover one.
    """
    values = np.sort(np.asarray(overlaps, np.float64))
    below = np.searchsorted(values, np.asarray(thresholds, np.float64), side="left")
    if not len(values):
        return np.full(below.shape, np.nan)
    return np.asarray((len(values) - below) / len(values))


@dataclass(frozen=True, eq=False)
class Coverage:
    """The regions of some pictures against the annotated boxes in them.

    annotated  f64[A]: the largest IoU of each annotated box with a region of its picture
    regions    f64[R]: the largest IoU of each region with an annotated box of its picture
    images     how many pictures these are
    """

    annotated: np.ndarray
    regions: np.ndarray
    images: int

    @property
    def recall(self) -> np.ndarray:
        """The share of annotated boxes that a region covers, at each of THRESHOLDS."""
        return share_at(self.annotated)

    @property
    def covering(self) -> np.ndarray:
        """The share of regions that cover an annotated box, at each of THRESHOLDS."""
        return share_at(self.regions)

    @property
    def regions_per_image(self) -> float:
        return len(self.regions) / self.images


def coverage(blocks: Iterable[Mapping[str, Any]], boxes: Mapping[int, Sequence[Box]]) -> Coverage:
    """The regions of the rows that have annotated boxes, from the stored layer (``Data.blocks("regions")``).

    Raises InstsearchError if no picture has.
    """
    annotated: list[np.ndarray] = []
    regions: list[np.ndarray] = []
    for block in blocks:
        start, indptr = block["start"], block["indptr"]
        for row in range(start, block["stop"]):
            if boxes.get(row):
                low, high = indptr[row - start], indptr[row - start + 1]
                a, r = best_overlaps(block["boxes"][low:high], boxes[row])
                annotated.append(a)
                regions.append(r)
    if not annotated:
        raise InstsearchError("none of the images has annotated boxes: nothing can be covered")
    return Coverage(np.concatenate(annotated), np.concatenate(regions), len(annotated))
