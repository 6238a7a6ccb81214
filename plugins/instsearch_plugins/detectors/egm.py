"""Regions of a weight map as the components of an expanding Gaussian mixture (Siméoni et al. 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from instsearch_cli.data import Regions
from instsearch_plugins.numeric.egm import Recipe, cells, fit
from instsearch_plugins.numeric.regions import cell_boxes, grid_in

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class EGM:
    """A few rectangles around what is heavy on the weight map, as many as it takes."""

    concurrent: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``egm``; paper: rho 5, tau 0.4, sigma 2.5 on feature saliency, 2, 0, 2 on object saliency."""

        rho: float = 5.0  #: power of the map, after its maximum is made 1 and it is masked
        tau: float = 0.4  #: cells below this share of the map's maximum are masked
        sigma: float = 2.5  #: how coarse the regions are: variance of one cell, in square cells
        sigma_is_std: bool = False  #: sigma is a standard deviation, in cells
        weighted: bool = True  #: a cell counts as much as its weight; else all alike, as printed
        add_sigma: bool = False  #: sigma is added to the variance of the regions
        tau_o: float = 0.55  #: a region stays if it has this share of its overlap with itself and better ones
        box_scale: float = math.sqrt(3)  #: half a box's side, in standard deviations
        iterations: int = 50  #: at most
        tolerance: float = 1e-3  #: the regions have settled when no centre moves this far, in cells
        inner_levels: int = 0  #: levels of R-MAC's grid added inside each region (paper's triangle: 2)

        def __post_init__(self) -> None:
            for name in ("rho", "sigma", "box_scale", "tolerance"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} is above 0, not {getattr(self, name)}")
            if not 0 <= self.tau <= 1:
                raise ValueError(f"tau is from 0 to 1, not {self.tau}")
            if not 0.5 <= self.tau_o < 1:
                raise ValueError(f"tau_o is at least 0.5 and below 1, not {self.tau_o}")
            if self.iterations < 1:
                raise ValueError(f"iterations is at least 1, not {self.iterations}")
            if self.inner_levels < 0:
                raise ValueError(f"inner_levels is at least 0, not {self.inner_levels}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.recipe = Recipe(
            rho=config.rho,
            tau=config.tau,
            sigma=config.sigma**2 if config.sigma_is_std else config.sigma,
            weighted=config.weighted,
            add_sigma=config.add_sigma,
            overlap=config.tau_o,
            iterations=config.iterations,
            tolerance=config.tolerance,
        )

    def detect(self, inputs: Inputs) -> Regions:
        """Boxes by descending mixing coefficient, which is their score; channels of the weights are summed.

        The grid inside a region follows it and has its score. A map with fewer than two cells that count
        gives the whole picture, with score 1.
        """
        assert inputs.weights is not None
        grid = inputs.weights.grid
        mixture = fit(inputs.weights.values.sum(0).cpu().numpy(), self.recipe)
        if not len(mixture):
            return Regions(torch.tensor([[0.0, 0.0, *inputs.size]]), torch.ones(1))
        found = cells(mixture, *grid.shape, self.config.box_scale)
        within = [grid_in(torch.from_numpy(region)[None], self.config.inner_levels) for region in found]
        boxes, size = cell_boxes(torch.cat(within), grid), torch.tensor(inputs.size * 2)
        scores = mixture[:, 0].astype(np.float32).repeat([len(regions) for regions in within])
        return Regions(boxes.clamp(min=0).minimum(size), torch.from_numpy(scores))
