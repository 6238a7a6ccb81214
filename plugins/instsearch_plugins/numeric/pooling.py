"""Pooling local features, over the whole picture or region by region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instsearch_cli.data import BoxWeight

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Box, Grid, Local, Regions, WeightMap


def sum_pool(X: Tensor, alpha: Tensor) -> Tensor:
    """Weighted sum over the cells.

    psi_c = sum_ij alpha_ij X_cij

    where X: f32[C, h, w], alpha: f32[M, h, w]. Returns f32[M, C].
    """
    return alpha.flatten(1) @ X.flatten(1).T


def max_pool(X: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each channel over the cells in the mask.

    psi_c = max_{ij in mask} X_cij

    where X: f32[C, h, w], mask: bool[M, h, w]. Returns f32[M, C]; an empty mask gives zeros.
    """
    X = X.flatten(1)
    psi = X.new_zeros(len(mask), len(X))
    for row, inside in zip(psi, mask.flatten(1), strict=True):
        if inside.any():
            row.copy_(X[:, inside].amax(1))
    return psi


def extent(grid: Grid) -> Box:
    """The box that a grid covers, in original pixels."""
    sx, sy, ox, oy = grid.transform
    return ox, oy, ox + sx * grid.w, oy + sy * grid.h


def region_masks(local: Local, regions: Regions | None) -> tuple[Tensor, Tensor]:
    """Which local features lie in which region.

    A cell lies in a region when its centre does. Without regions there is one, the extent of the grid.
    Returns the masks bool[M, h, w], or bool[M, N] at points, and the boxes f32[M, 4].
    """
    if regions is None:
        geometry = getattr(local, "geometry", None)
        shape = local.grid.shape if geometry is None else (len(geometry),)
        return torch.ones(1, *shape, dtype=torch.bool), torch.tensor([extent(local.grid)])
    masks = [BoxWeight((x0, y0, x1, y1)).over(local)[0] > 0 for x0, y0, x1, y1 in regions.boxes.tolist()]
    return torch.stack(masks) if masks else torch.zeros(0, 1, 1, dtype=torch.bool), regions.boxes


def weights_over(local: Local, weights: WeightMap | BoxWeight | None) -> Tensor | None:
    """One weight a local feature, f32[h, w] or f32[N], summed over the Z maps; None without weights."""
    return None if weights is None else weights.over(local).sum(0)
