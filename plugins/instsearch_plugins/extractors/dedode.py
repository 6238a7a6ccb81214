"""DeDoDe (Edstedt et al., "DeDoDe: detect, don't describe; describe, don't detect for local feature matching", 3DV
2024), detector L and descriptor B, as kornia builds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from instsearch_plugins.extractors.learnt_keypoints import (
    SUPPORT,
    LearntKeypoints,
    Points,
    require_kornia,
)
from instsearch_plugins.extractors.networks import normalise

if TYPE_CHECKING:
    from torch import Tensor, nn


class DeDoDe(LearntKeypoints):
    """The likeliest pixels of one network, described by another: 256 values."""

    architecture = "dedode"
    published = (
        'the state_dict() of kornia.feature.DeDoDe.from_pretrained("L-C4-v2", "B-upright"), saved by torch.save: '
        "weights of github.com/Parskatt/DeDoDe (MIT)"
    )

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's DeDoDe without weights."""
        require_kornia("extractor dedode")
        from kornia.feature import DeDoDe as Network

        network: nn.Module = Network("L", "B", torch.float32)
        return network

    def detect(self, x: Tensor) -> list[Points]:
        """See :meth:`LearntKeypoints.detect`."""
        network: Any = self.network
        pixels = normalise(255 * x)  # kornia's own has buffers that are in no file
        places, scores = network.detect(pixels, self.config.keypoints, apply_imagenet_normalization=False)
        descriptors = F.normalize(
            network.describe(pixels, places, apply_imagenet_normalization=False), dim=-1
        )
        size = places.new_tensor(x.shape[:1:-1])
        return [
            Points.upright(score, (place + 1) * size / 2 - 0.5, SUPPORT, descriptor)
            for score, place, descriptor in zip(scores, places, descriptors, strict=True)
        ]
