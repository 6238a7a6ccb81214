"""XFeat (Potje et al., "XFeat: accelerated features for lightweight image matching", CVPR 2024), as kornia builds
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_plugins.extractors.learnt_keypoints import SUPPORT, LearntKeypoints, Points, require_kornia

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


class XFeat(LearntKeypoints):
    """Maxima of a heat map, 64 places a cell of 8 x 8, times their reliability; descriptors of 64 values."""

    architecture = "xfeat"
    published = "xfeat.pt of github.com/verlab/accelerated_features (Apache-2.0)"
    multiple = 32

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's XFeat without weights."""
        require_kornia("extractor xfeat")
        from kornia.feature import XFeat as Network

        network: nn.Module = Network()
        return network

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file, whose names are those of kornia's below "net.", or kornia's."""
        state = super().import_weights(path)
        return {name if name.startswith("net.") else f"net.{name}": x for name, x in state.items()}

    def detect(self, x: Tensor) -> list[Points]:
        """See :meth:`LearntKeypoints.detect`."""
        network: Any = self.network
        return [
            Points.upright(each["scores"], each["keypoints"], SUPPORT, each["descriptors"])
            for each in network.detectAndCompute(x, top_k=self.config.keypoints)
        ]
