"""Gaussian centre prior over the feature map (Mohedano et al. 2018; SPoC: Babenko and Lempitsky 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.normalise import stretched, unit_peak

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Inputs


def centre_prior(h: int, w: int, sigma: float = 1 / 3) -> Tensor:
    """Isotropic Gaussian on the map's centre, stretched to [0, 1].

    g(y, x) = exp(-(y^2 + x^2) / (2 s^2)),  s = sigma min(h, w),  then  (g - min g) / (max g - min g)

    where y takes h values spread evenly over [-floor(h/2), floor(h/2)], and x likewise: an odd side has steps
    of 1, an even one of n / (n - 1). The corners become 0. Returns f32[h, w]; a flat map gives ones.
    """
    y, x = (torch.linspace(-(n // 2), n // 2, n) for n in (h, w))
    return stretched(_bell(y, x, sigma * min(h, w)))


def spoc_prior(h: int, w: int, sigma: float = 1 / 3) -> Tensor:
    """Isotropic Gaussian whose width is a share of the way from the centre to the nearest border.

    g(y, x) = exp(-(y^2 + x^2) / (2 s^2)),  s = sigma min(h, w) / 2,  then  g / max g

    where y = i - (h - 1)/2 and x = j - (w - 1)/2. Half as wide as :func:`centre_prior`, and nowhere 0.
    Returns f32[h, w].
    """
    y, x = (torch.arange(n) - (n - 1) / 2 for n in (h, w))
    return unit_peak(_bell(y, x, sigma * min(h, w) / 2))


def _bell(y: Tensor, x: Tensor, s: float) -> Tensor:
    return torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * s**2))


class Gaussian(Weighter):
    """A centre prior that does not look at the image."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``gaussian``."""

        #: standard deviation: a share of the shorter side (salbow), or of half of it (spoc)
        sigma: float = 1 / 3
        form: Literal["salbow", "spoc"] = "salbow"  #: stretched to [0, 1] as for BLCF, or as for SPoC

        def __post_init__(self) -> None:
            if self.sigma <= 0:
                raise ValueError(f"sigma is above 0, not {self.sigma}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.prior = centre_prior if config.form == "salbow" else spoc_prior
        self.sigma = config.sigma
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on ``inputs.grid``."""
        assert inputs.grid is not None
        return WeightMap(self.prior(*inputs.grid.shape, self.sigma)[None].to(self.device), inputs.grid)
