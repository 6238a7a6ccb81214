"""Feature and object saliency from end to end: learnt once, resumed, used for new pictures, learnt anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.engine import records
from instsearch_formats import Index

Cli = Callable[..., Any]
OBJECT = 24  #: pixels, along each side; cells have 8


def paint(path: Path, seed: int) -> tuple[int, int]:
    """A picture with little blue in it but for a square, whose place is returned."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 250, (6, 8, 3), np.uint8) * np.array([1, 1, 0], np.uint8)
    pixels = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    x, y = 8 * int(rng.integers(0, 6)), 8 * int(rng.integers(0, 4))
    pixels[y : y + OBJECT, x : x + OBJECT] = (0, 0, 250)
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return x, y


@pytest.fixture
def places(tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Nine pictures in a folder p, by name, and where the object lies in each."""
    return {f"{i}.png": paint(tmp_path / "p" / f"{i}.png", i) for i in range(9)}


def flags(weighting: str, *more: str) -> tuple[str, ...]:
    pipeline = ("--extractor", "cells", "--set", "extractor.side=8", "--weighting", weighting)
    return (
        *pipeline,
        "--detector",
        "egm",
        "--encoder",
        "regions-sum",
        "--set",
        "encoder.weighted=false",
        *more,
    )


def weight_maps(index: Path) -> dict[str, np.ndarray]:
    """The weights of the index's last pipeline, f32[h, w] by picture."""
    opened = Index.open(index)
    used = records.last(opened)
    assert used is not None
    (info,) = (layer for layer in opened.layers() if layer.kind == "weights" and layer.path in used.layers)
    layer = opened.layer("weights", info.name, info.encoding, info.identity)
    items = [(opened.images.name(row), layer.read(row)) for row in range(len(opened.images))]
    return {name: np.asarray(item["values"], np.float32).reshape(item["grid"]) for name, item in items}


def share(alpha: np.ndarray, place: tuple[int, int]) -> float:
    """How much of the weight lies on the object; the cells of the map are 8 x 6 pixels."""
    x, y = place
    inside = np.zeros(alpha.shape, bool)
    inside[y // 6 : -(-(y + OBJECT) // 6), x // 8 : (x + OBJECT) // 8] = True
    return float(alpha[inside].sum() / alpha.sum())


def models(cli: Cli, index: Path, name: str) -> list[dict[str, Any]]:
    return [m for m in cli("info", "--index", index, "--json").json["models"] if m["name"] == name]


@pytest.mark.parametrize("weighting", ["fs", "os"])
def test_weights_lie_on_the_object(
    cli: Cli, tiny: tuple[str, ...], places: dict[str, tuple[int, int]], tmp_path: Path, weighting: str
) -> None:
    index = tmp_path / "i"
    cli("index", tmp_path / "p", "--index", index, *flags(weighting))
    shares = [share(alpha, places[name]) for name, alpha in weight_maps(index).items()]
    assert len(shares) == len(places)
    assert np.mean(shares) > 0.25  # of equal weights it would have 0.1875, its share of the area
    x, y = places["0.png"]
    box = f"{x},{y},{OBJECT},{OBJECT}"
    hits = cli("query", tmp_path / "p" / "0.png", "--box", box, "--index", index, "--json").json["hits"]
    assert len(hits) == len(places)
    assert np.isfinite([hit["score"] for hit in hits]).all()


def test_a_run_again_learns_nothing_and_a_change_of_patches_keeps_the_graph(
    cli: Cli, tiny: tuple[str, ...], places: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    index = tmp_path / "i"
    first = cli("index", tmp_path / "p", "--index", index, *flags("os"), "--json").json
    assert any(f.startswith("weighting 'os' on 9 images") for f in first["fitted"])
    again = cli("index", "--index", index, "--json").json
    assert not again["fitted"]
    before = weight_maps(index)
    changed = cli("index", "--index", index, *flags("os", "--set", "weighting.a=3"), "--json").json
    assert not any("'os'" in f for f in changed["fitted"])
    assert len(models(cli, index, "os")) == 1
    after = weight_maps(index)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_new_pictures_are_weighed_by_the_old_graph_until_it_is_learnt_anew(
    cli: Cli, tiny: tuple[str, ...], places: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    index = tmp_path / "i"
    cli("index", tmp_path / "p", "--index", index, *flags("os"))
    (model,) = models(cli, index, "os")
    assert (model["fitted_on"], model["not_seen"]) == (9, 0)
    new = {f"{i}.png": paint(tmp_path / "p" / f"{i}.png", i) for i in range(9, 13)}
    cli("index", tmp_path / "p", "--index", index)
    (model,) = models(cli, index, "os")
    assert (model["fitted_on"], model["not_seen"]) == (9, 4)
    assert "fitted on 9 images, 4 added since (--refit)" in cli("info", "--index", index).out
    old = weight_maps(index)
    assert np.mean([share(old[name], place) for name, place in new.items()]) > 0.25

    refit = cli("index", "--index", index, "--refit", "--json").json
    assert any(f.startswith("weighting 'os' on 13 images") for f in refit["fitted"])
    newest = [m for m in models(cli, index, "os") if m["identity"].get("generation") == 1]
    assert [(m["fitted_on"], m["not_seen"]) for m in newest] == [(13, 0)]
    assert any(not np.array_equal(old[name], alpha) for name, alpha in weight_maps(index).items())
    x, y = new["12.png"]
    box = f"{x},{y},{OBJECT},{OBJECT}"
    hits = cli("query", tmp_path / "p" / "12.png", "--box", box, "--index", index, "--json").json["hits"]
    assert len(hits) == 13


def test_keypoints_are_refused_in_words(cli: Cli, places: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    for weighting in ("fs", "os"):
        refused = cli(
            "index", tmp_path / "p", "--index", tmp_path / weighting, "--extractor", "sift",
            "--weighting", weighting, "--encoder", "blcf", status=2,
        )  # fmt: skip
        assert f"the {weighting} weighting needs a feature map" in refused.err
