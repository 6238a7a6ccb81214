"""Weighted sum pooling (SPoC: Babenko and Lempitsky, ICCV 2015; SUM of Mohedano et al. 2018, table 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.pooling import sum_pool

if TYPE_CHECKING:
    from torch import Tensor


class SumPooling(PooledPicture):
    """psi_c = sum_ij alpha_ij X_cij, then L2, PCA-whitening, L2."""

    name: ClassVar[str] = "sum"

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`sum_pool`."""
        return sum_pool(X, alpha)
