"""PCA-whitening (Jégou and Chum, "Negative evidences and co-occurrences in image retrieval", ECCV 2012)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

FLOOR = 1e-12  #: variances at or below this share of the largest are rounding errors


def mean_and_covariance(batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and covariance of rows that come in batches.

    mu = sum_i x_i / n,  C = sum_i (x_i - mu)(x_i - mu)^T / (n - 1)

    Each batch f32[b, D] is centred on its own mean before it is added, so that nothing cancels. Returns
    n, mu f64[D], C f64[D, D] (zero for a single row). Raises ValueError if there is no row at all.

    Reference: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """
    n = 0
    for batch in batches:
        x = batch.to(torch.float64)
        b, m = len(x), x.mean(0)
        x = x - m
        if n == 0:
            n, mean, scatter = b, m, x.T @ x
        else:
            delta = m - mean
            mean = mean + delta * (b / (n + b))
            scatter = scatter + x.T @ x + torch.outer(delta, delta) * (n * b / (n + b))
            n += b
    if n == 0:
        raise ValueError("there are no vectors to learn the whitening from")
    return n, mean, scatter / max(n - 1, 1)


def pca_whitening(batches: Iterable[Tensor], dims: int = 0) -> tuple[Tensor, Tensor]:
    """Learn y = P^T (x - mu) whose components are uncorrelated and of unit variance.

    C = V diag(lambda) V^T,  P = V_d diag(lambda_d)^(-1/2)

    where d are the ``dims`` largest variances (0: all), at most the rank of C: dead channels, and directions
    that fewer than D + 1 rows leave open, have none to scale by and are dropped. Without any variance (one
    row) P is the identity and mu is 0. Returns mu f32[D], P f32[D, d].
    """
    _, mean, covariance = mean_and_covariance(batches)
    variance, directions = torch.linalg.eigh(covariance)
    variance, directions = variance.flip(0), directions.flip(1)
    rank = int((variance > FLOOR * variance[0]).sum()) if variance[0] > 0 else 0
    d = min(dims or len(mean), rank)
    if d == 0:
        return torch.zeros_like(mean, dtype=torch.float32), torch.eye(len(mean), device=mean.device)
    return mean.float(), (directions[:, :d] / variance[:d].sqrt()).float().contiguous()


def whiten(x: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
    """y = P^T (x - mu) for each row: f32[n, D] -> f32[n, d]."""
    return (x - mean) @ projection
