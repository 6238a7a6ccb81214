"""CroW's weights of channels (Kalantidis, Mellina and Osindero, ECCV workshops 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  #: of the paper's form, which leaves its value open


def channel_weights(X: Tensor, mask: Tensor, form: str = "code") -> Tensor:
    """CroW's weight of each channel: the fewer cells it responds in, the more it tells.

    Q_c = #{ij in mask: X_cij > 0} / #mask
    code:   w_c = log(sum_k Q_k / Q_c), or 0 where Q_c = 0
    paper:  w_c = log((C eps + sum_k Q_k) / (eps + Q_c))

    where X: f32[C, h, w], mask: bool[M, h, w], eps = 1e-6. Returns f32[M, C]. In the authors' code a channel
    that responds alone gets 0.
    """
    inside = mask.flatten(1).to(X.dtype)
    Q = inside @ (X > 0).flatten(1).to(X.dtype).T / inside.sum(1, keepdim=True).clamp(min=1)
    total = Q.sum(1, keepdim=True)
    if form == "paper":
        return torch.log((Q.shape[1] * EPSILON + total) / (EPSILON + Q))
    return torch.where(Q > 0, torch.log(total / Q), 0)
