"""DISK (Tyszkiewicz, Fua and Trulls, "DISK: learning local features with policy gradient", NeurIPS 2020), as kornia
builds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_plugins.extractors.learnt_keypoints import SUPPORT, LearntKeypoints, Points, require_kornia

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


class Disk(LearntKeypoints):
    """Maxima of the heat map of a U-Net, and its dense descriptors there: 128 values."""

    architecture = "disk"
    published = "depth-save.pth of github.com/cvlab-epfl/disk (Apache-2.0)"
    multiple = 16

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's DISK without weights."""
        require_kornia("extractor disk")
        from kornia.feature import DISK

        network: nn.Module = DISK()
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file, whose weights are below "extractor", or these alone."""
        loaded = load_checkpoint(path, mapped=True)
        inner = loaded.get("extractor") if isinstance(loaded, dict) else None
        return inner if isinstance(inner, dict) else super().import_weights(path)

    def detect(self, x: Tensor) -> list[Points]:
        """See :meth:`LearntKeypoints.detect`."""
        return [
            Points.upright(each.detection_scores, each.keypoints, SUPPORT, each.descriptors)
            for each in self.network(x, n=self.config.keypoints)
        ]
