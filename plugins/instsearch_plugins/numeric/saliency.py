"""Feature saliency and object saliency of a feature map (Siméoni, Iscen, Tolias, Avrithis and Chum, "Unsupervised
object discovery for instance recognition", WACV 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as nn

from instsearch_plugins.numeric.pooling import power_normalised

if TYPE_CHECKING:
    from torch import Tensor


def feature_saliency(A: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Where the channels respond that rarely do (eq. 1 and 2).

    a_j = share of the cells p with A_jp != 0,  b_j = log(sum_i (a_i + epsilon) / (a_j + epsilon))
    F = sum_j b_j A_j,  F^ = (F / ||F||_2)^(1/2)

    A: f32[C, h, w]. Returns F^ f32[h, w], which does not reach 1 but on a map with one live cell; all zero where
    F is, as it is of a single channel. The paper leaves epsilon open; it only touches channels that are nearly dead.
    """
    a = (A != 0).flatten(1).to(A.dtype).mean(1) + epsilon
    b = (a.sum() / a).log()
    return power_normalised(torch.einsum("c,chw->hw", b, A), 2, 2)


def patch_maxima(A: Tensor, a: int) -> Tensor:
    """The largest value of each channel in the a x a cells around each cell, fewer at the border.

    A: f32[C, h, w]; a is odd. Returns f32[C, h, w].
    """
    across = nn.max_pool2d(A[None], (1, a), stride=1, padding=(0, a // 2))
    return nn.max_pool2d(across, (a, 1), stride=1, padding=(a // 2, 0))[0]


def attention(products: Tensor, worth: Tensor, beta: float) -> Tensor:
    """The sum of eq. 14, over the neighbours of each patch.

    sum_{i in N_p} max(<v_i, u_p>, 0)^beta f_i^theta g_i

    with products <v_i, u_p> f32[P, k] and worth f_i^theta g_i f32[P, k]. Returns f32[P].
    """
    return (products.clamp(min=0) ** beta * worth).sum(1)
