"""Equal windows of maps, each at a place of its own, as what a few cells of a deep layer see of the ones below."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_plugins.numeric.layers import Sliding

SHARE = 0.5  #: windows larger than this share of a map are not worth their copying: the whole map instead
Cell = tuple[int, int]  #: (y, x)


class Span(NamedTuple):
    """One axis of a window: it begins at ``scale * cell + first``, for a cell of the topmost map."""

    scale: int
    first: int
    size: int

    def at(self, cell: int) -> int:
        return self.scale * cell + self.first


class Window(NamedTuple):
    """A window of a map for each of some cells; the same part of the map for all of them if the scale is 0."""

    y: Span
    x: Span

    @classmethod
    def of(cls, h: int, w: int) -> Window:
        """h x w cells from the cell itself on."""
        return cls(Span(1, 0, h), Span(1, 0, w))

    @property
    def area(self) -> int:
        return self.y.size * self.x.size

    @property
    def fixed(self) -> bool:
        return not (self.y.scale or self.x.scale)

    def under(self, sliding: Sliding) -> Window:
        """What the window's cells see of the map that ``sliding`` made theirs from; it may leave that map."""
        spans = (
            Span(
                a.scale * sliding.stride[i],
                a.first * sliding.stride[i] - sliding.padding[i],
                sliding.reach(i, a.size),
            )
            for i, a in enumerate(self)
        )
        return Window(*spans)

    def shrunk(self, y: int, x: int) -> Window:
        """Without so many cells at either end."""
        spans = (Span(a.scale, a.first + n, a.size - 2 * n) for a, n in zip(self, (y, x), strict=True))
        return Window(*spans)


def whole(h: int, w: int) -> Window:
    """All of a map, whatever the cell."""
    return Window(Span(0, 0, h), Span(0, 0, w))


def union(windows: Sequence[Window], shape: Sequence[int], small: bool = True) -> Window:
    """The least window around some, or the whole map h, w if that is not much larger, or unless ``small``."""
    h, w = shape
    spans = []
    for axis in zip(*windows, strict=True):
        first, end = min(a.first for a in axis), max(a.first + a.size for a in axis)
        spans.append(Span(axis[0].scale, first, end - first))
    found = Window(*spans)
    apart = any(
        a.scale != b.scale or not a.scale for window in windows for a, b in zip(window, found, strict=True)
    )
    return whole(h, w) if apart or not small or found.area > SHARE * h * w else found


def cut(A: Tensor, window: Window, cells: Sequence[Cell]) -> Tensor:
    """The window of a map f32[C, H, W] at each of K cells, 0 outside the map: f32[K, C, n, m], or 1 for all."""
    c, h, w = A.shape
    if window == whole(h, w):
        return A[None]
    cells = [(0, 0)] if window.fixed else cells
    parts = A.new_empty(len(cells), window.y.size, window.x.size, c)  # channels last: whole rows are copied
    rows = A.permute(1, 2, 0)
    for part, (cy, cx) in zip(parts, cells, strict=True):
        (sy, ty), (sx, tx) = (
            overlap(window.y.at(cy), window.y.size, h),
            overlap(window.x.at(cx), window.x.size, w),
        )
        if part[ty, tx].shape != part.shape:
            part.zero_()
        part[ty, tx] = rows[sy, sx]
    return parts.permute(0, 3, 1, 2)


def place(
    part: Tensor, window: Window, target: Window, cells: Sequence[Cell], onto: Tensor | None = None
) -> Tensor:
    """Adds f32[K, C, n, m] in one window to what is in another, without what is outside: f32[K, C, n', m'].

    Without ``onto`` that is nothing yet, and the result may share the part's memory.
    """
    if onto is None and window == target:
        return part
    if onto is None:
        onto = part.new_zeros(*part.shape[:2], target.y.size, target.x.size)
        onto = onto.contiguous(memory_format=torch.channels_last)
    together = all(a.scale == b.scale for a, b in zip(window, target, strict=True))
    for k, (cy, cx) in enumerate([(0, 0)] if together else cells):
        (ty, sy), (tx, sx) = (
            overlap(a.at(cell) - b.at(cell), a.size, b.size)
            for a, b, cell in zip(window, target, (cy, cx), strict=True)
        )
        which = slice(None) if together else slice(k, k + 1)
        onto[which, :, ty, tx] += part[which, :, sy, sx]
    return onto


def overlap(first: int, size: int, n: int) -> tuple[slice, slice]:
    """Where ``size`` cells from ``first`` on meet a line of n cells: in the line, and among themselves."""
    low = min(max(first, 0), n)
    high = max(min(first + size, n), low)
    low_own = min(max(low - first, 0), size)
    return slice(low, high), slice(low_own, low_own + high - low)
