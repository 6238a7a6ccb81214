"""No weighting: every cell counts alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class NoWeighting(Weighter):
    """alpha = 1 on ``inputs.grid``."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """No options."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w], all ones."""
        assert inputs.grid is not None
        return WeightMap(torch.ones(1, *inputs.grid.shape, device=self.device), inputs.grid)
