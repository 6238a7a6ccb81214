"""Soft proposals as weights (SPN: Zhu et al., ICCV 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.normalise import unit_peak
from instsearch_plugins.numeric.soft_proposals import objectness
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    import torch

    from instsearch_cli.data import Inputs


class SPN(Weighter):
    """The objectness map over its largest value: see :func:`objectness`. The network needs no training for it."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``spn``."""

        factor: float = 0.15  #: how far the walk sees, as a share of the map's longer side
        iterations: int = 20  #: steps of the walk, at most

        def __post_init__(self) -> None:
            if not self.factor > 0 or self.iterations < 1:
                raise ValueError("factor is above 0, iterations at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on the feature map's grid; keypoints raise UsageError."""
        features = feature_map(inputs.features, "spn")
        M = objectness(features.values.to(self.device), self.config.factor, iterations=self.config.iterations)
        return WeightMap(unit_peak(M)[None], features.grid)
