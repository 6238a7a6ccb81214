"""Detection networks from end to end: regions with masks and classes indexed, re-ranked by, read and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import instsearch

Cli = Callable[..., Any]
Draw = Callable[..., None]
SIZE = (120, 90)
CELLS = (
    "--extractor",
    "cells",
    "--set",
    "extractor.side=8",
    "--weighting",
    "none",
    "--encoder",
    "deepvision",
)


@pytest.fixture
def scenes(tmp_path: Path, draw: Draw) -> Path:
    for i in range(4):
        draw(tmp_path / "p" / f"{i}.png", i, SIZE)
    return tmp_path / "p"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Mask R-CNN of three classes, with numbers drawn by lot."""
    from torchvision.models import get_model

    torch.manual_seed(1)
    network = get_model("maskrcnn_resnet50_fpn", weights=None, weights_backbone=None, num_classes=3)
    state = network.state_dict()
    state["roi_heads.box_predictor.cls_score.bias"] = torch.tensor([0.0, 0.5, 1.0])
    torch.save(state, tmp_path / "own.pth")
    return tmp_path / "own.pth"


def test_instances_are_indexed_found_by_and_shown(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, weights: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    options = ("detector.side=64", f"detector.weights={weights}", "detector.most=5", "detector.nms=0.4")
    chosen = [word for option in options for word in ("--set", option)]
    cli(
        "index",
        scenes,
        "--index",
        index,
        *CELLS,
        "--detector",
        "mask-rcnn",
        *chosen,
        "--rerank",
        "deepvision",
    )
    with instsearch.open(index) as opened:
        found = opened.regions("2.png")
    boxes = np.asarray(found["boxes"])
    assert 1 <= len(boxes) <= 5
    assert found["masks"].shape == (len(boxes), 28, 28)
    assert set(np.asarray(found["classes"]).tolist()) <= {1, 2}
    asked = cli("query", scenes / "2.png", "--box", "0,0,60,45", "--index", index, "--json").json["hits"]
    assert len(asked) == 4
    own = next(hit for hit in asked if hit["image"] == "2.png")
    assert np.abs(np.asarray(own["box"]) - boxes).max(1).min() < 0.06
    cli("show", "2.png", "--index", index, "--out", tmp_path / "shown.png")
    with PIL.Image.open(tmp_path / "shown.png") as shown:
        assert shown.width > SIZE[0]


def test_the_trunk_of_a_detection_network_is_a_networks_weights(weights: Path) -> None:
    from instsearch_plugins.extractors.networks import ResNet50

    trunk = ResNet50.import_weights(weights)
    network = ResNet50.build()
    wanted = {name for name in network.state_dict() if not name.startswith("fc.")}
    assert {name for name in trunk if "num_batches" not in name} == {
        n for n in wanted if "num_batches" not in n
    }


def test_a_class_that_is_not_there_and_missing_weights_are_told(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    wrong = ("--set", "detector.boxes=detections", "--set", "detector.classes=dgo")
    outcome = cli(
        "index", scenes, "--index", tmp_path / "i", *CELLS, "--detector", "faster-rcnn", *wrong, status=2
    )
    assert "no class 'dgo'" in outcome.err
    outcome = cli("index", scenes, "--index", tmp_path / "i", *CELLS, "--detector", "faster-rcnn", status=1)
    assert "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth" in outcome.err
