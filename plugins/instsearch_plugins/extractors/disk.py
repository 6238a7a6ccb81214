"""DISK (Tyszkiewicz, Fua and Trulls, "DISK: learning local features with policy gradient", NeurIPS 2020), as kornia
builds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_plugins.extractors.learnt_keypoints import (
    SUPPORT,
    LearntKeypoints,
    Points,
    require_kornia,
    squares,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

WINDOW = 5  # pixels: a keypoint is the maximum of the square of so many around it


def before_last(unet: Any, x: Tensor) -> Tensor:
    """What a U-Net's last convolution is of: pictures f32[B, 3, H, W] -> f32[B, C, H, W]."""
    levels = [x]
    for down in unet.path_down:
        levels.append(down(levels[-1]))
    *ups, last = unet.path_up
    x = levels.pop()
    for up in ups:
        x = up(x, levels.pop())
    norm, gate, *_ = last.conv
    features: Tensor = gate(norm(torch.cat([last.upsample(x), levels.pop()], dim=1)))
    return features


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
        """See :meth:`LearntKeypoints.detect`; the last convolution, of 129 values, where its values are asked for.

        heat = w_129 * u + b_129; descriptor at (x, y) = normalised w_{1..128} * u + b_{1..128} there, u the U-Net's
        features before: the heat map is of every pixel, descriptors are of keypoints only. That is a third of the
        whole network's time.
        """
        from kornia.geometry.subpix import nms2d

        unet: Any = self.network.unet
        last = unet.path_up[-1].conv[-1]
        weight, bias = last.weight, last.bias
        size = weight.shape[-1]
        padded = F.pad(before_last(unet, x), (size // 2,) * 4)
        heat = F.conv2d(padded, weight[-1:], bias[-1:])
        peaks = nms2d(heat, (WINDOW, WINDOW), mask_only=True) & (heat > 0)
        found = []
        for scores, places, features in zip(heat[:, 0], peaks[:, 0], padded, strict=True):
            row, column = places.nonzero().T
            best = torch.argsort(scores[row, column], descending=True, stable=True)[: self.config.keypoints]
            row, column = row[best], column[best]
            u = squares(features, size, row, column).transpose(0, 1).flatten(1)
            descriptors = F.normalize(u @ weight[:-1].flatten(1).T + bias[:-1], dim=1)
            found.append(
                Points.upright(scores[row, column], torch.stack([column, row], 1), SUPPORT, descriptors)
            )
        return found
