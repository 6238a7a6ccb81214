"""Instances with their masks (Mask R-CNN: He et al., ICCV 2017), as torchvision builds it.

What fully convolutional instance-aware segmentation does in Zhan and Zhao, "Instance search via instance level
segmentation and feature representation", 2018: features are pooled under the mask of each instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from instsearch_plugins.detectors.faster_rcnn import FasterRCNN


class MaskRCNN(FasterRCNN):
    """Boxes of detected instances, each with its class and the mask where it is more likely than not.

    A local feature counts where it lies in the box and in the mask; a mask without any does not count.
    """

    _kinds: ClassVar[tuple[str, ...]] = ("maskrcnn",)

    @dataclass(frozen=True)
    class Config(FasterRCNN.Config):
        """Options of ``mask-rcnn``."""

        model: str = "maskrcnn_resnet50_fpn"  #: torchvision's name of a network of instances
        #: of what may be an object, of no class; or of what the network says is one
        boxes: Literal["proposals", "detections"] = "detections"
        most: int = 100  #: boxes a picture has, at most, the best
