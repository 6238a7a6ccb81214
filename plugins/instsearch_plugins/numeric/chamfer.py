"""How alike two sets of local features are: Chamfer similarity (Barrow et al., 1977)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def similarities(Q: Tensor, X: Sequence[Tensor]) -> Tensor:
    """How like each feature of a query each feature of some pictures is.

    S_ij = <q_i, x_j> / |x_j|

    Q: f32[m, D], unit vectors, X: B times f32[n_b, D]. Returns f32[B, m, n], n being the largest n_b; -1 beyond a
    picture's own, and at its features that are all zero.
    """
    S = Q.new_full((len(X), len(Q), max(map(len, X))), -1)
    for s, x in zip(S, X, strict=True):
        length = torch.linalg.vector_norm(x, dim=1)
        s[:, : len(x)] = (Q @ x.T).div_(length).masked_fill_(length == 0, -1)
    return S


def chamfer(S: Tensor) -> Tensor:
    """S(q, x) = 1/m sum_i max_j S_ij: f32[B, m, n] -> f32[B]."""
    return S.amax(2).mean(1)
