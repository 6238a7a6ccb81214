"""The masks of MSCNet's multiple saliency block (Xiang et al., AAAI 2019, section 3.2) as weights."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from instsearch_cli.components import Weighter, option
from instsearch_cli.data import Drawing, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_cli.networks.weights import find_weights, sha256
from instsearch_plugins.encoders.mscnet_network import check_channels, trained
from instsearch_plugins.numeric.mscnet import cosines
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from instsearch_cli.data import Grid, Inputs
    from instsearch_plugins.encoders.mscnet_network import MSCNet


def mask_drawings(M: Tensor, grid: Grid) -> list[Drawing]:
    """A picture's masks M f32[n, h, w], a drawing each, which says how large its values are and how much it is
    like the others (figure 3)."""
    drawings, G, n = [], cosines(M), len(M)
    for k, mask in enumerate(M):
        alike = f", cosine with the others {(float(G[k].sum()) - 1) / (n - 1):.2f}" if n > 1 else ""
        caption = f"mask {k + 1}: {float(mask.min()):.2f} to {float(mask.max()):.2f}{alike}"
        drawings.append(Drawing(caption, (WeightMap(mask[None], grid),)))
    return drawings


class MSB(Weighter):
    """Weights M = sigmoid(conv3x3(X)) in (0, 1), a map for each of the masks of a trained network.

    Encoders that know no single masks add them up. The network is one that `instsearch train mscnet` wrote, on
    features of the same extractor and layer.
    """

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``msb``."""

        weights: str = option(
            "", digested=True
        )  #: file of a trained MSCNet; it says how many masks there are

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self._building = threading.Lock()

    def identity(self) -> dict[str, str]:
        """The weights' sha256."""
        return {"weights": sha256(self._weights)}

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[n, h, w] on the feature map's grid. Raises UsageError for keypoints, InstsearchError for
        features that are not those that the network was trained on."""
        features = feature_map(inputs.features, "msb")
        X = features.values.to(self.device)
        check_channels(self._network, X, str(self._weights))
        return WeightMap(self._network.msb(X[None])[0], features.grid)

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The masks, one by one."""
        weights = self.weigh(inputs)
        return mask_drawings(weights.values, weights.grid)

    @cached_property
    def _weights(self) -> Path:
        """The weights file. Raises UsageError if none is given, InstsearchError if it is not there."""
        if not self.config.weights:
            raise UsageError(
                "the msb weighting takes its masks from a trained network: make one with `instsearch train "
                "mscnet`, and give its file with --set weighting.weights=FILE"
            )
        return find_weights("mscnet", self.config.weights)

    @property
    def _network(self) -> MSCNet:
        """The network on ``device``. Raises InstsearchError."""
        with self._building:  # images are worked on side by side
            return self._trained

    @cached_property
    def _trained(self) -> MSCNet:
        return trained(self._weights, self.device)
