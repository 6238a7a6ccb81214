"""Generalised mean pooling (GeM: Radenović, Tolias and Chum, TPAMI 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from instsearch_plugins.encoders.pooled import Pooled

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


class GeM(Pooled):
    """psi_c = (1/n sum_ij max(alpha_ij X_cij, eps)^p)^(1/p), then L2, PCA-whitening, L2.

    Weights scale the activations before the power: alpha_ij counts as alpha_ij^p. Cells of weight 0 are left
    out, those outside a region or a query's box among them.
    """

    name: ClassVar[str] = "gem"

    @dataclass(frozen=True)
    class Config(Pooled.Config):
        """Options of ``gem``."""

        p: float = 3  #: the power; 1 averages, a large one takes the maximum
        eps: float = 1e-6  #: smaller activations count as this

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (self.p > 0 and self.eps > 0):
                raise ValueError(f"p and eps are above 0, not {self.p} and {self.eps}")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`gem_pool`."""
        return gem_pool(X, alpha, self.config.p, self.config.eps)
