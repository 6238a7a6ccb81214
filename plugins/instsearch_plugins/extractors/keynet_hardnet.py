"""Key.Net (Barroso-Laguna et al., ICCV 2019) keypoints, turned by OriNet (Mishkin et al., "Repeatability is not
enough", ECCV 2018), described by HardNet (Mishchuk et al., "Working hard to know your neighbor's margins", NeurIPS
2017), as kornia builds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from instsearch_plugins.extractors.learnt_keypoints import (
    SUPPORT,
    LearntKeypoints,
    Points,
    require_kornia,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


WIDTH = 128  # values of a descriptor


class KeyNetHardNet(LearntKeypoints):
    """Maxima of Key.Net's response in a pyramid; descriptors of 128 values of the patches there, turned upright.

    With ``angle`` the patches are turned, or not, as the keypoints are.
    """

    architecture = "keynet-hardnet"
    published = (
        "the state_dict() of kornia.feature.KeyNetHardNet(), saved by torch.save: weights of "
        "github.com/axelBarroso/Key.Net-Pytorch, ducha-aiki/affnet (MIT) and DagnyT/hardnet (MIT)"
    )

    @dataclass(frozen=True)
    class Config(LearntKeypoints.Config):
        """Options of ``keynet-hardnet``."""

        scales: tuple[float, ...] = (1.0,)  #: sizes at which it is read; each has a pyramid of six levels

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """kornia's KeyNetHardNet without weights."""
        require_kornia("extractor keynet-hardnet")
        from kornia.feature import HardNet, KeyNetDetector, LAFDescriptor, LAFOrienter, LocalFeature, OriNet

        detector = KeyNetDetector(pretrained=False, ori_module=LAFOrienter(angle_detector=OriNet(False)))
        network: nn.Module = LocalFeature(detector, LAFDescriptor(HardNet(False)))
        return network

    def _built(self) -> nn.Module:
        from kornia.feature import LAFOrienter, PassLAF

        network = self.build()
        detector: Any = network.detector
        detector.num_features = self.config.keypoints
        if self.config.angle != "own":
            detector.ori = PassLAF() if self.config.angle == "upright" else LAFOrienter()
        return network

    def detect(self, x: Tensor) -> list[Points]:
        """See :meth:`LearntKeypoints.detect`."""
        from kornia.feature.laf import get_laf_orientation, get_laf_scale, laf_is_filled

        network: Any = self.network
        found = []
        for grey in x.mean(1, keepdim=True):
            scores, frames = network.detector.detect(grey[None])
            some = laf_is_filled(frames)[
                0
            ]  # describing the empty slots, too, is what kornia's forward pass does
            frames = network.detector.ori(frames[:, some], grey[None]) if some.any() else frames[:, some]
            descriptors = (
                network.descriptor(grey[None], frames)[0] if some.any() else grey.new_zeros(0, WIDTH)
            )
            growth = get_laf_scale(frames)[0, :, 0, 0] / network.detector.mr_size
            angle = -get_laf_orientation(frames)[0, :, 0] % 360
            places = (
                frames[0, :, :, 2] + (growth[:, None] - 1) / 2
            )  # kornia brings corners of a level's pixels back
            geometry = torch.cat([places, torch.stack([SUPPORT * growth, angle], dim=1)], dim=1)
            found.append(Points(scores[0, some], geometry, descriptors))
        return found

    def _turned(self, points: Points, picture: Tensor) -> Points:
        return points  # they are
