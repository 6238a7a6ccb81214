"""Regions from end to end: an object is found, and found where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

Cli = Callable[..., Any]
PLACES = {0: (16, 12), 3: (32, 24), 7: (0, 24)}  #: picture -> x, y of the object, which is 32 x 24 pixels


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Nine pictures without any blue, and a blue object in three of them."""
    (tmp_path / "p").mkdir()
    for i in range(9):
        rng = np.random.default_rng(i)
        blocks = rng.integers(60, 250, (6, 8, 3), np.uint8) * np.array([1, 1, 0], np.uint8)
        pixels = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
        if i in PLACES:
            x, y = PLACES[i]
            pixels[y : y + 24, x : x + 32] = (0, 0, 250)
        PIL.Image.fromarray(pixels).save(tmp_path / "p" / f"{i}.png")
    return tmp_path / "p"


def flags(encoder: str, detector: str) -> tuple[str, ...]:
    grid = ("--extractor", "cells", "--set", "extractor.side=8", "--weighting", "flat")
    return (*grid, "--encoder", encoder, "--detector", detector)


def asked(scenes: Path, index: Path) -> tuple[object, ...]:
    return ("query", scenes / "0.png", "--box", "16,12,32,24", "--index", index, "--json")


def test_the_region_that_holds_the_object_is_the_hits_box(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", scenes, "--index", index, *flags("regions", "grid"))
    hits = cli(*asked(scenes, index)).json["hits"]
    assert len(hits) == 9
    assert all(hit["box"] for hit in hits)
    assert {hit["image"] for hit in hits[:3]} == {f"{i}.png" for i in PLACES}
    for hit in hits[:3]:
        assert hit["box"] == pytest.approx([*PLACES[int(hit["image"][0])], 32, 24])


def test_r_mac_finds_the_object_and_says_not_where(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", scenes, "--index", index, *flags("regions-sum", "grid"))
    hits = cli(*asked(scenes, index)).json["hits"]
    assert {hit["image"] for hit in hits[:3]} == {f"{i}.png" for i in PLACES}
    assert all(hit["box"] is None for hit in hits)
    expanded = cli(*asked(scenes, index), "--rerank", "aqe", "--set", "rerank.aqe.depth=2").json["hits"]
    assert {hit["image"] for hit in expanded[:3]} == {f"{i}.png" for i in PLACES}
    refused = cli(*asked(scenes, index), "--rerank", "spatial", status=1)
    assert "one code for all" in refused.err


def itself(cli: Cli, scenes: Path, index: Path, *names: str) -> None:
    """A whole picture of the collection is described as it was there."""
    for name in names:
        hits = cli("query", scenes / name, "--index", index, "--json").json["hits"]
        scores = {hit["image"]: hit["score"] for hit in hits}
        assert scores[name] == pytest.approx(1, abs=1e-4)
        assert scores[name] == pytest.approx(max(scores.values()), abs=1e-4)
        assert min(scores.values()) < 0.9


@pytest.mark.parametrize("stage", ["regions", "sum", "both"])
def test_a_whole_picture_finds_itself(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path, stage: str
) -> None:
    pipeline = (*flags("regions-sum", "grid"), "--set", f"encoder.whiten={stage}")
    cli("index", scenes, "--index", tmp_path / "i", *pipeline)
    itself(cli, scenes, tmp_path / "i", "0.png", "5.png")


@pytest.mark.parametrize("encoder", ["regions", "regions-sum"])
def test_one_region_and_none_are_the_same(
    cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path, encoder: str
) -> None:
    answers = []
    for name in ("none", "whole"):
        cli("index", scenes, "--index", tmp_path / name, *flags(encoder, name))
        hits = cli(*asked(scenes, tmp_path / name)).json["hits"]
        answers.append([(hit["image"], hit["score"]) for hit in hits])
        assert (hits[0]["box"] is not None) == (name == "whole" and encoder == "regions")
    assert answers[0] == answers[1]


def test_pairs_of_the_collection(cli: Cli, tiny: tuple[str, ...], scenes: Path, tmp_path: Path) -> None:
    index, pairs = tmp_path / "i", tmp_path / "pairs.csv"
    by_pairs = ("--set", "encoder.whiten=sum", "--set", f"encoder.pairs={pairs}")
    run = ("index", scenes, "--index", index, *flags("regions-sum", "grid"), *by_pairs)
    pairs.write_text("0.png,3.png\n0.png,gone.png\n")
    assert "names 1 images that are not in the collection: gone.png" in cli(*run, status=1).err
    pairs.write_text("0.png,3.png\n3.png,7.png\n1.png,2.png\n4.png,5.png\n")
    assert "encoder 'regions-sum' on 9 images" in json.dumps(cli(*run, "--json").json["fitted"])
    pairs.unlink()  # it was read when the whitening was learnt, and is not asked for again
    itself(cli, scenes, index, "0.png", "8.png")
