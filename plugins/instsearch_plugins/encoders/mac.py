"""Maximum activations of convolutions (Tolias, Sicre and Jégou, ICLR 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.pooling import max_pool

if TYPE_CHECKING:
    from torch import Tensor


class MAC(PooledPicture):
    """psi_c = max_{ij: alpha_ij > 0} X_cij, then L2, PCA-whitening, L2: weights only mask."""

    name: ClassVar[str] = "mac"

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`max_pool`."""
        return max_pool(X, alpha > 0)
