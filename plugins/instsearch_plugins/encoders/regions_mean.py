"""Every region a vector of its own: the mean of the cells under its box (Xiao et al., "Deeply activated salient
region for instance search", 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, Regions
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.numeric.regions import cell_boxes, touched_cells

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Box, Features, Grid, WeightMap


class MeanVectors(RegionVectors):
    """:class:`RegionVectors` with the publication's settings: the mean of all cells that a box touches.

    A query is the mean in its box, on the map of the whole picture: nothing is detected in it.
    """

    @dataclass(frozen=True)
    class Config(RegionVectors.Config):
        """Options of encoders over means of regions."""

        #: each channel's largest value in a region (weights only mask), or its mean
        pool: Literal["max", "mean"] = "mean"
        #: cells that are a region's: all that its box touches, or those whose centre it holds
        cells: Literal["touched", "centres"] = "touched"
        #: levels of R-MAC's grid in a query's box; 0: the box is the query's only region
        query_levels: int = option(0, touches="query")

    config: Config

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if regions is None or not len(regions.boxes):
            return super()._cells(local, weights, regions)
        X, alpha, _ = super()._cells(
            local, weights, Regions(self._grown(regions.boxes, local.grid), regions.scores)
        )
        return X, alpha, regions.boxes

    def _asked(
        self, local: Features, weights: WeightMap | BoxWeight | None
    ) -> tuple[Box, WeightMap | None, Regions]:
        if not isinstance(weights, BoxWeight):
            return super()._asked(local, weights)
        x0, y0, x1, y1 = self._grown(torch.tensor([weights.box]), local.grid)[0].tolist()
        _, among, regions = super()._asked(local, BoxWeight((x0, y0, x1, y1), weights.weights))
        return weights.box, among, regions

    def _grown(self, boxes: Tensor, grid: Grid) -> Tensor:
        """Boxes f32[R, 4] that hold the centres of just those cells that count as theirs."""
        return cell_boxes(touched_cells(boxes, grid), grid) if self.config.cells == "touched" else boxes


class MeanRegionCodes(MeanVectors, RegionCodes):
    """`regions` with the publication's settings: psi_c = mean_{ij in R} X_cij, then L2, PCA-whitening, L2.

    A box takes all the cells that it touches, lo = floor(v), hi = ceil(v). A query is the mean in its box, on the
    map of the whole picture. The publication's map is ResNet-50's Block4_unit1, which is `--extractor resnet50
    --set extractor.layer=layer4.0`; the detector has a network of its own (`--detector dasr-star`). Its whitening
    keeps all dimensions and comes from another data set (`--fit-on`).
    """

    name: ClassVar[str] = "regions-mean"

    @dataclass(frozen=True)
    class Config(MeanVectors.Config, RegionCodes.Config):
        """Options of ``regions-mean``."""

    config: Config
