"""Detectors of this package."""

from __future__ import annotations

from instsearch_cli import DetectorSpec, hookimpl
from instsearch_plugins.registry.papers import DASR, HERE, OBJECTS, PATCHIFY, RMAC


@hookimpl
def instsearch_detectors() -> list[DetectorSpec]:
    """Regions that need no learning."""
    return [
        DetectorSpec("whole", f"{HERE}.detectors.whole:Whole", "one region: the picture"),
        DetectorSpec(
            "grid",
            f"{HERE}.detectors.grid:Grid",
            "R-MAC's squares at several sizes, evenly spread",
            RMAC,
            ("grid",),
            version=2,
        ),
        DetectorSpec(
            "spn",
            f"{HERE}.detectors.spn:SPN",
            "boxes around soft proposals at several thresholds, of any network's map",
            "Zhu et al., Soft proposal networks for weakly supervised object localization, ICCV 2017",
            ("features",),
        ),
        DetectorSpec(
            "patches",
            f"{HERE}.detectors.patches:Patches",
            "1 + 4 + 9 + 16 rectangles that tile the picture",
            PATCHIFY,
        ),
        DetectorSpec(
            "faster-rcnn",
            f"{HERE}.detectors.faster_rcnn:FasterRCNN",
            "what a detection network of torchvision's proposes, or detects",
            "Ren et al., Faster R-CNN, NIPS 2015; Salvador et al., Faster R-CNN features for instance search, 2016",
            ("image",),
        ),
        DetectorSpec(
            "mask-rcnn",
            f"{HERE}.detectors.mask_rcnn:MaskRCNN",
            "instances with their masks: features are pooled under these",
            "He et al., Mask R-CNN, ICCV 2017; Zhan & Zhao, Instance search via instance level segmentation, 2018",
            ("image",),
        ),
        DetectorSpec(
            "pcl",
            f"{HERE}.detectors.pcl:PCL",
            "soft proposals and squares by what a weakly supervised detector makes of them",
            "Tang et al., PCL, IEEE TPAMI 2018; Lin et al., Neurocomputing 2019",
            ("image",),
        ),
        DetectorSpec(
            "precomputed",
            f"{HERE}.detectors.precomputed:Precomputed",
            "boxes that are ready in a table, of whatever program",
        ),
        DetectorSpec(
            "egm",
            f"{HERE}.detectors.egm:EGM",
            "rectangles around what is heavy on the weight map: expanding Gaussian mixture",
            OBJECTS,
            ("weights",),
        ),
        DetectorSpec(
            "dasr",
            f"{HERE}.detectors.dasr:DASR",
            "what made the peaks of a classifier's last map: excitation backprop, ellipse, box",
            DASR,
            ("image",),
        ),
        DetectorSpec(
            "dasr-star",
            f"{HERE}.detectors.dasr:DASRStar",
            "the same from every cell above the mean, less overlapping boxes",
            DASR,
            ("image",),
        ),
    ]
