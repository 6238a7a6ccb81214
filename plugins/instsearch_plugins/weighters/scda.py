"""Where the object is, by the map alone (SCDA: Wei, Luo, Wu and Zhou, "Selective convolutional descriptor aggregation
for fine-grained image retrieval", IEEE TIP 2017, section III.B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected component of a mask bool[h, w], the first of equal ones; none of an empty one."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if n < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


class SCDA(Weighter):
    """1 in the largest connected component of the cells whose summed activation is above the mean, else 0."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``scda``."""

        component: bool = True  #: of the cells above the mean the largest component alone, else all

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] of 0 and 1 on the feature map's grid; a flat map gives ones.

        Raises UsageError for keypoints.
        """
        features = feature_map(inputs.features, "scda")
        A = features.values.double().sum(0).cpu().numpy()
        mask = A.mean() < A
        if not mask.any():
            mask = np.ones_like(mask)
        elif self.config.component:
            mask = largest(mask)
        return WeightMap(torch.from_numpy(mask.astype(np.float32))[None].to(self.device), features.grid)
