"""R-MAC's regions (Tolias, Sicre and Jégou, "Particular object retrieval with integral max-pooling", ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.components import Detector
from instsearch_cli.data import Regions
from instsearch_plugins.numeric.regions import cell_boxes, rmac_grid

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class Grid(Detector):
    """Squares at several sizes, spread evenly over the feature map, on its cells: see :func:`rmac_grid`."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``grid``."""

        levels: int = 3  #: sizes of squares: the map's shorter side, 2/3 and 1/2 of it, ...
        whole: bool = False  #: the whole map too, first

        def __post_init__(self) -> None:
            if self.levels < 0 or (self.levels == 0 and not self.whole):
                raise ValueError("levels is at least 1, or 0 with whole")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4], and scores f32[R] that are all 1: a place says nothing of what is there."""
        grid = inputs.grid
        assert grid is not None
        cells = rmac_grid(grid.h, grid.w, self.config.levels)
        if self.config.whole:
            cells = torch.cat([torch.tensor([[0, 0, grid.w, grid.h]]), cells])
        return Regions(cell_boxes(cells, grid), torch.ones(len(cells)))
