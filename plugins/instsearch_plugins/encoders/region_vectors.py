"""Every region by itself: MAC, or the mean, of each (Razavian et al., 2014; Tolias et al., 2016).

What is made of these vectors: `regions` keeps them, `regions-sum` adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, Regions, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.encoders.pooled import FEW, PER_DIMENSION, Pooled
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent, max_pool, sum_pool
from instsearch_plugins.numeric.regions import box_cells, cell_boxes, grid_in
from instsearch_plugins.numeric.whitening import FLOOR, mean_and_covariance, turned_if_few, whitening_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Box, Features, Inputs, WeightMap

    Whitening = tuple[Tensor, Tensor]

BATCH = 4096  # vectors that are added to the covariance at once


class RegionVectors(Pooled):
    """psi_c = max_{ij: alpha_ij > 0} X_cij of each region, then L2, PCA-whitening learnt from regions, L2.

    With ``pool`` = mean psi_c = sum_ij alpha_ij X_cij. A picture without regions has one, the whole of it.
    A query is the L2 of the sum of these vectors over R-MAC's regions of its box.
    """

    fit_needs: ClassVar[tuple[str, ...]] = ("features", "weights", "regions")
    name: ClassVar[str] = "regions"

    @dataclass(frozen=True)
    class Config(Pooled.Config):
        """Options of ``regions``."""

        #: dimensions kept by the whitening; 0: one for every 8 of the vectors it is learnt from
        dims: int = 0
        #: each channel's largest value in a region (weights only mask), or its mean
        pool: Literal["max", "mean"] = "max"
        #: weights mask the maximum and weigh the mean; else they only tell the detector where to look
        weighted: bool = True
        #: levels of R-MAC's grid in a query's box; 0: the box is the query's only region
        query_levels: int = option(3, touches="query")
        #: the box is added to its grid, as the grid detector's `whole` adds the picture
        query_whole: bool = option(False, touches="query")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.query_levels < 0:
                raise ValueError("query-levels is 0 (the box alone) or more")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`max_pool` and :func:`sum_pool`, which L2 makes as good as the mean."""
        return max_pool(X, alpha > 0) if self.config.pool == "max" else sum_pool(X, alpha)

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening from unit vectors of the regions of at most ``fit_images`` pictures.

        Returns mean f32[D] and projection f32[D, d], unless all the vectors are equal. Raises InstsearchError
        if the collection is empty.
        """
        label = f"learning the whitening of '{self.name}'"
        learnt = self._learnt(self._batches(data, progress, label, self._units), len(self._sampled(data)))
        return {} if learnt is None else {"mean": learnt[0], "projection": learnt[1]}

    def _units(self, inputs: Inputs) -> Tensor:
        """Unit vectors f32[R, C] of a picture's regions, those without any activation left out."""
        assert inputs.features is not None
        psi, _ = self._over_sizes(self.describe, inputs.features, inputs.weights, inputs.regions)
        return self.scaled(psi[(psi != 0).any(1)])

    def _sampled(self, data: Data) -> np.ndarray:
        """Rows of at most ``fit_images`` pictures, ascending."""
        rows = np.random.default_rng(self.config.seed).permutation(data.images)[: self.config.fit_images]
        return np.sort(rows)

    def _batches(
        self, data: Data, progress: Progress, label: str, describe: Callable[[Inputs], Tensor]
    ) -> Iterator[Tensor]:
        """What ``describe`` says of the sampled pictures, in batches of about BATCH vectors."""
        rows = self._sampled(data)
        progress.start(label, len(rows))
        held: list[Tensor] = []
        for inputs in data.inputs(self.fit_needs, rows):
            held.append(describe(inputs))
            progress.advance()
            if sum(map(len, held)) >= BATCH:
                yield torch.cat(held)
                held = []
        if sum(map(len, held)):
            yield torch.cat(held)

    def _learnt(self, batches: Iterable[Tensor], images: int) -> Whitening | None:
        """The PCA-whitening of unit vectors of so many images; None where they are all equal, but for rounding."""
        try:
            n, mean, covariance = mean_and_covariance(batches)
        except ValueError as error:
            raise InstsearchError(
                f"there is no image to learn the whitening of '{self.name}' from"
            ) from error
        if covariance.trace() <= FLOOR:
            return None
        mu, P = whitening_of(mean, covariance, self.config.dims or max(n // PER_DIMENSION, FEW))
        return mu, turned_if_few(P, n, images)

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> Vectors:
        """A unit vector f32[1, d] of the box of a BoxWeight, or of the whole picture."""
        box, weights, regions = self._asked(local, weights)
        psi = self.aggregate(local, weights, regions).vectors.sum(0, keepdim=True)
        return Vectors(l2(psi), torch.tensor([box]))

    def _asked(
        self, local: Features, weights: WeightMap | BoxWeight | None
    ) -> tuple[Box, WeightMap | None, Regions]:
        """A query's box, the weights that count in it, and its regions."""
        box = extent(local.grid)
        if isinstance(weights, BoxWeight):
            box, weights = weights.box, weights.weights
        cells = grid_in(box_cells(torch.tensor([box]), local.grid), self.config.query_levels)
        if self.config.query_levels and not self.config.query_whole:
            cells = cells[1:]
        return box, weights, Regions(cell_boxes(cells, local.grid), torch.ones(len(cells)))

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not self.config.weighted:
            weights = BoxWeight(weights.box) if isinstance(weights, BoxWeight) else None
        none = regions is None or not len(regions.boxes)
        return super()._cells(local, weights, None if none else regions)
