"""The weakly supervised triplet ranking loss, and the negatives that it is worth to learn from (Arandjelović, Gronat,
Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly supervised place recognition", CVPR 2016, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def triplet_losses(q: Tensor, p: Tensor, n: Tensor, m: float) -> Tensor:
    """l_j = max(0, min_i d^2(q, p_i) + m - d^2(q, n_j)) of each negative j: f32[N]; L is their sum.

    Which of the positives matches is not known: the nearest is taken to, and it alone has a gradient.

    q: f32[D], p: f32[P, D] its potential positives, P > 0, n: f32[N, D] its negatives, m the margin. Reference:
    equation 7.
    """
    positive = (p - q).square().sum(1).min()
    return (positive + m - (n - q).square().sum(1)).clamp(min=0)


def hardest(
    d: np.ndarray, others: np.ndarray, before: np.ndarray, sampled: int, most: int, rng: np.random.Generator
) -> np.ndarray:
    """The ``most`` nearest of ``sampled`` negatives by chance and of those of the last time, the nearest first.

    d: f32[N], squared distances of all images to the query, others: i64[n], those that are negatives, before: i64[m].
    Equal distances come in the order of the rows. Returns i64[at most ``most``]. Reference: appendix A.
    """
    pool = rng.choice(others, sampled, replace=False) if len(others) > sampled else others
    pool = np.union1d(pool, before)
    return np.asarray(pool[np.argsort(d[pool], kind="stable")[:most]])
