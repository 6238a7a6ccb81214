"""What the saliency networks share: weights from their maps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from instsearch_cli.components import Weighter, option
from instsearch_cli.data import WeightMap
from instsearch_cli.networks.weights import load_state_dict
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.published_network import PublishedNetwork

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from instsearch_cli.data import Inputs


class DeepSaliency(PublishedNetwork, Weighter):
    """Weights from a network that predicts where people look in a picture.

    A subclass names its network, builds it without weights, reads the checkpoints that its authors published,
    and turns pixels into a saliency map.
    """

    architecture: ClassVar[str]  #: what the network's weights are called: NAME.pth
    published: ClassVar[str]  #: one line for people: which file, of which project, under which licence

    @dataclass(frozen=True)
    class Config:
        """Options of every saliency network."""

        weights: str = option(
            "", digested=True
        )  #: weights file; empty: INSTSEARCH_WEIGHTS, then imported ones

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.concurrent = device.type != "cuda"

    @classmethod
    @abstractmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A published checkpoint by the names of ``build().state_dict()``, whatever its container.

        Raises InstsearchError for a file that is damaged or another network's. Shapes, surplus names and
        values that are not finite are the caller's to check.
        """

    @abstractmethod
    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W, 3] in RGB -> u8 or f32[H, W], non-negative; 0 is not salient."""

    def weigh(self, inputs: Inputs) -> WeightMap:
        """The largest saliency in each cell of ``inputs.grid``, over the largest of all: f32[1, h, w]."""
        assert inputs.grid is not None
        assert inputs.image is not None
        with torch.inference_mode():
            saliency = self.saliency(inputs.image.pixels)
        alpha = block_max(saliency, *inputs.grid.shape)
        return WeightMap(alpha[None].to(self.device), inputs.grid)

    def _state(self) -> dict[str, Tensor]:
        """What `instsearch weights import` wrote."""
        return load_state_dict(self.weights)
