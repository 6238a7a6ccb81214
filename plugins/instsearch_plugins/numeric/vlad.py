"""Vectors of locally aggregated descriptors (Jégou, Perronnin, Douze, Sánchez, Pérez and Schmid, "Aggregating local
image descriptors into compact codes", TPAMI 2011), with the residuals and the local coordinate systems of
Delhumeau, Gosselin, Jégou and Pérez, "Revisiting the VLAD image representation", ACM Multimedia 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instsearch_plugins.numeric.kmeans import nearest
from instsearch_plugins.numeric.whitening import mean_and_covariance

if TYPE_CHECKING:
    from torch import Tensor

ZERO = 1e-6  #: a residual this short, beside its word, is rounding
BATCH = 4096  # residuals that are added to a covariance at once


def residuals(x: Tensor, centroids: Tensor, unit: bool = True) -> tuple[Tensor, Tensor]:
    """What each vector is off its word, the nearest centroid.

    a_i = argmin_k ||x_i - c_k||,  r_i = x_i - c_(a_i),  with ``unit`` divided by its length

    x: f32[n, D], centroids: f32[K, D]. A residual of length 0 stays 0. Returns a i64[n], r f32[n, D].
    """
    a = nearest(x, centroids)
    c = centroids[a]
    r = x - c
    if unit:
        length = r.norm(dim=1, keepdim=True)
        some = length > ZERO * c.norm(dim=1, keepdim=True)
        r = torch.where(some, r / torch.where(some, length, 1), 0)
    return a, r


def aggregated(r: Tensor, a: Tensor, alpha: Tensor, K: int) -> Tensor:
    """The residuals of each word added up.

    V_mk = sum_{i: a_i = k} alpha_mi r_i

    r: f32[n, D], a: i64[n], alpha: f32[M, n]. Returns f32[M, K, D].
    """
    words = [a == k for k in range(K)]
    return torch.stack([alpha[:, word] @ r[word] for word in words], 1)


def local_axes(r: Tensor, a: Tensor, K: int) -> Tensor:
    """The principal axes of each word's residuals, as the columns of a rotation, largest variance first.

    C_k = R_k diag(lambda_k) R_k^T, the covariance of {r_i: a_i = k}

    A word without residuals is not rotated. r: f32[n, D], a: i64[n]. Returns f32[K, D, D].
    """
    R = torch.eye(r.shape[1], device=r.device).repeat(K, 1, 1)
    for k in range(K):
        own = r[a == k]
        if len(own):
            C = mean_and_covariance(torch.split(own, BATCH))[2]
            R[k] = torch.linalg.eigh(C).eigenvectors.flip(1).float()
    return R


def signed_power(v: Tensor, a: float) -> Tensor:
    """sign(v) |v|^a, element by element."""
    return v.sign() * v.abs() ** a
