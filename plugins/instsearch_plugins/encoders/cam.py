"""Class-weighted convolutional features (Jiménez, Álvarez and Giró-i-Nieto, "Class-weighted convolutional features
for visual instance search", BMVC 2017; Jiménez, master's thesis, UPC, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, FeatureMap, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.abilities import ClassEncoder
from instsearch_plugins.encoders.pooled import Pooled
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent, sum_pool
from instsearch_plugins.numeric.regions import touched_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Features, Regions, WeightMap


class CAM(Pooled, ClassEncoder):
    """D = L2 of sum_c w(F^c), F^c one vector a class, w = L2, PCA-whitening, L2 (section 5).

    f_k^c = CW_k sum_ij X_kij CAM_cij,  CW_k = log(sum_n Q_n / Q_k),  Q_k = share of cells with X_k > 0

    The classes are those of the weighting `cam`: of each picture its own, or the same for all (offline aggregation).
    A query's box is cut out of the map of the whole picture, channel weights and all.
    """

    name: ClassVar[str] = "cam"
    localises: bool = False

    @dataclass(frozen=True)
    class Config(Pooled.Config):
        """Options of ``cam``."""

        #: how channels are weighed: CW, by MSCNet's Gram matrix, or not; of all cells, or all in a query's box
        channels: Literal["none", "ssw", "gram-cs"] = option("ssw", omitted_at_default=True)
        #: dimensions kept by the whitening; 0: one for every 8 of the vectors it is learnt from
        dims: int = 0
        n_pca: int = 1  #: classes of each picture, the first of its maps, that the whitening is learnt from
        whiten: bool = True  #: PCA-whiten each class's vector
        #: class vectors are added up, or joined by the largest of each value
        join: Literal["sum", "max"] = option("sum", omitted_at_default=True)
        #: each class map gives a vector; false: any weighting's maps are added up, and `none` gives eq. 5.3
        #: without maps, the baselines of table 6.1
        cams: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.n_pca < 1:
                raise ValueError("n-pca is at least 1")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.by_class = config.cams

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`sum_pool`; alpha: f32[Z, h, w], the class maps over the cells of X. Returns f32[Z, C]."""
        return sum_pool(X, alpha)

    def _channels(self, X: Tensor, mask: Tensor) -> Tensor:
        return super()._channels(X, torch.ones_like(mask[:1]))

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening from unit vectors of each sampled picture's first ``n_pca`` classes.

        Returns what :meth:`Pooled.fit` does, or nothing where it is not to be learnt. Raises InstsearchError if
        there is nothing to learn from, UsageError for a weighting without class maps.
        """
        return super().fit(data, progress) if self.config.whiten else {}

    def _sample(
        self,
        data: Data,
        progress: Progress,
        label: str,
        limit: int,
        pool: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The first classes' vectors f32[n, K] of at most ``limit`` pictures, those of zeros left out."""

        def first(X: Tensor, alpha: Tensor) -> Tensor:
            return pool(X, alpha[: self.config.n_pca])

        found = super()._sample(data, progress, label, limit, first)
        found = found[found.any(1)]
        if not len(found):
            raise InstsearchError(
                "no picture has a class map above zero to learn the whitening of 'cam' from: "
                "try --set weighting.normalisation=stretch, or --set encoder.whiten=false"
            )
        return found

    def class_vectors(self, local: Features, weights: WeightMap | BoxWeight | None) -> Tensor:
        """w(F^c) f32[Z, d], unit vectors in the order of the weights' classes, before they are added up.

        A class whose map is zero, in the box of a BoxWeight, has a zero vector. Raises UsageError for keypoints,
        and for weights that are no class maps.
        """
        return super().aggregate(local, weights, None).vectors

    def joined(self, D: Tensor) -> Tensor:
        """One vector of those of all classes, f32[Z, d] -> f32[1, d]; vectors of zeros, which say nothing, left out."""
        if self.config.join == "sum":
            return D.sum(0, keepdim=True)
        some = D[D.any(1)]
        return some.amax(0, keepdim=True) if len(some) else D[:1]

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """A unit vector f32[1, d] of the whole picture or the query's box, whatever the regions; else as above."""
        D = self.joined(self.class_vectors(local, weights))
        box = weights.box if isinstance(weights, BoxWeight) else extent(local.grid)
        return Vectors(l2(D), torch.tensor([box]))

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X and the class maps over it, both cut to the cells that the query's box touches, and the box."""
        if not isinstance(local, FeatureMap):
            raise UsageError(
                "the cam encoder needs a feature map, and this extractor gives keypoints: use the blcf encoder "
                "or a network (--extractor vgg16-cam)"
            )
        box, maps = extent(local.grid), weights
        if isinstance(weights, BoxWeight):
            box, maps = weights.box, weights.weights
        boxes = torch.tensor([box])
        x0, y0, x1, y1 = touched_cells(boxes, local.grid)[0].tolist()
        X = local.values[:, y0:y1, x0:x1].to(self.device)
        alpha = self._maps(maps, local)[:, y0:y1, x0:x1].to(self.device)
        return X, alpha, boxes

    def _maps(self, maps: WeightMap | BoxWeight | None, local: FeatureMap) -> Tensor:
        """The class maps f32[Z, h, w] on the local features' grid; without ``cams`` one, of all weights."""
        if not self.config.cams:
            one = torch.ones(1, *local.grid.shape)
            return one if maps is None else maps.over(local).sum(0, keepdim=True)
        if maps is None or getattr(maps, "classes", None) is None:
            raise UsageError(
                "the cam encoder weighs by class maps: add --weighting cam (or, for its baselines without them, "
                "--set encoder.cams=false)"
            )
        over: Tensor = maps.over(local)
        return over
