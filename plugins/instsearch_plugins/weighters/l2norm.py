"""The L2 norm of the local features as their weight (Mohedano et al. 2018, table 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.normalise import stretched, unit_peak
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from instsearch_cli.data import Inputs


def feature_norm(X: Tensor, stretch: bool = True) -> Tensor:
    """Norm of each local feature between 0 and 1: strong activations count, background fades.

    alpha_ij = (||x_ij|| - min ||x||) / (max ||x|| - min ||x||),  or without ``stretch``  ||x_ij|| / max ||x||

    where X: f32[D, h, w] holds the features as the network gives them, before any normalisation.
    Returns f32[h, w]; a map without contrast to show (all zero; all equal, if stretched) gives ones.
    """
    norm = X.norm(dim=0)
    return stretched(norm) if stretch else unit_peak(norm)


class L2Norm(Weighter):
    """Weights from the feature map itself."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``l2norm``."""

        stretch: bool = (
            True  #: subtract the smallest norm, so that weights fill [0, 1]; the authors' code does not
        )

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on the feature map's grid; keypoints raise UsageError."""
        features = feature_map(inputs.features, "l2norm")
        return WeightMap(
            feature_norm(features.values.to(self.device), self.config.stretch)[None], features.grid
        )
