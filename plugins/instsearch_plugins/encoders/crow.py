"""Cross-dimensional weighting (CroW: Kalantidis, Mellina and Osindero, ECCV workshops 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from instsearch_plugins.encoders.pooled import Pooled
from instsearch_plugins.numeric.pooling import spatial_weights, sum_pool

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


class CroW(Pooled):
    """psi_c = w_c sum_ij s_ij alpha_ij X_cij, then L2, PCA-whitening, L2.

    s are the spatial weights of the whole map, w the channel weights and alpha any other weights. In a
    region or a query's box s is masked, which but for a factor is s of these cells alone, and w is taken
    over the cells where alpha > 0: they are pooled as a picture of their own.
    """

    name: ClassVar[str] = "crow"

    @dataclass(frozen=True)
    class Config(Pooled.Config):
        """Options of ``crow``."""

        a: float = 2  #: the norm that the spatial weights are divided by
        b: float = 2  #: the spatial weights are taken to the power 1/b
        form: Literal["code", "paper"] = (
            "code"  #: of the channel weights, as the authors' code or paper has it
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (self.a > 0 and self.b > 0):
                raise ValueError(f"a and b are above 0, not {self.a} and {self.b}")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`spatial_weights`, :func:`channel_weights` and :func:`sum_pool`."""
        s = spatial_weights(X, self.config.a, self.config.b)
        return channel_weights(X, alpha > 0, self.config.form) * sum_pool(X, alpha * s)
