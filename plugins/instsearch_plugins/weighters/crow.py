"""The spatial weights of CroW (Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated
deep convolutional features", ECCV workshops 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.normalise import unit_peak
from instsearch_plugins.numeric.pooling import spatial_weights
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    import torch

    from instsearch_cli.data import Inputs


class CroW(Weighter):
    """Weights from the feature map itself, its sum over the channels; a map of zeros gives ones."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``crow``."""

        a: float = 2.0  #: order of the norm that the map is divided by
        b: float = 2.0  #: the weights are its b-th root: 1 keeps the contrast, more evens it out
        peak: bool = True  #: also divide by the largest weight, as every other weighting does

        def __post_init__(self) -> None:
            if not (self.a > 0 and self.b > 0):
                raise ValueError(f"a and b are above 0, not {self.a} and {self.b}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on the feature map's grid; keypoints raise UsageError."""
        features = feature_map(inputs.features, "crow")
        alpha = spatial_weights(features.values.to(self.device), self.config.a, self.config.b)
        if self.config.peak or not alpha.any():
            alpha = unit_peak(alpha)
        return WeightMap(alpha[None], features.grid)
