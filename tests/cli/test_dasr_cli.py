"""Deeply activated salient regions from end to end: indexed, found with their boxes, shown; clear errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

Cli = Callable[..., Any]
Draw = Callable[..., None]
SIZE = (160, 120)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Squeezenet with numbers drawn by lot, where it is looked for."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(5)
    path = tmp_path / "weights" / "squeezenet1_0.pth"
    path.parent.mkdir()
    torch.save(squeezenet1_0(weights=None).state_dict(), path)
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(path.parent))
    return path


@pytest.fixture
def scenes(tmp_path: Path, draw: Draw) -> Path:
    """Five pictures."""
    for i in range(5):
        draw(tmp_path / "p" / f"{i}.png", i, SIZE)
    return tmp_path / "p"


def flags(detector: str, *more: str) -> tuple[str, ...]:
    grid = (
        "--extractor",
        "cells",
        "--set",
        "extractor.side=8",
        "--weighting",
        "flat",
        "--encoder",
        "regions",
    )
    chosen = ("--detector", detector, "--set", "detector.network=squeezenet1_0", "--set", "detector.stop=4")
    return (*grid, *chosen, *more)


def regions(index: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Boxes and scores of each picture."""
    from instsearch_formats import Index

    opened = Index.open(index)
    info = next(i for i in opened.layers() if i.kind == "regions")
    layer = opened.layer("regions", info.name, info.encoding, info.identity)
    found = {opened.images.name(row): layer.read(row) for row in range(len(opened.images))}
    return {name: (np.asarray(item["boxes"]), np.asarray(item["scores"])) for name, item in found.items()}


@pytest.mark.parametrize("detector", ["dasr", "dasr-star"])
def test_hits_have_the_boxes_that_were_detected(
    cli: Cli, tiny: tuple[str, ...], network: Path, scenes: Path, tmp_path: Path, detector: str
) -> None:
    index = tmp_path / "i"
    cli("index", scenes, "--index", index, *flags(detector))
    found = regions(index)
    assert len(found) == 5
    for boxes, scores in found.values():
        assert len(boxes) >= 1
        assert (scores[:-1] >= scores[1:]).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= SIZE).all()
    hits = cli("query", scenes / "2.png", "--box", "0,0,80,60", "--index", index, "--json").json["hits"]
    assert len(hits) == 5
    for hit in hits:
        x, y, w, h = hit["box"]
        here = np.abs(found[hit["image"]][0] - [x, y, x + w, y + h]).max(1)
        assert here.min() < 0.11  # given to a tenth of a pixel
    again = cli("index", "--index", index, "--set", "detector.memory=512", "--json").json
    assert not again["fitted"]  # neither how much memory nor where the weights lie changes what is found
    assert len(regions(index)) == 5


def test_show_draws_how_it_came_about(
    cli: Cli, tiny: tuple[str, ...], network: Path, scenes: Path, tmp_path: Path
) -> None:
    index, out = tmp_path / "i", tmp_path / "out.png"
    cli("index", scenes, "--index", index, *flags("dasr-star"))
    assert "wrote" in cli("show", scenes / "1.png", "--index", index, "-o", out).out
    with PIL.Image.open(out) as star:
        assert star.width > 2 * SIZE[0]
    cli("index", scenes, "--index", index, *flags("dasr"))
    cli("show", scenes / "1.png", "--index", index, "-o", out)
    with PIL.Image.open(out) as shown:
        red = (np.abs(np.asarray(shown).astype(int) - (255, 52, 52)) < 30).all(-1)
    assert red.sum() > 100  # peaks, ellipses and boxes over their maps


def test_errors_say_what_to_do(
    cli: Cli, tiny: tuple[str, ...], network: Path, scenes: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"

    def refused(*more: str) -> str:
        given = [part for option in more for part in ("--set", option)]
        return str(cli("index", scenes, "--index", index, *flags("dasr", *given), status=2).err)

    assert "resnet50" in refused("detector.network=alexnet-2")
    assert "no layer 'features.99'" in refused("detector.layer=features.99")
    assert "features.12" in refused("detector.layer=features.112")
    assert "stop and memory are at least 1" in refused("detector.stop=0")
