"""Extractors of this package."""

from __future__ import annotations

from instsearch_cli import ExtractorSpec, hookimpl
from instsearch_plugins.registry.papers import HERE


@hookimpl
def instsearch_extractors() -> list[ExtractorSpec]:
    """SIFT and the torchvision networks."""
    head = f"{HERE}.training.cam_head"
    return [
        ExtractorSpec(
            "sift",
            f"{HERE}.extractors.sift:Sift",
            "RootSIFT keypoints; needs no weights",
            "Lowe, 2004; Arandjelovic & Zisserman, 2012",
        ),
        ExtractorSpec(
            "vgg16",
            f"{HERE}.extractors.networks:VGG16",
            "VGG-16, conv5_1 after ReLU: 512 channels, stride 16",
            "Simonyan & Zisserman, 2015",
        ),
        ExtractorSpec(
            "vgg16-cam",
            f"{HERE}.extractors.vgg16_cam:VGG16CAM",
            "VGG-16-CAM, conv5_1 after ReLU: 512 channels, stride 16; class activation maps",
            "Zhou et al., 2016; Jiménez et al., 2017",
            trainer=f"{head}:VGG16CAMTrainer",
        ),
        ExtractorSpec(
            "resnet50",
            f"{HERE}.extractors.networks:ResNet50",
            "ResNet-50, layer4: 2048 channels, stride 32",
            "He et al., 2016",
        ),
        ExtractorSpec(
            "resnet101",
            f"{HERE}.extractors.networks:ResNet101",
            "ResNet-101, layer4: 2048 channels, stride 32",
            "He et al., 2016",
        ),
        ExtractorSpec(
            "densenet161",
            f"{HERE}.extractors.networks:DenseNet161",
            "DenseNet-161, ReLU of norm5: 2208 channels, stride 32",
            "Huang et al., 2017",
        ),
        ExtractorSpec(
            "squeezenet1_0",
            f"{HERE}.extractors.networks:SqueezeNet10",
            "SqueezeNet 1.0, last fire module: 512 channels, stride 16; small and fast",
            "Iandola et al., 2016",
            trainer=f"{head}:SqueezeNet10Trainer",
            default_for=("maps", "classes"),
        ),
        ExtractorSpec(
            "decomposeme",
            f"{HERE}.extractors.decomposeme:DecomposeMe",
            "DecomposeMe, conv5_1 after ReLU: 512 channels, stride 16; convolutions in one dimension, to be trained",
            "Alvarez & Petersson, 2016",
            trainer=f"{head}:DecomposeMeTrainer",
        ),
        ExtractorSpec(
            "aliked",
            f"{HERE}.extractors.aliked:Aliked",
            "ALIKED keypoints, 128 values each; learnt, by kornia",
            "Zhao et al., 2023",
        ),
        ExtractorSpec(
            "disk",
            f"{HERE}.extractors.disk:Disk",
            "DISK keypoints, 128 values each; learnt, by kornia",
            "Tyszkiewicz et al., 2020",
        ),
        ExtractorSpec(
            "xfeat",
            f"{HERE}.extractors.xfeat:XFeat",
            "XFeat keypoints, 64 values each; learnt, fast, by kornia",
            "Potje et al., 2024",
        ),
        ExtractorSpec(
            "dedode",
            f"{HERE}.extractors.dedode:DeDoDe",
            "DeDoDe keypoints, 256 values each; learnt, by kornia",
            "Edstedt et al., 2024",
        ),
        ExtractorSpec(
            "keynet-hardnet",
            f"{HERE}.extractors.keynet_hardnet:KeyNetHardNet",
            "Key.Net keypoints, HardNet descriptors of 128 values; learnt, by kornia",
            "Barroso-Laguna et al., 2019; Mishchuk et al., 2017; Mishkin et al., 2018",
        ),
        ExtractorSpec(
            "timm",
            f"{HERE}.extractors.timm:Timm",
            "any model of timm, by its name: convolutional networks and transformers (DINOv2, DINOv3, Swin, ...)",
            "Wightman, PyTorch image models, 2019",
        ),
    ]
