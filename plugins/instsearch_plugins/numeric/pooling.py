"""Pooling local features, over the whole picture or region by region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Box, BoxWeight, Grid, Local, Regions, WeightMap


def sum_pool(X: Tensor, alpha: Tensor) -> Tensor:
    """Weighted sum over the cells.

    psi_c = sum_ij alpha_ij X_cij

    where X: f32[C, h, w], alpha: f32[M, h, w]. Returns f32[M, C].
    """
    return alpha.flatten(1) @ X.flatten(1).T


def peaks(X: Tensor, alpha: Tensor) -> Tensor:
    """Largest weighted value of each channel.

    psi_c = max_ij alpha_ij X_cij

    where X: f32[C, h, w], alpha: f32[M, h, w]. Returns f32[M, C].
    """
    psi = X.new_empty(len(alpha), len(X))
    for row, a in zip(psi, alpha, strict=True):
        torch.amax(X * a, (1, 2), out=row)
    return psi


def max_pool(X: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each channel over the cells in the mask.

    psi_c = max_{ij in mask} X_cij

    where X: f32[C, h, w], mask: bool[M, h, w]. Returns f32[M, C]; an empty mask gives zeros.
    """
    psi = X.new_zeros(len(mask), len(X))
    for row, inside, (x0, y0, x1, y1, full) in zip(psi, mask, _bounds(mask), strict=True):
        if x0 < x1:
            around = X[:, y0:y1, x0:x1]
            if not full:
                around = around.masked_fill(~inside[y0:y1, x0:x1], -torch.inf)
            row.copy_(around.amax((1, 2)))
    return psi


def _bounds(mask: Tensor) -> list[list[int]]:
    """The smallest rectangle of cells around each mask, x0, y0, x1, y1, and whether it is full."""
    columns, rows = mask.any(1), mask.any(2)
    x0, y0 = columns.int().argmax(1), rows.int().argmax(1)
    x1 = mask.shape[2] - columns.flip(1).int().argmax(1)
    y1 = mask.shape[1] - rows.flip(1).int().argmax(1)
    x1 = torch.where(columns.any(1), x1, x0)
    full = mask.sum((1, 2)) == (x1 - x0) * (y1 - y0)
    bounds: list[list[int]] = torch.stack([x0, y0, x1, y1, full], 1).tolist()
    return bounds


def power_normalised(S: Tensor, a: float, b: float) -> Tensor:
    """Non-negative maps, each divided by its a-norm, to the power 1/b.

    alpha_ij = (S_ij / z)^(1/b),  z = (sum_ij S_ij^a)^(1/a)

    where S: f32[..., h, w]; negative values count 0. Returns f32[..., h, w]; an all-zero map stays zero.

    Reference: Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated deep
    convolutional features", ECCV workshops 2016.
    """
    S = S.clamp(min=0)
    peak = S.amax((-2, -1), keepdim=True)
    S = S / torch.where(peak > 0, peak, 1)  # z scales with S, and peaks of 1 keep S^a within float32
    z = torch.linalg.vector_norm(S, a, (-2, -1), keepdim=True)
    return (S / torch.where(z > 0, z, 1)) ** (1 / b)


def spatial_weights(X: Tensor, a: float = 2, b: float = 2) -> Tensor:
    """CroW's weight of each cell: where many channels respond.

    S_ij = sum_c X_cij,  alpha_ij = (S_ij / z)^(1/b),  z = (sum_ij S_ij^a)^(1/a)

    where X: f32[C, h, w]. Returns f32[h, w], which does not reach 1; all zero where S is.
    See :func:`power_normalised`.
    """
    return power_normalised(X.sum(0), a, b)


def extent(grid: Grid) -> Box:
    """The box that a grid covers, in original pixels."""
    sx, sy, ox, oy = grid.transform
    return ox, oy, ox + sx * grid.w, oy + sy * grid.h


def region_masks(local: Local, regions: Regions | None) -> tuple[Tensor, Tensor]:
    """Which local features lie in which region.

    A cell lies in a region when its centre does, and in the region's mask where it has one; a mask that holds none
    of them does not count. Without regions there is one, the extent of the grid.
    Returns the masks bool[M, h, w], or bool[M, N] at points, and the boxes f32[M, 4].
    """
    geometry = getattr(local, "geometry", None)
    if regions is None:
        shape = local.grid.shape if geometry is None else (len(geometry),)
        return torch.ones(1, *shape, dtype=torch.bool), torch.tensor([extent(local.grid)])
    if geometry is None:
        inside = torch.from_numpy(local.grid.masks(regions.boxes.cpu()))
        x, y = map(torch.from_numpy, local.grid.centres())
        x, y = x[None], y[:, None]
    else:
        x, y = torch.from_numpy(geometry[:, :2].T)
        x0, y0, x1, y1 = regions.boxes.cpu()[..., None].unbind(1)
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    if regions.masks is not None:
        within = inside & regions.masked(x[None], y[None])
        inside = torch.where(within.flatten(1).any(1).reshape(-1, *(1,) * (inside.ndim - 1)), within, inside)
    return inside, regions.boxes


def weights_over(local: Local, weights: WeightMap | BoxWeight | None) -> Tensor | None:
    """One weight a local feature, f32[h, w] or f32[N], summed over the Z maps; None without weights."""
    return None if weights is None else torch.as_tensor(weights.over(local)).sum(0)
