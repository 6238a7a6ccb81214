"""Whitening: by PCA (Jégou and Chum, "Negative evidences and co-occurrences in image retrieval", ECCV 2012), and
by matching pairs (Mikolajczyk and Matas, "Improving descriptors for fast tree matching by optimal linear
projection", ICCV 2007; Radenović, Tolias and Chum, "CNN image retrieval learns from BoW", ECCV 2016).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instsearch_formats import Array
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

LEARNT = {
    "mean": Array("f4", ("C",), group="whitening"),
    "projection": Array("f4", ("C", "d"), group="whitening"),
}
"""A whitening as a model keeps it, if it has one."""

ENOUGH = 24  #: images to whiten by: half as many again as the 16 dimensions that are kept of ever so few
FLOOR = 1e-12  #: variances at or below this share of the largest are rounding errors


def mean_and_covariance(batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and covariance of rows that come in batches.

    mu = sum_i x_i / n,  C = sum_i (x_i - mu)(x_i - mu)^T / (n - 1)

    Each batch f32[b, D] is centred on its own mean before it is added, so that nothing cancels. Returns
    n, mu f64[D], C f64[D, D] (zero for a single row). Raises ValueError if there is no row at all.

    Reference: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """
    n, mean, scatter = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        x = batch.to(torch.float64)
        b, m = len(x), x.mean(0)
        x = x - m
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
    return whitening_of(mean, covariance, dims)


def whitening_of(mean: Tensor, covariance: Tensor, dims: int = 0) -> tuple[Tensor, Tensor]:
    """:func:`pca_whitening` from what :func:`mean_and_covariance` gives."""
    variance, V = _largest(covariance, dims)
    if len(variance) == 0:
        return torch.zeros_like(mean, dtype=torch.float32), torch.eye(len(mean), device=mean.device)
    return mean.float(), (V / variance.sqrt()).float().contiguous()


def pca_whitening_of_few(x: Tensor, dims: int = 0) -> tuple[Tensor, Tensor]:
    """The same from fewer rows than dimensions, without the D x D covariance.

    G = X X^T / (n - 1) = U diag(lambda) U^T,  P = X^T U_d diag(1 / lambda_d) / sqrt(n - 1)

    where the rows of X are x_i - mu. G has the covariance's variances, but for its zeros. x: f32[n, D], with
    rows that differ. Returns mu f32[D], P f32[D, d].
    """
    mean = x.mean(0, dtype=torch.float64)
    X, r = x - mean, len(x) - 1
    variance, U = _largest(X @ X.T / r, dims)
    return mean.float(), (X.T @ (U / (variance * r**0.5))).float()


def turned_if_few(projection: Tensor, n: int, images: int) -> Tensor:
    """P where there are enough vectors of enough images to scale the axes by; else V_d, the same axes unscaled.

    n vectors whose n - 1 axes all have unit variance are the corners of a regular simplex: each is as far from every
    other, and what ranks them is rounding. With a few more than axes they are nearly so. projection: P f32[D, d].
    """
    return l2(projection, dim=0) if images < ENOUGH or projection.shape[1] >= n - 1 else projection


def supervised_whitening(
    X: Tensor, q: Tensor, p: Tensor, dims: int = 0, shrink: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Learn y = P^T (x - mu) that undoes what differs between matching vectors.

    mu = mean of x_q,  S = sum_i (x_q_i - x_p_i)(x_q_i - x_p_i)^T / n,  S = L L^T
    Y = L^(-1) (X - mu)^T,  Y Y^T = U diag(lambda) U^T,  P = L^(-T) U_d

    where x_q_i matches x_p_i, i = 1 ... n, and d are the ``dims`` largest lambda (0: all), less those that are
    rounding errors. P^T S P = I. With ``shrink`` = rho S is brought towards a sphere, (1 - rho) S + rho (tr S / D) I:
    pairs of few images say nothing of some directions, which would count most. A singular S gets 1e-10, or as many
    times ten of it as it takes, added to its diagonal. X: f32[N, D], q, p: i64[n], rows of X. Returns mu f32[D],
    P f32[D, d]. Raises ValueError if X has values that are not finite.

    Reference: Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018.
    """
    x = X.to(torch.float64)
    mean, difference = x[q].mean(0), x[q] - x[p]
    S = difference.T @ difference / len(difference)
    S = (1 - shrink) * S + shrink * S.trace() / len(S) * torch.eye(len(S), dtype=S.dtype, device=S.device)
    L = _cholesky(S)
    Y = torch.linalg.solve_triangular(L, (x - mean).T, upper=False)
    _, U = _largest(Y @ Y.T, dims)
    P = torch.linalg.solve_triangular(L.T, U, upper=True)
    return mean.float(), P.float().contiguous()


def _cholesky(S: Tensor) -> Tensor:
    """The lower triangle L of S = L L^T; a singular S is helped."""
    for alpha in (0.0, *(10.0**t for t in range(-10, 4))):
        L: Tensor
        L, failed = torch.linalg.cholesky_ex(S + alpha * torch.eye(len(S), dtype=S.dtype, device=S.device))
        if not failed:
            return L
    raise ValueError("the differences of the pairs are not finite")


def _largest(symmetric: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """The ``dims`` largest eigenvalues (0: all), without those that are rounding errors, and their vectors."""
    values, vectors = torch.linalg.eigh(symmetric)
    values, vectors = values.flip(0), vectors.flip(1)
    d = int((values > max(FLOOR * values[0].item(), 0)).sum())
    d = min(dims or d, d)
    return values[:d], vectors[:, :d]


def whiten(x: Tensor, mean: Tensor, projection: Tensor) -> Tensor:
    """y = P^T (x - mu) for each row: f32[n, D] -> f32[n, d]."""
    return (x - mean) @ projection
