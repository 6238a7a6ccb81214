"""The whole picture as the only region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.components import Detector
from instsearch_cli.data import Regions

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class Whole(Detector):
    """One region: the picture."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """``whole`` has no options."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[1, 4] and scores f32[1], which is 1."""
        width, height = inputs.size
        return Regions(torch.tensor([[0.0, 0.0, width, height]]), torch.ones(1))
