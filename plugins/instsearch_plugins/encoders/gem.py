"""Generalised mean pooling (GeM: Radenović, Tolias and Chum, TPAMI 2019), with the variants of SuperGlobal (Shao, Chen,
Karpur, Cui, Araujo and Cao, "Global features are all you need for image retrieval and reranking", ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from instsearch_cli.components import option
from instsearch_plugins.encoders.pooled import PooledPicture

if TYPE_CHECKING:
    from torch import Tensor


def gem_pool(X: Tensor, alpha: Tensor, p: float = 3, eps: float = 1e-6) -> Tensor:
    """Generalised mean of the weighted cells: the average at p = 1, the maximum as p grows.

    psi_c = (1/n sum_{ij: alpha_ij > 0} max(alpha_ij X_cij, eps)^p)^(1/p)

    where n counts these cells, X: f32[C, h, w], alpha: f32[M, h, w]. Returns f32[M, C]; a row is zero where
    no alpha_ij X_cij is above eps.
    """
    X = X.flatten(1)
    psi = X.new_zeros(len(alpha), len(X))
    for row, weight in zip(psi, alpha.flatten(1), strict=True):
        inside = weight > 0
        v = X[:, inside] * weight[inside]
        if (v > eps).any():
            v = v.clamp(min=eps)
            peak = v.amax(1, keepdim=True)  # v^p stays within float32
            row.copy_(peak[:, 0] * (v / peak).pow(p).mean(1).pow(1 / p))
    return psi


def regional_gem(X: Tensor, side: int, p: float = 2.5) -> Tensor:
    """Regional-GeM: each cell averaged with the generalised mean of the window around it.

    X'_cij = X_cij / 2 + (1/n sum_{kl in W_ij} X_ckl^p)^(1/p) / 2

    where W_ij are ``side`` by ``side`` cells, an odd number, n those of them on the map; negative values count 0.
    X: f32[C, h, w]. Returns f32[C, h, w]. Reference: SuperGlobal, section 3.2.
    """
    X = X.clamp(min=0)
    peak = X.amax((1, 2), keepdim=True).clamp(min=torch.finfo(X.dtype).tiny)  # X^p stays within float32
    mean = F.avg_pool2d((X / peak).pow(p), side, 1, side // 2, count_include_pad=False)
    return X / 2 + peak * mean.pow(1 / p) / 2


class GeM(PooledPicture):
    """psi_c = (1/n sum_ij max(alpha_ij X_cij, eps)^p)^(1/p), then L2, PCA-whitening, L2.

    Weights scale the activations before the power: alpha_ij counts as alpha_ij^p. Cells of weight 0 are left
    out, those outside a region or a query's box among them.

    The variants of SuperGlobal: GeM+ is another ``p``, 4.6 theirs; Regional-GeM is ``window`` = 5, before the pooling;
    Scale-GeM is ``sizes`` = max, over the unit vectors of a picture's sizes (``extractor.scales``).
    """

    name: ClassVar[str] = "gem"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``gem``."""

        p: float = 3  #: the power; 1 averages, a large one takes the maximum
        eps: float = 1e-6  #: smaller activations count as this
        #: cells a side of the windows whose generalised mean is averaged with each cell; 1: no windows
        window: int = option(1, omitted_at_default=True)
        window_p: float = option(2.5, only_with="window")  #: the power within the windows
        #: what joins the unit vectors of a picture's sizes: their sum, or the largest of each value
        sizes: Literal["sum", "max"] = option("sum", omitted_at_default=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.window < 1 or self.window % 2 == 0 or not self.window_p > 0:
                raise ValueError(f"window is odd and window-p above 0, not {self.window} and {self.window_p}")
            if not (self.p > 0 and self.eps > 0):
                raise ValueError(f"p and eps are above 0, not {self.p} and {self.eps}")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`gem_pool` and :func:`regional_gem`."""
        if self.config.window > 1:
            X = regional_gem(X, self.config.window, self.config.window_p)
        return gem_pool(X, alpha, self.config.p, self.config.eps)

    def _joined(self, units: list[Tensor]) -> Tensor:
        return torch.stack(units).amax(0) if self.config.sizes == "max" else super()._joined(units)
