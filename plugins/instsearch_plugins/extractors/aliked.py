"""ALIKED (Zhao et al., "ALIKED: a lighter keypoint and descriptor extraction network via deformable transformation",
IEEE Transactions on Instrumentation and Measurement 2023), as kornia builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from instsearch_cli.networks.weights import find_weights
from instsearch_plugins.extractors.learnt_keypoints import SUPPORT, LearntKeypoints, Points, require_kornia

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


class Aliked(LearntKeypoints):
    """Maxima of a score map, moved by a soft argmax; descriptors of 16 or 32 samples around each, at learnt places."""

    architecture = "aliked-n16rot"
    published = "aliked-n16rot.pth of github.com/Shiaoming/ALIKED (BSD-3-Clause)"

    @dataclass(frozen=True)
    class Config(LearntKeypoints.Config):
        """Options of ``aliked``."""

        #: t16 is small (64 values a descriptor, the others 128); n16rot was trained on turned pictures, too
        model: Literal["t16", "n16", "n16rot", "n32"] = "n16rot"

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's n16rot without weights."""
        network: nn.Module = _build("n16rot")
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file, which has kornia's names, and the window's places, which are no weights."""
        state = super().import_weights(path)
        return {"dkd.hw_grid": _build("t16").dkd.hw_grid, **state}

    @cached_property
    def weights(self) -> Path:
        """The weights file of the model asked for."""
        name = f"aliked-{self.config.model}"
        return find_weights(name, self.config.weights, self.published if name == self.architecture else "")

    def _built(self) -> nn.Module:
        network: nn.Module = _build(self.config.model)
        network.dkd.top_k = self.config.keypoints  # type: ignore[union-attr]
        return network

    def detect(self, x: Tensor) -> list[Points]:
        """See :meth:`LearntKeypoints.detect`."""
        return [
            Points.upright(each.keypoint_scores, each.keypoints, SUPPORT, each.descriptors)
            for each in self.network(x)
        ]


def _build(model: str) -> Any:
    require_kornia("extractor aliked")
    from kornia.feature import ALIKED

    return ALIKED(f"aliked-{model}", detection_threshold=0.0)
