"""Boxes: reading them from the command line, clipping them to a picture, measuring their overlap; regions of them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[float, float, float, float]


def parse_box(text: str, beginning: str = "--box takes") -> tuple[float, float, float, float]:
    """Read ``"x,y,w,h"``: the left upper corner, width and height, in pixels of the upright picture.

    Raises :class:`UsageError`, with that beginning, unless these are four finite numbers, width and height above 0.
    """
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        x = y = w = h = math.nan
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise UsageError(
            f"{beginning} x,y,w,h in pixels of the upright picture, width and height above 0, "
            f"for example 120,80,200,150; got {text!r}"
        )
    return x, y, w, h


BOXLIKE = re.compile(r"[-+\d.,\s]*")  #: what may follow a picture's name and a colon, no part of a path


def parse_view(text: str, flag: str) -> tuple[str, tuple[float, float, float, float] | None]:
    """Read ``"IMAGE"`` or ``"IMAGE:x,y,w,h"``: a picture, and a box in it, None for all of it.

    A file that is there by the whole name is that file; a drive letter is no picture. Raises :class:`UsageError`, which
    names the flag, for a box that is none.
    """
    name, colon, box = text.rpartition(":")
    if not colon or os.path.lexists(text) or not (BOXLIKE.fullmatch(box) or os.path.lexists(name)):
        return text, None
    try:
        return name, parse_box(box)
    except UsageError:
        raise UsageError(
            f"{flag} takes IMAGE or IMAGE:x,y,w,h, the box in pixels of the upright picture, width and height above 0, "
            f"for example picture.jpg:120,80,200,150; got {text!r}"
        ) from None


def clip_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The part (x0, y0, x1, y1) of a box (x, y, w, h) inside a picture of ``size`` = (width, height).

    Raises :class:`InstsearchError` if the box covers no part of the picture.
    """
    x, y, w, h = box
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(size[0])), min(y + h, float(size[1]))
    if not (x0 < x1 and y0 < y1):
        raise InstsearchError(
            f"the box {x:g},{y:g},{w:g},{h:g} covers no part of the picture, "
            f"which is {size[0]} x {size[1]} pixels (width x height, upright)"
        )
    return x0, y0, x1, y1


def refuse_fractions(box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    """Raise :class:`UsageError` for a box (x, y, w, h) of at most one pixel, as one in fractions of the picture is."""
    if min(box) >= 0 and max(box) <= 1:
        pixels = ",".join(f"{v * side:.0f}" for v, side in zip(box, (*size, *size), strict=True))
        raise UsageError(
            f"a box is x,y,w,h in pixels: {','.join(f'{v:g}' for v in box)} is at most one pixel of the picture's "
            f"{size[0]} x {size[1]}.\nIf these are fractions of it, give {pixels}"
        )


def box_question(box: tuple[float, float, float, float] | None, size: tuple[int, int]) -> str:
    """What is asked for, in words: the box x,y,w,h as it was understood, and how much of the picture it is.

    box: x, y, width, height inside a picture of ``size`` = (width, height); None: all of the picture.
    """
    whole = f"{size[0]} x {size[1]}"
    if box is None:
        return f"the whole picture, {whole} pixels"
    share = 100 * box[2] * box[3] / (size[0] * size[1])
    shown = f"{share:.2g}" if share < 10 else f"{share:.0f}"
    return f"box {','.join(f'{v:g}' for v in box)} (x,y,w,h) of the picture's {whole}, {shown} % of it"


def box_caution(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """What should be known of a box (x, y, w, h) that reaches beyond its picture, as corners do; "" for another."""
    x, y, w, h = box
    if x + w <= size[0] + 1 and y + h <= size[1] + 1 and x >= -1 and y >= -1:
        return ""
    text = f"the box {x:g},{y:g},{w:g},{h:g} (x,y,w,h) reaches beyond the picture's {size[0]} x {size[1]}"
    if 0 <= x < w <= size[0] + 1 and 0 <= y < h <= size[1] + 1:
        return f"{text}; if these are its corners, ask for {x:g},{y:g},{w - x:g},{h - y:g}"
    return f"{text}: what is inside is asked for"


def xywh(box: Box) -> tuple[float, float, float, float]:
    """A box (x0, y0, x1, y1) as people give it: x, y, width, height, to a tenth of a pixel."""
    x0, y0, x1, y1 = box
    return round(x0, 1), round(y0, 1), round(x1 - x0, 1), round(y1 - y0, 1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x0, y0, x1, y1), broadcasting: [..., 4] and [..., 4] -> [...].

    |a n b| / |a u b|, and 0 where the union is empty or a box is unknown (NaN).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    overlap = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - overlap
    shares: np.ndarray = np.divide(overlap, union, out=np.zeros(union.shape), where=union > 0)
    return shares


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap coefficient of boxes (x0, y0, x1, y1), broadcasting: [..., 4] and [..., 4] -> [...].

    |a n b| / min(|a|, |b|), and 0 where one is empty or unknown (NaN).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    smaller = np.minimum(_area(a[..., :2], a[..., 2:]), _area(b[..., :2], b[..., 2:]))
    shares: np.ndarray = np.divide(both, smaller, out=np.zeros(smaller.shape), where=smaller > 0)
    return shares


def _area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Areas of boxes from their corners [..., 2] -> [...]; 0 where one side is not positive."""
    sides = (high - low).clip(min=0)
    areas: np.ndarray = sides[..., 0] * sides[..., 1]
    return areas


MASK = 28  # cells along each side of a region's mask


@dataclass(frozen=True, eq=False)
class Regions:
    """boxes f32[R, 4] and scores f32[R].

    masks    bool[R, 28, 28], row by row over each box: what of it is the object, where that is said
    classes  i64[R], by the numbers of the network that found them, where it tells classes apart
    """

    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None
    classes: Tensor | None = None

    def __getitem__(self, chosen: Any) -> Regions:
        """Some of them, by an index of tensors' first axis."""
        masks, classes = (None if x is None else x[chosen] for x in (self.masks, self.classes))
        return Regions(self.boxes[chosen], self.scores[chosen], masks, classes)

    def masked(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether points lie where each region's mask is set, for those within its box: bool[R, ...].

        x, y: f32[R, ...] in original pixels, or f32[1, ...], the same for all. Raises ValueError without masks.
        """
        import torch

        if self.masks is None:
            raise ValueError("these regions have no masks")
        each = (-1, *(1,) * (x.ndim - 1))
        x0, y0, x1, y1 = (side.reshape(each) for side in self.boxes.cpu().T)
        u, v = ((p - a) / (b - a).clamp(min=1e-6) * MASK for p, a, b in ((x, x0, x1), (y, y0, y1)))
        row, column = (n.floor().long().clamp(0, MASK - 1) for n in (v, u))
        return self.masks.cpu()[torch.arange(len(self.boxes)).reshape(each), row, column]

    def cut(self, box: Box) -> Regions:
        """What of each lies in a box; all of them are to overlap it."""
        import torch

        low, high = self.boxes.new_tensor([box[:2], box[2:]])
        boxes = torch.minimum(torch.maximum(self.boxes, low.repeat(2)), high.repeat(2))
        if self.masks is None:
            return Regions(boxes, self.scores, None, self.classes)
        at = (torch.arange(MASK) + 0.5) / MASK
        (x0, y0), (x1, y1) = boxes[:, :2].T[..., None], boxes[:, 2:].T[..., None]
        x, y = x0 + at * (x1 - x0), y0 + at * (y1 - y0)
        return Regions(boxes, self.scores, self.masked(x[:, None], y[:, :, None]), self.classes)
