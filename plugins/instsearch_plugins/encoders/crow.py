"""Cross-dimensional weighting (CroW: Kalantidis, Mellina and Osindero, ECCV workshops 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from instsearch_cli.components import option
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.pooling import spatial_weights, sum_pool

if TYPE_CHECKING:
    from torch import Tensor


class CroW(PooledPicture):
    """psi_c = w_c sum_ij s_ij alpha_ij X_cij, then L2, PCA-whitening, L2.

    s are the spatial weights of the whole map, w the channel weights and alpha any other weights. In a
    region or a query's box s is masked, which but for a factor is s of these cells alone, and w is taken
    over the cells where alpha > 0: they are pooled as a picture of their own. ``channels`` may choose other w.
    """

    name: ClassVar[str] = "crow"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``crow``."""

        #: how channels are weighed: by CroW's sparsity, by MSCNet's Gram matrix, or not
        channels: Literal["none", "ssw", "gram-cs"] = option("ssw", omitted_at_default=True)
        a: float = 2  #: the norm that the spatial weights are divided by
        b: float = 2  #: the spatial weights are taken to the power 1/b
        form: Literal["code", "paper"] = (
            "code"  #: of the sparsity weights, as the authors' code or paper has it
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (self.a > 0 and self.b > 0):
                raise ValueError(f"a and b are above 0, not {self.a} and {self.b}")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`spatial_weights` and :func:`sum_pool`; the channels' weights come after it."""
        return sum_pool(X, alpha * spatial_weights(X, self.config.a, self.config.b))

    def _channels(self, X: Tensor, mask: Tensor) -> Tensor:
        if self.config.channels == "ssw":
            return channel_weights(X, mask, self.config.form)
        return super()._channels(X, mask)
