"""Selected descriptors by their mean and their maximum (SCDA: Wei, Luo, Wu and Zhou, IEEE TIP 2017, section III.C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from instsearch_cli.components import option
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import max_pool, sum_pool

if TYPE_CHECKING:
    from torch import Tensor


class SCDA(PooledPicture):
    """psi = [L2(mean of the selected X), L2(max of the selected X)], then L2.

    Which are selected says the weighting, `scda`'s in the paper: the cells that it does not make 0.
    """

    name: ClassVar[str] = "scda"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``scda``."""

        whiten: bool = option(
            False, omitted_at_default=True
        )  #: PCA-whiten the vectors, which the paper does not

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """X f32[C, h, w], alpha f32[M, h, w] -> f32[M, 2 C]; the mean is a sum here: its length does not count."""
        selected = alpha > 0
        return torch.cat([l2(sum_pool(X, selected.to(X.dtype))), l2(max_pool(X, selected))], 1)
