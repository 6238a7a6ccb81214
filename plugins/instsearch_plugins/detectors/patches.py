"""Patches of a picture: grids of equal rectangles, coarse to fine (Choi et al., "Patch-wise retrieval", WACV 2026).

Their Patchify describes each patch as a picture by itself; here it is the cells of the whole picture's map under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.components import Detector
from instsearch_cli.data import Regions
from instsearch_plugins.numeric.regions import patches

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class Patches(Detector):
    """1, 4, 9, 16 ... rectangles that tile the picture, or overlap: see :func:`patches`."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``patches``."""

        levels: int = 4  #: grids of 1 x 1, 2 x 2, ... patches, so many
        overlap: float = 0.0  #: share of a patch's side that its neighbour covers, too

        def __post_init__(self) -> None:
            if self.levels < 1 or not 0 <= self.overlap < 1:
                raise ValueError("levels is at least 1, and overlap at least 0 and below 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4], and scores f32[R] that are all 1: a place says nothing of what is there."""
        boxes = patches(inputs.size, self.config.levels, self.config.overlap)
        return Regions(boxes, torch.ones(len(boxes)))
