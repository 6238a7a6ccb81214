"""A vector of soft residuals (Arandjelović, Gronat, Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly
supervised place recognition", CVPR 2016, section 3.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from instsearch_plugins.numeric.kmeans import kmeans
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Progress

RATIO = 100.0  #: of the largest to the second largest soft assignment, on average, where alpha is chosen
HELD = 1 << 24  #: of what vectors count for words in regions, held at once


class Vocabulary(NamedTuple):
    """Words c f32[K, D], and what assigns to them: w f32[K, D] and b f32[K]."""

    c: Tensor
    w: Tensor
    b: Tensor


def of_words(c: Tensor, alpha: float) -> Vocabulary:
    """w_k = 2 alpha c_k,  b_k = -alpha |c_k|^2: the nearer a word, the more it gets. Reference: equation 3."""
    return Vocabulary(c, 2 * alpha * c, -alpha * c.pow(2).sum(1))


def sharpness(x: Tensor, c: Tensor) -> float:
    """alpha with which a vector is assigned to its nearest word RATIO times as much as to the next, on average.

    alpha = log(RATIO) / mean_i (d_i2^2 - d_i1^2),  d_i1 <= d_i2 the distances of x_i to its two nearest words

    x: f32[n, D], c: f32[K, D]. 1 for a single word, and where all are equally near. Reference: appendix A.
    """
    if len(c) < 2:
        return 1.0
    d = torch.cdist(x, c).pow(2).topk(2, largest=False).values
    gap = float((d[:, 1] - d[:, 0]).mean())
    return math.log(RATIO) / gap if gap > 1e-9 else 1.0


def by_kmeans(x: Tensor, K: int, iterations: int, seed: int, progress: Progress) -> Vocabulary:
    """K words, or as many as there are vectors x f32[n, D] of unit length, and what assigns to them."""
    c, _ = kmeans(x, min(K, len(x)), iterations, seed, progress=progress)
    return of_words(c, sharpness(x, c))


def netvlad(x: Tensor, alpha: Tensor, words: Vocabulary) -> Tensor:
    """V_k = sum_i a_k(x_i) (x_i - c_k), each V_k of unit length: f32[M, K D].

    a_k(x_i) = exp(w_k x_i + b_k) / sum_k' exp(w_k' x_i + b_k')

    x: f32[n, D] of unit length, alpha: f32[M, n], what each counts in each region. Reference: equation 4.
    """
    a = torch.softmax(x @ words.w.T + words.b, dim=1)
    found = []
    for some in torch.split(alpha, max(1, HELD // max(a.numel(), 1))):
        counted = some[:, :, None] * a  # [m, n, K]
        V = torch.einsum("mnk,nd->mkd", counted, x) - counted.sum(1)[..., None] * words.c
        found.append(l2(V).flatten(1))
    return torch.cat(found)
