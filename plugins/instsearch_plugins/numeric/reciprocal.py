"""Distances by k-reciprocal neighbours (Zhong, Zheng, Cao and Li, "Re-ranking person re-identification with
k-reciprocal encoding", CVPR 2017, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def reciprocal(near: Tensor, k: int) -> Tensor:
    """R(p, k) = {g in N(p, k): p in N(g, k)} as bool[n, n]; ``near`` i64[n, n] has neighbours, nearest first."""
    N = torch.zeros(near.shape, dtype=torch.bool, device=near.device)
    N.scatter_(1, near[:, :k], value=True)
    return N & N.T


def expanded(near: Tensor, k: int) -> Tensor:
    """R*(p, k) = R(p, k) and all R(c, k / 2) of which it has two thirds, for c in R(p, k): bool[n, n].

    |R(p, k) and R(c, k / 2)| >= 2/3 |R(c, k / 2)|

    Reference: equation 3.
    """
    R, half = reciprocal(near, k).float(), reciprocal(near, round(k / 2)).float()
    shared = R @ half.T  # |R(p, k) and R(c, k / 2)|
    taken = R * (shared >= 2 / 3 * half.sum(1)).float()
    return ((taken @ half) + R) > 0


def jaccard(V: Tensor) -> Tensor:
    """1 - sum_g min(V_0g, V_ig) / sum_g max(V_0g, V_ig) of the first row and each other: f32[n, n] -> f32[n - 1]."""
    low, high = torch.minimum(V[:1], V[1:]).sum(1), torch.maximum(V[:1], V[1:]).sum(1)
    return 1 - low / high.clamp(min=1e-12)


def distances(X: Tensor, k1: int, k2: int, lam: float) -> Tensor:
    """How far a query, the first row of X f32[n, D] of unit vectors, is from each of the others: f32[n - 1].

    d*(p, i) = (1 - lam) d_J(p, i) + lam d(p, i),  d(p, i) = |x_p - x_i|^2

    V_pg = exp(-d(p, g)) where g is in R*(p, k1), else 0, over its sum; then V_p is the mean of its k2 nearest ones'.
    d_J is :func:`jaccard` of these. Each is the nearest of its own neighbours.

    Reference: equations 5 to 12; V over its sum, which the paper has not, is its authors' code's.
    """
    d = (2 - 2 * X @ X.T).clamp(min=0).fill_diagonal_(-1)
    near = d.argsort(dim=1, stable=True)
    d.fill_diagonal_(0)
    V = torch.where(expanded(near, k1), torch.exp(-d), d.new_zeros(()))
    V /= V.sum(1, keepdim=True)
    if k2 > 1:
        V = V[near[:, :k2]].mean(1)
    return (1 - lam) * jaccard(V) + lam * d[0, 1:]
