"""What components share whose network has published weights: their file, and the network, built when first needed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from instsearch_cli.components import Component
from instsearch_cli.networks.weights import find_weights, load_state_dict, needed, put_weights, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


class PublishedNetwork(Component, ABC):
    """A component of one network in float32; its option ``weights`` names the file, "": one that is looked for."""

    config: Any

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config, self.device = config, device
        self._building = threading.Lock()

    @classmethod
    @abstractmethod
    def build(cls) -> nn.Module:
        """The network without weights.

        It is called under ``torch.device("meta")`` and its tensors are put in afterwards, so what is not in
        its ``state_dict()`` must be made in the forward pass.
        """

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """A published checkpoint by the names of ``build().state_dict()``. Raises InstsearchError."""
        return load_state_dict(path)

    def identity(self) -> dict[str, Any]:
        """The weights' sha256."""
        return {"weights": sha256(self.weights)}

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
            network = self._built()
        put_weights(network, needed(network), self._state(), self.weights, self.device, torch.float32)
        return network.eval().requires_grad_(False)

    def _built(self) -> nn.Module:
        """The network that the options ask for, without weights."""
        return self.build()

    def _state(self) -> dict[str, Tensor]:
        """The file's tensors: one that its authors published will do."""
        return self.import_weights(self.weights)
