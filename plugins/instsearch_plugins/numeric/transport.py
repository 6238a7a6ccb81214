"""Optimal transport between two sets of local features, with dustbins for those that match nothing (Cuturi, "Sinkhorn
distances", NeurIPS 2013; Sarlin, DeTone, Malisiewicz and Rabinovich, "SuperGlue", CVPR 2020, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def transported(
    S: Tensor, there: Tensor, dustbin: float, temperature: float = 10.0, iterations: int = 10
) -> Tensor:
    """How much of each query feature goes to each feature of a picture.

    P = argmax_P sum_ij P_ij S_ij + H(P) / t  over P >= 0 with  P 1 = a, P^T 1 = b
    a = (1, ..., 1, n),  b = (1, ..., 1, m)

    where S has a row and a column more, the dustbins, of the value ``dustbin``; t is the ``temperature``. P comes of
    so many iterations of Sinkhorn: u = a / K v, v = b / K^T u, with K = exp(t S) and P = diag(u) K diag(v).

    S: f32[B, m, n] of B pictures, at most about 1; there: bool[B, n], which of the n are there. Returns f32[B, m, n]
    without the dustbins, each row and each column of it adding up to 1 at most; 0 where nothing is there.
    """
    B, m, n = S.shape
    K = S.new_full((B, m + 1, n + 1), dustbin, dtype=torch.float64)  # exp(-2 t) is nothing in 32 bits
    K[:, :m, :n] = S
    K = ((K - 1) * temperature).exp()
    a, b = K.new_ones(B, m + 1), K.new_full((B, n + 1), float(m))
    a[:, m], b[:, :n] = there.sum(1), there
    v = torch.cat([b[:, :n], b.new_ones(B, 1)], 1)
    u = a
    for _ in range(iterations):
        u = a / torch.bmm(K, v[:, :, None])[:, :, 0]
        v = b / torch.bmm(u[:, None], K)[:, 0]
    return (u[:, :, None] * K * v[:, None])[:, :m, :n].to(S.dtype)
