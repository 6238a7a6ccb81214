"""Image-wise pooling of activations (Salvador, Giró-i-Nieto, Marqués and Satoh, "Faster R-CNN features for instance
search", CVPR workshops 2016, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.pooling import max_pool, sum_pool

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Features, Vectors, WeightMap


class DeepVision(PooledPicture):
    """One vector of the whole picture: sums, L2, PCA-whitening, L2; or maxima, L2.

    The pipeline's regions are left to reranker `deepvision`, which describes them by the same. A query is its whole
    picture, too; what its box holds counts in that reranker.
    """

    localises: bool = False
    name: ClassVar[str] = "deepvision"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``deepvision``."""

        pool: Literal["sum", "max"] = "sum"  #: sums are whitened, maxima are not
        query_whole: bool = option(True, touches="query")  #: a query is its whole picture, whatever its box

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.pool == "max" and self.pairs:
                raise ValueError("maxima are not whitened: pairs go with pool=sum")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`sum_pool` and :func:`max_pool`."""
        return sum_pool(X, alpha) if self.config.pool == "sum" else max_pool(X, alpha > 0)

    def fit(self, data: Data, progress: Progress) -> State:
        """The whitening of sums; of maxima nothing."""
        return super().fit(data, progress) if self.config.pool == "sum" else {}

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> Vectors:
        """The query's whole picture, or its box alone: f32[1, d]."""
        if self.config.query_whole and isinstance(weights, BoxWeight):
            weights = weights.weights
        return self.aggregate(local, weights, None)
