"""Every region a vector of its own, with its box; fewer by a Gaussian mixture where asked (Iscen et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from instsearch_cli.components import option
from instsearch_cli.data import FeatureMap, Vectors
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.numeric.mixture import boxes_of, gaussian_mixture
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from instsearch_cli.data import BoxWeight, Features, Regions, WeightMap


class RegionCodes(RegionVectors):
    """The unit vectors of :class:`RegionVectors`, one a region.

    With ``reduce`` = K an image of more than K regions is described by K vectors in their place, the L2 of the
    means of K Gaussians (:func:`gaussian_mixture`), each with the smallest box around the regions that belong to it;
    a region without any activation is left out then. A query is one vector, the L2 of the sum over R-MAC's regions
    of its box, or these vectors themselves: what searches with them sees to several. They are not reduced.
    """

    @dataclass(frozen=True)
    class Config(RegionVectors.Config):
        """Options of ``regions``."""

        #: vectors that an image has at most, the means of a Gaussian mixture; 0: one for each of its regions
        reduce: int = option(0, touches="codes")
        #: the query's regions stay apart, each a vector of its own, in place of their sum
        query_apart: bool = option(False, touches="query")
        #: each of a picture's sizes or tiles (extractor.tiles) is a region, whatever weights and detector find
        apart: bool = option(False, omitted_at_default=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.reduce < 0:
                raise ValueError("reduce is 0 (all regions) or more")

    config: Config

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """Unit vectors f32[M, d]; a region without any activation stays zero. Keypoints raise UsageError."""
        codes = super().aggregate(local, weights, regions)
        some = codes.vectors.any(1)
        if not 0 < self.config.reduce < int(some.sum()):
            return codes
        means, r = gaussian_mixture(codes.vectors[some], self.config.reduce)
        boxes = boxes_of(codes.boxes[some.to(codes.boxes.device)], r)
        return Vectors(l2(means.to(codes.vectors.dtype)), boxes)

    def _over_sizes(
        self, pool: Callable[[Tensor, Tensor], Tensor], local: Features, /, *under: Any
    ) -> tuple[Tensor, Tensor]:
        """What ``pool`` gives of each size where they are apart, f32[S, D], and what they are of, f32[S, 4]."""
        if not self.config.apart or not isinstance(local, FeatureMap) or not local.levels:
            return super()._over_sizes(pool, local, *under)
        sizes = [self._cells(size, None, None) for size in (replace(local, levels=()), *local.levels)]
        psi = torch.cat([l2(pool(X, alpha)) for X, alpha, _ in sizes])
        return psi, torch.cat([boxes for _, _, boxes in sizes])

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> Vectors:
        """One unit vector f32[1, d] with the query's box, or f32[M, d] with those of its regions."""
        if self.config.apart and isinstance(local, FeatureMap):
            local = replace(local, levels=())
        box, weights, regions = self._asked(local, weights)
        codes = super().aggregate(local, weights, regions)
        if not self.config.query_apart:
            return Vectors(l2(codes.vectors.sum(0, keepdim=True)), torch.tensor([box]))
        some = codes.vectors.any(1)
        some[0] |= ~some.any()  # a query without any activation is one zero vector
        return Vectors(codes.vectors[some], codes.boxes[some.to(codes.boxes.device)])
