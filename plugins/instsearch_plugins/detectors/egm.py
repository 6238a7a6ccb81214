"""Regions of a weight map as the components of an expanding Gaussian mixture (Siméoni et al. 2018)."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.components import Detector
from instsearch_cli.data import Drawing, Ellipses, Regions
from instsearch_plugins.numeric.egm import Recipe, cells, fit, samples
from instsearch_plugins.numeric.egm_batch import fit_batch, padded
from instsearch_plugins.numeric.regions import cell_boxes, grid_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Grid, Inputs


class EGM(Detector):
    """A few rectangles around what is heavy on the weight map, as many as it takes."""

    concurrent: bool = True

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

    def identity(self) -> dict[str, str]:
        """How R-MAC's grid is decided where it counts, which was another way once."""
        return {"grid": "integers"} if self.config.inner_levels else {}

    def detect(self, inputs: Inputs) -> Regions:
        """Boxes by descending mixing coefficient, which is their score; channels of the weights are summed.

        The grid inside a region follows it and has its score. A map with fewer than two cells that count
        gives the whole picture, with score 1.
        """
        assert inputs.weights is not None
        return self._regions(inputs, fit(inputs.weights.values.sum(0).cpu().numpy(), self.recipe))

    def detect_many(self, many: Sequence[Inputs]) -> list[Regions]:
        """As :meth:`detect`, all together on a GPU."""
        return [self.detect(inputs) for inputs in many] if self.device.type == "cpu" else self._together(many)

    def _together(self, many: Sequence[Inputs]) -> list[Regions]:
        """As :meth:`detect`, all together on any device."""
        maps = [inputs.weights.values.sum(0).to(self.device) for inputs in many if inputs.weights is not None]
        mixtures = fit_batch(padded(maps), self.recipe)
        return [
            self._regions(*found) for found in zip(many, [q.cpu().numpy() for q in mixtures], strict=True)
        ]

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The mixture as it comes about, over the weights: at first, at last, and after 1, 2, 4, … iterations.

        The latter as far as components are purged. A component is an ellipse as long and as high as its box.
        """
        assert inputs.weights is not None
        S, most = inputs.weights.values.sum(0).cpu().numpy(), self.recipe.iterations

        def after(n: int) -> np.ndarray:
            return fit(S, self.recipe._replace(iterations=n))

        final = after(most)
        if not len(final):
            return []
        last = 1 + bisect_left(range(1, most), True, key=lambda n: np.array_equal(after(n), final))
        amplitude = samples(S, self.recipe.rho, self.recipe.tau)
        cell = np.argwhere(amplitude > 0)
        first = np.full((len(cell), 5), self.recipe.sigma)
        first[:, 0], first[:, 1:3] = amplitude[amplitude > 0], cell
        steps, n = {0: first}, 1
        while n < last:
            q = after(n)
            if len(q) < len([*steps.values()][-1]):
                steps[n] = q
            n *= 2
        steps[last] = final
        return [
            Drawing(
                f"iteration {n}: {len(q):,} region{'s' * (len(q) != 1)}",
                (inputs.weights, self._ellipses(q, inputs.weights.grid)),
            )
            for n, q in steps.items()
        ]

    def _ellipses(self, mixture: np.ndarray, grid: Grid) -> Ellipses:
        sx, sy, ox, oy = grid.transform
        q = torch.from_numpy(mixture).float()
        step, origin = torch.tensor([sx, sy]), torch.tensor([ox, oy])
        radii = self.config.box_scale * q[:, [4, 3]].sqrt()
        return Ellipses(origin + step * (q[:, [2, 1]] + 0.5), step * radii, q[:, 0])

    def _regions(self, inputs: Inputs, mixture: np.ndarray) -> Regions:
        """The boxes of a mixture f64[m, 5]."""
        assert inputs.weights is not None
        grid = inputs.weights.grid
        if not len(mixture):
            return Regions(torch.tensor([[0.0, 0.0, *inputs.size]]), torch.ones(1))
        found = cells(mixture, *grid.shape, self.config.box_scale)
        within = [grid_in(torch.from_numpy(region)[None], self.config.inner_levels) for region in found]
        boxes, size = cell_boxes(torch.cat(within), grid), torch.tensor(inputs.size * 2)
        scores = mixture[:, 0].astype(np.float32).repeat([len(regions) for regions in within])
        return Regions(boxes.clamp(min=0).minimum(size), torch.from_numpy(scores))
