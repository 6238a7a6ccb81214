"""Aggregated selective match kernels (Tolias, Avrithis and Jégou, "To aggregate or not to aggregate: selective match
kernels for image search", ICCV 2013; "Image search with selective match kernels", IJCV 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_plugins.numeric.kmeans import nearest
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from torch import Tensor

TILE = 1 << 22  # scores held at once
HELD = 1 << 24  # values of features in regions held at once


def nearest_words(x: Tensor, centroids: Tensor, k: int) -> Tensor:
    """The k nearest centroids of each row, in bounded memory: f32[n, D], f32[K, D] -> i64[n, min(k, K)]."""
    if k == 1:
        return nearest(x, centroids)[:, None]
    half = centroids.square().sum(1) / 2
    step = max(1, TILE // len(centroids))
    found = [
        torch.addmm(half, rows, centroids.T, beta=-1).topk(min(k, len(centroids)), dim=1).indices
        for rows in torch.split(x, step)
    ]
    return torch.cat(found) if found else x.new_zeros((0, min(k, len(centroids))), dtype=torch.int64)


def aggregated_residuals(
    x: Tensor, words: Tensor, alpha: Tensor, centroids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the features of each word are off it together, region by region.

    V_rc = L2(sum_{i: c in a_i} alpha_ri (x_i - c))

    x: f32[n, D], words a: i64[n, k], alpha: f32[M, n], centroids c: f32[K, D]. Returns the regions i64[p] and the words
    i64[p] that something was added up for, ascending, and V f32[p, D]; sums of zero are left out.
    """
    step = max(1, HELD // max(x.numel(), 1))
    found = [_aggregated(x, words, part, centroids) for part in torch.split(alpha, step)]
    region, word, V = zip(*found, strict=True)
    return torch.cat([each + i * step for i, each in enumerate(region)]), torch.cat(word), torch.cat(V)


def _aggregated(x: Tensor, words: Tensor, alpha: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    K, k = len(centroids), words.shape[1]
    region, i = (alpha > 0).nonzero(as_tuple=True)
    own = words[i]
    key, place = torch.unique((region[:, None] * K + own).flatten(), return_inverse=True)
    V = x.new_zeros(len(key), x.shape[1])
    for j, at in enumerate(place.view(-1, k).unbind(1)):
        V.index_add_(0, at, alpha[region, i][:, None] * (x[i] - centroids[own[:, j]]))
    some = V.any(1)
    return key[some] // K, key[some] % K, l2(V[some])


def rotation(D: int) -> Tensor:
    """A random rotation R f32[D, D], always the same: signs of R x are worth alike, whatever the axes of x are."""
    generator = torch.Generator().manual_seed(0)
    Q, R = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    turned: Tensor = (Q * R.diagonal().sign()).T.float()
    return turned


def selected(u: np.ndarray, alpha: float, tau: float) -> np.ndarray:
    """The selectivity function: sigma(u) = sign(u) |u|^alpha for u > tau, 0 otherwise: f32[n] -> f32[n]."""
    kept: np.ndarray = np.where(u > tau, np.sign(u) * np.abs(u) ** np.float32(alpha), np.float32(0))
    return kept
