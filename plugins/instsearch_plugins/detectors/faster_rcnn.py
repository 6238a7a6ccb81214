"""What a detection network finds, or might (Faster R-CNN: Ren et al., NIPS 2015), as torchvision builds such networks.

DeepVision (Salvador et al., "Faster R-CNN features for instance search", CVPR workshops 2016) takes the proposals.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from instsearch_cli.components import Detector, option
from instsearch_cli.data import MASK, Drawing, Regions
from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.networks.importing import Several
from instsearch_plugins.published_network import PublishedNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.components import Component
    from instsearch_cli.data import Inputs

COCO = 91  # classes of the published weights, the background among them
HEAD = "roi_heads.box_predictor.cls_score.weight"  # of two stages: one row a class
UNSUPPORTED = ("keypointrcnn_resnet50_fpn",)  # finds people alone, and says where their joints are
#: those whose published batch norms divide by the root of the variance as it is
EXACT = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")


def proposals(network: Any, features: Mapping[str, Tensor], images: Any) -> tuple[Tensor, Tensor]:
    """The boxes f32[R, 4] that a region proposal network has of one picture, and their objectness f32[R], 0 to 1."""
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    rpn, maps = network.rpn, list(features.values())
    objectness, deltas = rpn.head(maps)
    anchors = rpn.anchor_generator(images, maps)
    sizes = [level[0].numel() for level in objectness]
    objectness, deltas = concat_box_prediction_layers(objectness, deltas)
    boxes = rpn.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
    found, scores = rpn.filter_proposals(boxes, objectness, images.image_sizes, sizes)
    return found[0], scores[0]


class FasterRCNN(PublishedNetwork, Several, Detector):
    """Boxes of a detection network: the proposals of its first stage, by objectness; or its detections, by score.

    Detections have their class, and proposals have none. Without any box it is the picture, with score 0.
    """

    _kinds: ClassVar[tuple[str, ...]] = ("fasterrcnn", "fcos", "maskrcnn", "retinanet", "ssd")
    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``faster-rcnn``."""

        model: str = "fasterrcnn_resnet50_fpn"  #: torchvision's name of a detection network
        weights: str = option("", digested=True)  #: weights file; empty: INSTSEARCH_WEIGHTS, torchvision's
        #: of what may be an object, of no class; or of what the network says is one
        boxes: Literal["proposals", "detections"] = "proposals"
        most: int = 300  #: boxes a picture has, at most, the best
        min_score: float = 0.05  #: detections that score less are none
        nms: float = (
            0.0  #: a box with more IoU than this with a better one of its class is none; 0: as published
        )
        classes: tuple[str, ...] = ()  #: detections of these alone, by name or number; empty: all
        agnostic: bool = False  #: nms goes over detections of all classes together
        side: int = 0  #: pixels of the picture's shorter side, as the network sees it; 0: as published

        def __post_init__(self) -> None:
            if self.most < 1 or self.side < 0:
                raise ValueError("most is at least 1, side 0 or more")
            if not (0 <= self.min_score < 1 and 0 <= self.nms <= 1):
                raise ValueError("min_score is at least 0 and below 1, nms 0 to 1")
            if self.boxes == "proposals" and (self.classes or self.agnostic):
                raise ValueError("proposals have no class: set boxes=detections")

    config: Config

    def __new__(cls, config: Config, device: torch.device) -> FasterRCNN:
        """A detector of the network's own class. Raises UsageError if torchvision has none of that name."""
        kind: Any = cls if cls.architecture else named(cls, config.model)
        detector: FasterRCNN = super().__new__(kind)
        return detector

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self._two_stages = "rcnn" in config.model
        if config.boxes == "proposals" and not self._two_stages:
            raise UsageError(f"{config.model} proposes no boxes: --set detector.boxes=detections")
        self._wanted = [self._number(name) for name in config.classes]

    @classmethod
    def build(cls) -> nn.Module:
        """torchvision's network; it has numbers, since where its anchors are is in no weights file."""
        return cls._torchvision(COCO)

    @classmethod
    def networks(cls) -> Mapping[type[Component], Path | None]:
        """torchvision's networks of the kinds that this detector takes; itself, if it is one."""
        return {cls: None} if cls.architecture else {named(cls, model): None for model in models(cls._kinds)}

    def detect(self, inputs: Inputs) -> Regions:
        """boxes f32[R, 4], the best first, scores f32[R], classes i64[R] of detections.

        Raises UsageError for a size that the network does not take and for names of classes that its weights have not,
        InstsearchError without weights.
        """
        assert inputs.image is not None
        pixels = torch.from_numpy(inputs.image.pixels).to(self.device)
        with torch.inference_mode():
            found = self._found(pixels.permute(2, 0, 1).to(torch.float32) / 255)
        w, h = inputs.size
        scale = torch.tensor([w / pixels.shape[1], h / pixels.shape[0]]).repeat(2)
        boxes = (found.boxes * scale).clamp(min=0).minimum(torch.tensor([w, h, w, h]))
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(1).nonzero().flatten()
        if not len(kept):
            return self._whole(inputs)
        return Regions(boxes, found.scores, found.masks, found.classes)[kept]

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The boxes, counted by class."""
        assert inputs.regions is not None
        regions = inputs.regions
        if len(regions.boxes) == 1 and float(regions.scores[0]) == 0:
            return [Drawing("nothing found: the whole picture", (regions,))]
        if regions.classes is None:
            return [Drawing(f"proposals: {len(regions.boxes)}", (regions,))]
        names = self._names
        counts = Counter(regions.classes.tolist()).most_common()
        told = (f"{n} {names[c] if c < len(names) else f'of class {c}'}" for c, n in counts)
        return [Drawing(f"detections: {', '.join(told)}", (regions,))]

    def _found(self, x: Tensor) -> Regions:
        """What the network has of a picture f32[3, H, W], 0 to 1, in its pixels; on the CPU."""
        network: Any = self.network
        if not self._two_stages:
            [found], scale = network([x]), torch.ones(4)
        else:
            images, _ = network.transform([x])
            (h, w), (H, W) = images.image_sizes[0], x.shape[1:]
            scale = torch.tensor([W / w, H / h]).repeat(2)
            maps = network.backbone(images.tensors)
            if self.config.boxes == "proposals":
                boxes, scores = proposals(network, maps, images)
                return Regions(boxes.cpu() * scale, scores.cpu())
            places, _ = network.rpn(images, maps)
            [found], _ = network.roi_heads(maps, places, images.image_sizes)
        masks = found["masks"][:, 0].cpu() > 0.5 if "masks" in found else None
        boxes, scores, labels = (found[name].cpu() for name in ("boxes", "scores", "labels"))
        regions = Regions(boxes * scale, scores, masks, labels)
        return regions[self._chosen(regions)]

    def _chosen(self, regions: Regions) -> Tensor:
        """Of detections those of the classes that are wanted, and of all classes together those that nms leaves."""
        from torchvision.ops import nms

        assert regions.classes is not None
        kept = torch.argsort(-regions.scores, stable=True)
        if self._wanted:
            if not (self._names or all(name.isdigit() for name in self.config.classes)):
                raise UsageError(
                    f"{self.weights} tells classes of its own apart: give detector.classes by number"
                )
            if max(self._wanted) >= self._classes:
                raise UsageError(
                    f"{self.weights} has classes 1 to {self._classes - 1}, and detector.classes {max(self._wanted)}"
                )
            kept = kept[torch.isin(regions.classes[kept], torch.tensor(self._wanted))]
        if self.config.agnostic:
            kept = kept[nms(regions.boxes[kept], regions.scores[kept], self.config.nms or 0.5)]
        return kept[: self.config.most]

    def _whole(self, inputs: Inputs) -> Regions:
        none = torch.zeros(1, dtype=torch.int64) if self.config.boxes == "detections" else None
        masks = torch.ones(1, MASK, MASK, dtype=torch.bool) if self._masks else None
        return Regions(torch.tensor([[0.0, 0.0, *inputs.size]]), torch.zeros(1), masks, none)

    @property
    def _masks(self) -> bool:
        """Whether its detections have masks."""
        return "maskrcnn" in self.architecture and self.config.boxes == "detections"

    @functools.cached_property
    def _classes(self) -> int:
        """How many classes its weights tell apart, the background among them."""
        head = self._state().get(HEAD)
        return COCO if head is None or not head.ndim else max(len(head), 1)

    @functools.cached_property
    def _names(self) -> list[str]:
        """The names of its classes; empty where its weights tell others apart than the published ones."""
        names = categories(self.architecture)
        return names if self._classes == len(names) else []

    def _number(self, name: str) -> int:
        """The number of a class. Raises UsageError with the nearest name."""
        names = categories(self.architecture)
        if name.isdigit():
            return int(name)
        if name not in names:
            raise UsageError(f"{self.architecture} has no class '{name}'.{nearest(name, names)}")
        return names.index(name)

    def _built(self) -> nn.Module:
        """The network with what the options say of its boxes, and as many classes as its weights have."""
        return self._torchvision(self._classes, **self._limits())

    def _limits(self) -> dict[str, Any]:
        """What the options say of the network's boxes, by torchvision's names. Raises UsageError."""
        config = self.config
        limits: dict[str, Any] = {"min_size": config.side} if config.side else {}
        at = "box_" * self._two_stages
        if config.boxes == "proposals":
            limits |= {"rpn_post_nms_top_n_test": config.most}
            limits |= {"rpn_nms_thresh": config.nms} if config.nms else {}
        else:
            limits |= {f"{at}detections_per_img": config.most, f"{at}score_thresh": config.min_score}
            limits |= {f"{at}nms_thresh": config.nms} if config.nms else {}
        if config.side and self.architecture.startswith("ssd"):
            raise UsageError(f"{self.architecture} sees pictures of one size: leave detector.side out")
        return limits

    @classmethod
    def _torchvision(cls, classes: int, **limits: Any) -> nn.Module:
        from torchvision.models import get_model

        with torch.device("cpu"):
            network: nn.Module = get_model(
                cls.architecture, weights=None, weights_backbone=None, num_classes=classes, **limits
            )
        for module in network.modules():
            if cls.architecture in EXACT and isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
        return network


def models(kinds: Iterable[str]) -> list[str]:
    """torchvision's detection networks of some kinds."""
    from torchvision import models
    from torchvision.models import list_models

    names = list_models(models.detection)
    return [name for name in names if name.startswith(tuple(kinds)) and name not in UNSUPPORTED]


@functools.cache
def named(kind: type[FasterRCNN], model: str) -> type[FasterRCNN]:
    """The class of a network by torchvision's name of it. Raises UsageError with the nearest."""
    if model not in (names := models(kind._kinds)):
        raise UsageError(f"no detection network is called '{model}' here.{nearest(model, names)}")
    return type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "architecture": model})


def categories(model: str) -> list[str]:
    """The names of the classes of a network's published weights, by number."""
    from torchvision.models import get_model_weights

    names: list[str] = get_model_weights(model)["COCO_V1"].meta["categories"]
    return names
