"""Regions: R-MAC's grid on a map's cells, a picture's patches, cells as boxes and boxes as cells."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from instsearch_cli.data import Grid

OVERLAP = Fraction(2, 5)  #: wanted of neighbouring regions of the first level
ROUNDING = 1e-3  # cells
STEPS = range(2, 8)  #: how many of them there may be along the longer side


def rmac_grid(h: int, w: int, levels: int) -> Tensor:
    """The regions of R-MAC: on level l, squares that overlap, l along the shorter side of the map.

    On level l = 1, 2, ... the side of a square is s = floor(2 min(h, w) / (l + 1)). Along a side of n cells
    there are m squares, and the t-th starts at floor(t (n - s) / (m - 1)): m = l along the shorter side,
    l + e along the longer. e is one less than the number of squares of level 1 that overlap by nearest to
    40%, the fewer of two that are as near, and 0 on a square map: where others round, as of 5 x 9 or 25 x 45 cells,
    they may take the more. A level whose squares have no cell is left out.

    Returns cells x0, y0, x1, y1 (ends excluded) i64[R, 4], level by level, row by row.

    Reference: Tolias, Sicre and Jégou, "Particular object retrieval with integral max-pooling of CNN
    activations", ICLR 2016.
    """
    short, long = min(h, w), max(h, w)
    misses = [abs(1 - OVERLAP - Fraction(long - short, short * (steps - 1))) for steps in STEPS]
    extra = 0 if h == w else misses.index(min(misses)) + 1
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            break
        across = _starts(w, side, level + extra * (h < w))
        down = _starts(h, side, level + extra * (w < h))
        found += [(x, y, x + side, y + side) for y in down for x in across]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 4)


def _starts(n: int, side: int, count: int) -> list[int]:
    """Where ``count`` spans of ``side`` cells start that are spread evenly over n cells."""
    return [t * (n - side) // max(count - 1, 1) for t in range(count)]


def patches(size: tuple[int, int], levels: int, overlap: float = 0.0) -> Tensor:
    """Grids of n x n equal rectangles over a picture, n = 1 ... levels.

    s_n = 1 / (n - (n - 1) o),  the t-th from t (1 - o) s_n to t (1 - o) s_n + s_n,  t = 0 ... n - 1

    of the width and of the height, where o is the share of a side that two neighbours have in common.
    size = (width, height). Returns boxes f32[R, 4] in its pixels, R = sum_n n^2, level by level, row by row.

    Reference: Choi et al., "Patch-wise retrieval: A bag of practical techniques for instance-level matching",
    WACV 2026, whose grids do not overlap.
    """
    found = []
    for n in range(1, levels + 1):
        s = 1 / (n - (n - 1) * overlap)
        start = torch.arange(n, dtype=torch.float64) * (1 - overlap) * s
        y, x = torch.meshgrid(start, start, indexing="ij")
        found.append(torch.stack([x, y, x + s, y + s], -1).reshape(-1, 4))
    return (torch.cat(found).clamp(max=1) * torch.tensor([*size, *size])).to(torch.float32)


def grid_in(cells: Tensor, levels: int) -> Tensor:
    """Each region, followed by R-MAC's regions of the part of the map under it: i64[R, 4] -> i64[S, 4].

    With ``levels`` = 0 the regions alone. A square region comes twice, as itself and as level 1.
    """
    found = []
    for region in cells:
        x0, y0, x1, y1 = region.tolist()
        inside = rmac_grid(y1 - y0, x1 - x0, levels) + torch.tensor([x0, y0, x0, y0])
        found += [region.reshape(1, 4).cpu(), inside]
    return torch.cat(found) if found else torch.zeros(0, 4, dtype=torch.int64)


def cell_boxes(cells: Tensor | np.ndarray, grid: Grid) -> Tensor:
    """Rectangles of cells i64[R, 4] as boxes f32[R, 4] in original pixels."""
    sx, sy, ox, oy = grid.transform
    scale, origin = torch.tensor([(sx, sy, sx, sy), (ox, oy, ox, oy)], dtype=torch.float64)
    corners: Tensor = torch.as_tensor(cells).cpu() * scale + origin
    return corners.to(torch.float32)


def box_cells(boxes: Tensor, grid: Grid) -> Tensor:
    """The cells that :meth:`Grid.masks` gives each box, as rectangles: f32[R, 4] -> i64[R, 4]."""
    masks = torch.from_numpy(grid.masks(boxes.cpu()))
    columns, rows = masks.any(1), masks.any(2)
    x0, y0 = columns.int().argmax(1), rows.int().argmax(1)
    return torch.stack([x0, y0, x0 + columns.sum(1), y0 + rows.sum(1)], 1)


def touched_cells(boxes: Tensor, grid: Grid) -> Tensor:
    """The cells that each box touches, as rectangles: f32[R, 4] -> i64[R, 4].

    lo = floor(v), hi = ceil(v), v being the box in cells; clipped to the map, never empty. A box reaches into
    a cell by a thousandth of it at least: less is rounding.
    """
    sx, sy, ox, oy = grid.transform
    scale, origin = torch.tensor([(sx, sy, sx, sy), (ox, oy, ox, oy)], dtype=torch.float64)
    v = (boxes.cpu() - origin) / scale
    last = torch.tensor([grid.w, grid.h])
    low = torch.minimum((v[:, :2] + ROUNDING).floor().long().clamp(min=0), last - 1)
    high = torch.maximum(torch.minimum((v[:, 2:] - ROUNDING).ceil().long(), last), low + 1)
    return torch.cat([low, high], 1)
