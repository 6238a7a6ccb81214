"""Feature saliency: the feature map's own channels, the rarer the heavier (Siméoni et al. 2018, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.saliency import feature_saliency
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class FeatureSaliency(Weighter):
    """Weights F^ from the feature map itself, not brought to a peak of 1; a map of zeros gives ones."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``fs``."""

        epsilon: float = 1e-6  #: added to each channel's share of live cells; the paper leaves it open

        def __post_init__(self) -> None:
            if not self.epsilon > 0:
                raise ValueError(f"epsilon is above 0, not {self.epsilon}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on the feature map's grid; keypoints raise UsageError."""
        features = feature_map(inputs.features, "fs")
        alpha = feature_saliency(features.values.to(self.device), self.config.epsilon)
        return WeightMap((alpha if alpha.any() else torch.ones_like(alpha))[None], features.grid)
