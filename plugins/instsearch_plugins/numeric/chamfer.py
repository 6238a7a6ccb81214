"""How alike two sets of local features are: Chamfer similarity (Barrow et al., 1977), of features as they are, or
decorrelated (Hariharan, Malik and Ramanan, "Discriminative decorrelation for clustering and classification", ECCV
2012).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Background(NamedTuple):
    """What local features are like that are not of the object: their mean f64[D], and L f64[D, D], lower triangular.

    L L^T is their covariance, with twice as much more along its diagonal as that has on the whole.
    """

    mean: Tensor
    L: Tensor

    @classmethod
    def of(cls, X: Tensor) -> Background:
        """That of unit vectors f32[n, D], 2 at least."""
        mean = X.mean(0, dtype=torch.float64)
        S = torch.cov((X - mean.float()).T).double()
        more = 2 * S.diagonal().mean().clamp(min=1e-9)
        return cls(mean, torch.linalg.cholesky(S + more * torch.eye(len(S), dtype=S.dtype, device=S.device)))

    def detectors(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        """What tells each of some unit vectors f32[m, D] from the background: A f32[m, D] and b f32[m].

        a_i = S^-1 (q_i - mu) / (q_i - mu)^T S^-1 (q_i - mu),  b_i = <a_i, mu>

        so that <a_i, x> - b_i is 1 for q_i itself, and 0 for the mean.
        """
        d = Q.double().T - self.mean[:, None]
        whitened = torch.cholesky_solve(d, self.L)
        A = (whitened / (whitened * d).sum(0).clamp(min=1e-9)).T
        return A.float(), (A @ self.mean).float()


def similarities(Q: Tensor, X: Sequence[Tensor], b: Tensor | None = None) -> Tensor:
    """How like each feature of a query each feature of some pictures is.

    S_ij = <q_i, x_j> / |x_j| - b_i

    Q: f32[m, D], unit vectors, or with b f32[m] those of :meth:`Background.detectors`; X: B times f32[n_b, D]. Returns
    f32[B, m, n], n being the largest n_b; -1 beyond a picture's own, and at its features that are all zero.
    """
    S = Q.new_full((len(X), len(Q), max(map(len, X))), -1)
    for s, x in zip(S, X, strict=True):
        length = torch.linalg.vector_norm(x, dim=1)
        own = s[:, : len(x)]
        torch.mm(Q, x.T, out=own).div_(length)
        if b is not None:
            own.sub_(b[:, None])
        own.masked_fill_(length == 0, -1)
    return S


def chamfer(S: Tensor) -> Tensor:
    """S(q, x) = 1/m sum_i max_j S_ij: f32[B, m, n] -> f32[B]."""
    return S.amax(2).mean(1)
