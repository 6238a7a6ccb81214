"""Detection networks' boxes against torchvision's own forward pass, with numbers drawn by lot."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from instsearch_cli.data import MASK, Image, Inputs, Regions
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.testing import DetectorContract
from instsearch_plugins.detectors.faster_rcnn import COCO, HEAD, FasterRCNN, categories, models
from instsearch_plugins.detectors.mask_rcnn import MaskRCNN

CPU = torch.device("cpu")
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
ONE_STAGE = "ssdlite320_mobilenet_v3_large"
SIZE = (180, 120)
CLASSES = 4


def inputs(seed: int = 0) -> Inputs:
    """A picture of half the size of its original."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8)
    return Inputs(size=SIZE, image=Image(pixels, SIZE))


@functools.cache
def numbers(kind: type[FasterRCNN], model: str) -> dict[str, torch.Tensor]:
    """Some, by lot, of a network of 4 classes."""
    torch.manual_seed(3)
    state = kind(kind.Config(model=model, boxes="detections"), CPU)._torchvision(CLASSES).state_dict()
    if HEAD in state:  # what tells classes, and where, from what there is, more than torchvision's beginnings
        state[HEAD].mul_(30 if model == SMALL else 1)
        state["rpn.head.cls_logits.weight"].mul_(30)
    return state


def made(options: dict[str, Any], kind: type[FasterRCNN] = FasterRCNN) -> FasterRCNN:
    """A detector whose network has these numbers."""
    detector = kind(kind.Config(**options), CPU)
    state = numbers(kind, detector.config.model)
    detector._state = lambda: {HEAD: torch.zeros(CLASSES, 1)}
    network = detector._built() if HEAD in state else detector._torchvision(CLASSES, **detector._limits())
    network.load_state_dict(state)
    vars(detector).update(_network=network.eval(), weights="own.pth")
    return detector


def torchvisions(detector: FasterRCNN, given: Inputs) -> dict[str, torch.Tensor]:
    """What the whole network says, in pixels of the picture as it was read."""
    assert given.image is not None
    x = torch.from_numpy(given.image.pixels).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        return dict(detector.network([x])[0])


@pytest.mark.parametrize("model", [SMALL, ONE_STAGE])
def test_detections_are_torchvisions(model: str) -> None:
    detector = made({"model": model, "boxes": "detections", "min_score": 0.02, "most": 20})
    given = inputs()
    regions, whole = detector.detect(given), torchvisions(detector, given)
    assert regions.classes is not None
    assert len(regions.boxes) > 1
    torch.testing.assert_close(regions.boxes, whole["boxes"] * 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(regions.scores, whole["scores"])
    assert regions.classes.tolist() == whole["labels"].tolist()
    assert (regions.scores[:-1] >= regions.scores[1:]).all()


def test_proposals_are_those_that_the_second_stage_is_given() -> None:
    detector = made({"model": SMALL, "most": 30})
    given = inputs(1)
    seen: list[torch.Tensor] = []
    network: Any = detector.network
    network.rpn.register_forward_hook(lambda *call: seen.append(call[2][0][0]))
    torchvisions(detector, given)
    regions = detector.detect(given)
    assert regions.classes is None
    assert regions.masks is None
    network_size = network.transform([torch.zeros(3, 60, 90)])[0].image_sizes[0]
    scale = torch.tensor([180 / network_size[1], 120 / network_size[0]] * 2)
    torch.testing.assert_close(regions.boxes, seen[0] * scale, atol=1e-3, rtol=0)
    assert 1 < len(regions.boxes) <= 30
    assert ((regions.scores > 0) & (regions.scores < 1)).all()


def test_masks_are_those_of_the_detected_boxes() -> None:
    detector = made({"side": 64, "min_score": 0.02, "most": 6}, MaskRCNN)
    given = inputs(2)
    seen: list[dict[str, torch.Tensor]] = []
    network: Any = detector.network
    network.roi_heads.register_forward_hook(lambda *call: seen.append(dict(call[2][0][0])))
    regions, whole = detector.detect(given), torchvisions(detector, given)
    assert regions.masks is not None
    assert regions.masks.shape == (len(regions.boxes), MASK, MASK)
    assert 0 < regions.masks.float().mean() < 1
    torch.testing.assert_close(regions.boxes, whole["boxes"] * 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(regions.masks, seen[1]["masks"][:, 0] > 0.5)


def test_classes_are_chosen_by_name_or_number() -> None:
    options = {"model": SMALL, "boxes": "detections", "min_score": 0.02, "most": 100}
    given = inputs()
    every = made(options).detect(given)
    assert every.classes is not None
    number = int(every.classes[0])
    name = categories(SMALL)[number]
    for wanted in (name, str(number)):
        detector = made(options | {"classes": (wanted,)})
        if wanted == name:
            with pytest.raises(UsageError, match="classes of its own"):
                made(options | {"classes": (wanted,)}).detect(given)
            vars(detector).update(_classes=COCO)
        regions = detector.detect(given)
        torch.testing.assert_close(regions.boxes, every.boxes[every.classes == number])
    with pytest.raises(UsageError, match=r"has no class 'persn'.*person"):
        made(options | {"classes": ("persn",)})


def test_agnostic_suppression_goes_over_all_classes() -> None:
    options = {"model": SMALL, "boxes": "detections", "min_score": 0.02, "nms": 0.3}
    given = inputs()
    every, fewer = made(options).detect(given), made(options | {"agnostic": True}).detect(given)
    kept: list[int] = []
    for i, (x0, y0, x1, y1) in enumerate(every.boxes.tolist()):
        overlaps = []
        for k in kept:
            a0, b0, a1, b1 = every.boxes[k].tolist()
            both = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            overlaps.append(both / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - both))
        if all(iou <= 0.3 for iou in overlaps):
            kept.append(i)
    assert len(kept) < len(every.boxes)
    torch.testing.assert_close(fewer.boxes, every.boxes[kept])


@pytest.mark.parametrize(("kind", "options"), [(FasterRCNN, {"model": SMALL}), (MaskRCNN, {"side": 64})])
def test_nothing_found_is_the_whole_picture_and_said(kind: type[FasterRCNN], options: dict[str, Any]) -> None:
    detector = made({**options, "boxes": "detections", "min_score": 0.999}, kind)
    given = inputs()
    regions = detector.detect(given)
    assert regions.boxes.tolist() == [[0, 0, *SIZE]]
    assert regions.scores.tolist() == [0]
    assert (regions.masks is not None) == (kind is MaskRCNN)
    [drawing] = detector.explain(Inputs(size=SIZE, image=given.image, regions=regions))
    assert drawing.caption == "nothing found: the whole picture"


def test_show_counts_what_was_found() -> None:
    detector = made({"model": SMALL, "boxes": "detections"})
    vars(detector).update(_classes=COCO)
    regions = Regions(torch.tensor([[0.0, 0, 9, 9]] * 3), torch.rand(3), None, torch.tensor([1, 18, 1]))
    [drawing] = detector.explain(Inputs(size=SIZE, regions=regions))
    assert drawing.caption == "detections: 2 person, 1 dog"
    [drawing] = made({"model": SMALL, "boxes": "detections"}).explain(Inputs(size=SIZE, regions=regions))
    assert drawing.caption == "detections: 2 of class 1, 1 of class 18"


def test_weights_of_other_classes_make_a_network_of_as_many(tmp_path: Path) -> None:
    network = get_model(SMALL, weights=None, weights_backbone=None, num_classes=4)
    torch.save({"model": network.state_dict()}, tmp_path / "own.pth")
    config = FasterRCNN.Config(
        model=SMALL, weights=str(tmp_path / "own.pth"), boxes="detections", min_score=0.1
    )
    detector = FasterRCNN(config, CPU)
    regions = detector.detect(inputs())
    assert regions.classes is not None
    assert regions.classes.max() <= 3
    assert len(detector.identity()["weights"]) == 64


def test_the_published_batch_norms_of_resnet50_have_no_epsilon() -> None:
    network = FasterRCNN(FasterRCNN.Config(), CPU).build()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.eps == 0 for m in norms)
    assert torch.isfinite(norms[0].eval()(torch.rand(1, 64, 2, 2))).all()


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no detection network is called 'fasterrcnn'.*fasterrcnn_"):
        FasterRCNN(FasterRCNN.Config(model="fasterrcnn"), CPU)
    with pytest.raises(UsageError, match="proposes no boxes"):
        FasterRCNN(FasterRCNN.Config(model=ONE_STAGE), CPU)
    with pytest.raises(UsageError, match="pictures of one size"):
        made({"model": ONE_STAGE, "boxes": "detections", "side": 100})
    with pytest.raises(ValueError, match="boxes=detections"):
        FasterRCNN.Config(classes=("person",))
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    other = FasterRCNN(FasterRCNN.Config(model=SMALL, weights=str(tmp_path / "other.pth")), CPU)
    with pytest.raises(InstsearchError, match="no tensor 'backbone"):
        other.detect(inputs())
    assert "keypointrcnn_resnet50_fpn" not in models(("fasterrcnn", "keypointrcnn"))


class TestFasterRCNN(DetectorContract):
    component = FasterRCNN

    def make(self) -> Any:
        return made({"model": SMALL})


class TestMaskRCNN(DetectorContract):
    component = MaskRCNN

    def make(self) -> Any:
        return made({"side": 64})


def test_a_class_beyond_those_of_the_weights_is_refused() -> None:
    detector = made({"model": SMALL, "boxes": "detections", "classes": ("4",)})
    with pytest.raises(UsageError, match=r"own\.pth has classes 1 to 3, and detector\.classes 4"):
        detector.detect(inputs())


def test_a_classifier_of_no_shape_is_said(tmp_path: Path) -> None:
    torch.save(dict(numbers(FasterRCNN, SMALL)) | {HEAD: torch.tensor(1.0)}, tmp_path / "x.pth")
    options = {"model": SMALL, "boxes": "detections", "weights": str(tmp_path / "x.pth")}
    with pytest.raises(InstsearchError, match="has shape"):
        FasterRCNN(FasterRCNN.Config(**options), CPU).detect(inputs())
