"""Models fitted on another index, and queries weighted as the collection is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, WeightMap, Words
from instsearch_formats import Index

Cli = Callable[..., Any]


def model(index: Path, name: str = "centred") -> tuple[dict[str, Any], Any]:
    found = [m for m in Index.open(index).models() if m.name == name]
    assert len(found) == 1
    read = Index.open(index).read_model(name, found[0].identity)
    assert read is not None
    return read[0], found[0]


@pytest.fixture
def others(tmp_path: Path, draw: Callable[..., None]) -> Path:
    for i in range(6):
        draw(tmp_path / "others" / f"{i}.png", 100 + i)
    return tmp_path / "others"


def test_fit_on_another_index(
    cli: Cli, tiny: tuple[str, ...], photos: Path, others: Path, tmp_path: Path
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    cli("index", others, "--index", other, *tiny)
    done = cli("index", photos, "--index", own, *tiny, "--fit-on", other, "--json").json
    assert done["fitted"] == [f"encoder 'centred' on 6 images of {other}"]
    theirs, mine = model(other), model(own)
    np.testing.assert_array_equal(theirs[0]["mean"], mine[0]["mean"])
    assert mine[1].identity["fit-on"]
    assert f"fitted on 6 images of {other}" in cli("info", "--index", own).out
    assert (
        cli("query", photos / "a" / "3.png", "--index", own, "--json").json["hits"][0]["image"] == "a/3.png"
    )
    again = cli("index", "--index", own, "--json").json
    assert (again["fitted"], again["written"]) == ([], {})
    back = cli("index", "--index", own, "--fit-on", "none", "--json").json
    assert back["fitted"] == ["encoder 'centred' on 10 images"]


def test_what_the_other_index_has_not_fitted_is_fitted_on_its_images(
    cli: Cli, tiny: tuple[str, ...], photos: Path, others: Path, tmp_path: Path
) -> None:
    own, other, reference = tmp_path / "own", tmp_path / "other", tmp_path / "reference"
    cli("extract", others, "--index", other, "--extractor", "cells")
    cli("index", photos, "--index", own, *tiny, "--fit-on", other)
    cli("index", others, "--index", reference, *tiny)
    np.testing.assert_array_equal(model(reference)[0]["mean"], model(own)[0]["mean"])
    assert not list(Index.open(other).models())


def test_an_index_that_changed_since_is_an_error(
    cli: Cli, tiny: tuple[str, ...], photos: Path, others: Path, tmp_path: Path, draw: Callable[..., None]
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    cli("index", others, "--index", other, *tiny)
    cli("index", photos, "--index", own, *tiny, "--fit-on", other)
    draw(others / "new.png", 300)
    cli("add", others, "--index", other)
    cli("index", "--index", own)  # nothing to fit: the other index is not needed
    said = cli("index", "--index", own, "--refit", status=1).err
    assert "holds other images" in said
    assert "--fit-on" in said


def test_queries_are_weighted_if_asked(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny[:4], "--weighting", "bright", *tiny[6:])

    def scores(*flags: str) -> list[float]:
        asked = cli("query", photos / "a" / "3.png", "--index", index, "--json", "--box", "0,0,32,48", *flags)
        return [hit["score"] for hit in asked.json["hits"]]

    plain = scores()
    assert scores("--no-weigh-query") == plain
    assert scores("--weigh-query") != plain
    cli("index", "--index", index, "--weigh-query")
    assert scores() == scores("--weigh-query") != plain


def test_a_query_cropped_to_its_box_is_the_query_of_that_picture(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index, whole, part = tmp_path / "i", photos / "a" / "3.png", tmp_path / "part.png"
    cli("index", photos, "--index", index, *tiny)
    with PIL.Image.open(whole) as picture:
        picture.crop((8, 4, 40, 44)).save(part)

    def ranking(*asked: object) -> list[tuple[str, float]]:
        said = cli("query", *asked, "--index", index, "--json").json
        return [(hit["image"], hit["score"]) for hit in said["hits"]]

    boxed = (whole, "--box", "8,4,32,40")
    assert ranking(*boxed, "--crop-query") == ranking(part) != ranking(*boxed)
    cli("index", "--index", index, "--crop-query")
    assert ranking(*boxed) == ranking(part)
    assert ranking(*boxed, "--no-crop-query") != ranking(part)


def test_a_weighted_box_counts_inside_only() -> None:
    grid = Grid.over(2, 3, (30, 20))
    weights = WeightMap(torch.tensor([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]]), grid)
    inside = BoxWeight((10, 0, 30, 10), weights)
    expected = torch.tensor([[[0, 0.2, 0.3], [0, 0, 0]]])
    torch.testing.assert_close(inside.over(FeatureMap(torch.zeros(1, 2, 3), grid)), expected)
    geometry = np.array([[15, 5, 1, 0], [15, 15, 1, 0]], np.float32)
    found = inside.over(Words(np.zeros(2, np.int32), grid, geometry))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.2, 0]], rtol=1e-6)
    cells = inside.over(Words(np.zeros((2, 3), np.int32), grid))
    np.testing.assert_array_equal(cells, expected)
