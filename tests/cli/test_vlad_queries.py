"""VLAD from end to end: a query is described by the regions that the detector finds in its box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instsearch_cli import EncoderSpec
from instsearch_cli.data import Regions
from instsearch_cli.engine.describe import regions_in
from instsearch_cli.engine.registry import Offer, load_registry

Cli = Callable[..., Any]
FLAGS = (
    "--extractor",
    "cells",
    "--set",
    "extractor.side=8",
    "--weighting",
    "flat",
    "--encoder",
    "summed-residuals",
)


def test_regions_in_a_box_are_cut_to_it() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [10, 10, 50, 50], [40, 40, 60, 60]])
    found = regions_in(Regions(boxes, torch.tensor([3.0, 2, 1])), (5.0, 5.0, 45.0, 45.0))
    assert found.boxes.tolist() == [[5, 5, 20, 20], [10, 10, 45, 45]]
    assert found.scores.tolist() == [3, 2]
    none = regions_in(Regions(boxes, torch.ones(3)), (45.0, 0.0, 55.0, 10.0))
    assert (none.boxes.tolist(), none.scores.tolist()) == ([[45, 0, 55, 10]], [1])


@pytest.fixture
def vlad(tiny: tuple[str, ...]) -> None:
    """The encoder by a name of this test's."""
    spec = EncoderSpec(
        "summed-residuals",
        "instsearch_plugins.encoders.vlad:VLAD",
        "VLAD",
        needs=("features", "weights", "regions"),
    )
    load_registry().add(Offer(spec, "test", "1"))


def scores(cli: Cli, photos: Path, index: Path, *more: object) -> dict[str, float]:
    hits = cli("query", photos / "b" / "0.png", "--index", index, "--json", *more).json["hits"]
    assert all(hit["box"] is None for hit in hits)
    return {hit["image"]: hit["score"] for hit in hits}


@pytest.mark.parametrize("detector", ["halves", "grid"])
def test_a_whole_picture_is_described_as_it_was_in_the_collection(
    cli: Cli, vlad: None, photos: Path, tmp_path: Path, detector: str
) -> None:
    cli("index", photos, "--index", tmp_path / "i", *FLAGS, "--detector", detector)
    detected = scores(cli, photos, tmp_path / "i")
    assert detected["b/0.png"] == pytest.approx(1, abs=1e-3)
    assert sorted(detected.values())[-2] < 0.99
    gridded = scores(cli, photos, tmp_path / "i", "--set", "encoder.query=grid")
    assert gridded["b/0.png"] < 0.99
    half = scores(cli, photos, tmp_path / "i", "--box", "0,0,32,48")
    assert half != detected


def test_without_a_detector_the_box_is_the_region(cli: Cli, vlad: None, photos: Path, tmp_path: Path) -> None:
    cli("index", photos, "--index", tmp_path / "i", *FLAGS, "--detector", "none")
    assert scores(cli, photos, tmp_path / "i")["b/0.png"] == pytest.approx(1, abs=1e-3)


def test_each_region_has_a_code_over_local_features(
    cli: Cli, vlad: None, photos: Path, tmp_path: Path
) -> None:
    local = ("--set", "encoder.over=local")
    cli("index", photos, "--index", tmp_path / "i", *FLAGS, "--detector", "halves", *local)
    run = ("query", photos / "b" / "0.png", "--box", "32,0,32,48", "--index", tmp_path / "i", "--json")
    best = cli(*run).json["hits"][0]
    assert (best["image"], best["box"]) == ("b/0.png", [32, 0, 32, 48])
    assert best["score"] == pytest.approx(1, abs=1e-3)
    assert len(cli(*run, "--per-image", 0).json["hits"]) == 20
