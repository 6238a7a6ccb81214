"""Weightings of this package."""

from __future__ import annotations

from instsearch_cli import WeighterSpec, hookimpl
from instsearch_plugins.registry.papers import BLCF, CAM, CROW, HERE, MSCNET, OBJECTS, SAM


@hookimpl
def instsearch_weighters() -> list[WeighterSpec]:
    """Weights that need no training."""
    return [
        WeighterSpec(
            "none",
            f"{HERE}.weighters.none:NoWeighting",
            "every local feature counts 1",
            BLCF,
            default_for=("any",),
        ),
        WeighterSpec("gaussian", f"{HERE}.weighters.gaussian:Gaussian", "centre prior", BLCF),
        WeighterSpec(
            "crow",
            f"{HERE}.weighters.crow:CroW",
            "summed activation of each cell, root of its normalised map",
            CROW,
            ("features",),
        ),
        WeighterSpec(
            "scda",
            f"{HERE}.weighters.scda:SCDA",
            "1 in the largest part of the map that responds above its mean",
            "Wei et al., Selective convolutional descriptor aggregation, IEEE TIP 2017",
            ("features",),
        ),
        WeighterSpec(
            "spn",
            f"{HERE}.weighters.spn:SPN",
            "soft proposals: where a random walk ends that prefers what differs from its surroundings",
            "Zhu et al., Soft proposal networks for weakly supervised object localization, ICCV 2017",
            ("features",),
        ),
        WeighterSpec(
            "bms",
            f"{HERE}.weighters.bms:BMS",
            "Boolean Map Saliency: what is surrounded at many thresholds; no training",
            "Zhang & Sclaroff, 2013; 2016",
            ("image",),
        ),
        WeighterSpec(
            "salnet",
            f"{HERE}.weighters.salnet:SalNet",
            "SalNet: a deep network that predicts where people look",
            "Pan et al., Shallow and deep convolutional networks for saliency prediction, 2016",
            ("image",),
            trainer=f"{HERE}.training.salnet:SalNetTrainer",
        ),
        WeighterSpec(
            "salgan",
            f"{HERE}.weighters.salgan:SalGAN",
            "SalGAN: the same, trained against a discriminator",
            "Pan et al., SalGAN: visual saliency prediction with generative adversarial networks, 2017",
            ("image",),
            trainer=f"{HERE}.training.salgan:SalGANTrainer",
        ),
        WeighterSpec(
            "sam-vgg",
            f"{HERE}.weighters.sam:SamVGG",
            "SAM over a dilated VGG-16: predicts where people look, in several looks",
            SAM,
            ("image",),
        ),
        WeighterSpec(
            "sam-resnet", f"{HERE}.weighters.sam:SamResNet", "SAM over a dilated ResNet-50", SAM, ("image",)
        ),
        WeighterSpec(
            "cam",
            f"{HERE}.weighters.cam:CAM",
            "class activation maps of a picture's most probable classes, or of given ones",
            CAM,
            ("features",),
        ),
        WeighterSpec(
            "msb",
            f"{HERE}.weighters.msb:MSB",
            "masks of a trained MSCNet's saliency block, one map each",
            MSCNET,
            ("features",),
        ),
        WeighterSpec(
            "maps",
            f"{HERE}.weighters.maps:Maps",
            "ready saliency maps of a folder: PNG, JPEG, NPY, MAT",
            BLCF,
        ),
        WeighterSpec(
            "itti-koch",
            f"{HERE}.weighters.itti_koch:IttiKoch",
            "saliency of intensity, colour and orientation contrasts at several scales",
            "Itti et al., 1998; Walther & Koch, 2006",
            ("image",),
            version=2,
        ),
        WeighterSpec(
            "fs",
            f"{HERE}.weighters.feature_saliency:FeatureSaliency",
            "feature saliency: cells where channels respond that rarely do",
            OBJECTS,
            ("features",),
        ),
        WeighterSpec(
            "os",
            f"{HERE}.weighters.object_saliency:ObjectSaliency",
            "object saliency: what is salient here and common in the collection; learnt from it",
            OBJECTS,
            ("features",),
        ),
        WeighterSpec(
            "l2norm", f"{HERE}.weighters.l2norm:L2Norm", "norm of the local feature", BLCF, ("features",)
        ),
    ]
