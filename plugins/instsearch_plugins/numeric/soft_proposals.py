"""Soft proposals (Zhu, Zhou, Ye, Qiu and Jiao, "Soft proposal networks for weakly supervised object localization", ICCV
2017, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

MOST = 4096  #: cells of the graph; larger maps are averaged down to it


def transitions(U: Tensor, factor: float) -> Tensor:
    """Where a walk goes from each cell: f32[n, n], the columns of which sum to 1, n = h w.

    D_ij = |u_i - u_j| exp(-|p_i - p_j|^2 / (2 (factor N)^2)),  E_ij = D_ij / sum_i D_ij

    U: f32[C, h, w], p the cells' places and N the longer side of the map, which the paper has square. From a cell that
    differs from none it goes everywhere alike. Reference: equations 1 and 2.
    """
    C, h, w = U.shape
    u = U.reshape(C, -1).T
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    p = torch.stack([y.reshape(-1), x.reshape(-1)], 1).to(u)
    D = torch.cdist(u, u) * torch.exp(-(torch.cdist(p, p) ** 2) / (2 * (factor * max(h, w)) ** 2))
    total = D.sum(0, keepdim=True)
    return torch.where(total > 0, D / total.where(total > 0, 1), 1 / len(D))


def objectness(U: Tensor, factor: float = 0.15, tolerance: float = 1e-4, iterations: int = 20) -> Tensor:
    """M, where a walk ends that prefers what differs from its surroundings: f32[C, h, w] -> f32[h, w], of sum 1.

    M <- E M,  M = 1 / n at first, until its values change by less than ``tolerance`` of their mean

    Reference: equation 3. Maps of more than MOST cells are averaged before, and M is enlarged again.
    """
    h, w = U.shape[1:]
    step = 1
    while -(-h // step) * -(-w // step) > MOST:
        step += 1
    small = F.avg_pool2d(U[None].float(), step, ceil_mode=True)[0]
    E = transitions(small, factor)
    M = E.new_full((len(E),), 1 / len(E))
    for _ in range(iterations):
        before, M = M, E @ M
        if (M - before).abs().max() < tolerance / len(M):
            break
    M = M.reshape(1, 1, *small.shape[1:])
    if step > 1:
        M = F.interpolate(M, size=(h, w), mode="bilinear", align_corners=False)
    return M[0, 0] / M.sum()
