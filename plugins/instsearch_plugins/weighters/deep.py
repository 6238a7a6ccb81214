"""What the saliency networks share: their weights, one network built when it is first needed, weights from its map."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from instsearch_cli.components import Weighter, option
from instsearch_cli.data import WeightMap
from instsearch_cli.networks.weights import find_weights, load_state_dict, needed, put_weights, sha256
from instsearch_plugins.numeric.blocks import block_max

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn

    from instsearch_cli.data import Inputs


class DeepSaliency(Weighter, ABC):
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
        self.config, self.device = config, device
        self.concurrent = device.type != "cuda"
        self._building = threading.Lock()

    @classmethod
    @abstractmethod
    def build(cls) -> nn.Module:
        """The network without weights.

        It is called under ``torch.device("meta")`` and its tensors are put in afterwards, so what is not in
        its ``state_dict()`` must be made in the forward pass.
        """

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

    def identity(self) -> dict[str, str]:
        """The weights' sha256."""
        return {"weights": sha256(self.weights)}

    def weigh(self, inputs: Inputs) -> WeightMap:
        """The largest saliency in each cell of ``inputs.grid``, over the largest of all: f32[1, h, w]."""
        assert inputs.grid is not None
        assert inputs.image is not None
        with torch.inference_mode():
            saliency = self.saliency(inputs.image.pixels)
        alpha = block_max(saliency, *inputs.grid.shape)
        return WeightMap(alpha[None].to(self.device), inputs.grid)

    @cached_property
    def weights(self) -> Path:
        """The weights file. Raises InstsearchError that says what to fetch and how to import it."""
        return find_weights(self.architecture, self.config.weights, self.published)

    @property
    def network(self) -> nn.Module:
        """The network on ``device``, in evaluation mode, with its weights. Raises InstsearchError."""
        with self._building:  # images are worked on side by side
            return self._network

    @cached_property
    def _network(self) -> nn.Module:
        with torch.device("meta"):
            network = self.build()
        state = load_state_dict(self.weights)
        put_weights(network, needed(network), state, self.weights, self.device, torch.float32)
        return network.eval().requires_grad_(False)
