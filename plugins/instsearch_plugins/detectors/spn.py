"""Boxes around soft proposals (SPN: Zhu et al., ICCV 2017), of any network's map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.components import Detector
from instsearch_cli.data import Drawing, Regions, WeightMap
from instsearch_plugins.numeric.cam_boxes import threshold_boxes
from instsearch_plugins.numeric.normalise import unit_peak
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.numeric.soft_proposals import objectness
from instsearch_plugins.weighters.maps_only import feature_map

if TYPE_CHECKING:
    from instsearch_cli.data import Inputs


class SPN(Detector):
    """The box of the largest connected part of the objectness map above each threshold, stretched to [0, 1].

    Its score is the mean of the map inside, so that tight boxes come first; equal boxes are one.
    """

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``spn``."""

        factor: float = 0.15  #: how far the walk sees, as a share of the map's longer side
        iterations: int = 20  #: steps of the walk, at most
        thresholds: tuple[float, ...] = (0.2, 0.4, 0.6)  #: of the map between its least and its largest value

        def __post_init__(self) -> None:
            if not self.factor > 0 or self.iterations < 1:
                raise ValueError("factor is above 0, iterations at least 1")
            if not self.thresholds or not all(0 <= t < 1 for t in self.thresholds):
                raise ValueError("thresholds are one or more, from 0 to below 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def _map(self, inputs: Inputs) -> np.ndarray:
        features = feature_map(inputs.features, "spn")
        M = objectness(features.values.to(self.device), self.config.factor, iterations=self.config.iterations)
        heat = (M - M.min()).cpu().numpy()
        return np.asarray(heat / heat.max() if heat.max() > 0 else heat)

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4] and scores f32[R], the best first; of a flat map the whole picture.

        Raises UsageError for keypoints.
        """
        heat = self._map(inputs)
        cells = np.unique(threshold_boxes(heat, self.config.thresholds), axis=0)
        means = np.array([heat[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in cells.tolist()])
        order = np.argsort(-means, kind="stable")
        assert inputs.features is not None
        boxes = cell_boxes(torch.from_numpy(cells[order]), inputs.features.grid)
        return Regions(boxes, torch.from_numpy(means[order].astype(np.float32)))

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The map, and the boxes over it, as in the paper's figure 1."""
        assert inputs.features is not None
        M = unit_peak(torch.from_numpy(self._map(inputs)))
        return [Drawing("soft proposals", (WeightMap(M[None], inputs.features.grid), self.detect(inputs)))]
