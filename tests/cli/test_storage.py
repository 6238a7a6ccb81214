"""Between the data types and the index's items: what is stored comes back, optional members too, and only rounded."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import FeatureMap, Grid, Keypoints, WeightMap
from instsearch_cli.engine.filling import Filling
from instsearch_cli.errors import InstsearchError
from instsearch_cli.storage import from_item, grid_of, numbers, to_item
from instsearch_formats import ImageRecord, Index, Layer


def as_stored(encoding: str, value: Any) -> Any:
    """What storage gives back."""
    return from_item(encoding, to_item(encoding, value))


GENERATOR = torch.Generator().manual_seed(0)
GRID = Grid(2, 3, (10.0, 12.0, 0.5, 0.25))


def drawn(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=GENERATOR)


def feature_map(h: int = 2, w: int = 3, **more: Any) -> FeatureMap:
    return FeatureMap(drawn(5, h, w), Grid(h, w, (30.0 / w, 24.0 / h, 0.5, 0.25)), **more)


WITH_ALL = feature_map(logits=drawn(7), cam=drawn(4, 2, 3))
PYRAMID = feature_map(levels=(feature_map(4, 5), feature_map(1, 1)))
CLASSES = WeightMap(drawn(3, 2, 3).abs(), GRID, torch.tensor([999, 0, 17]))
KINDS: dict[str, tuple[str, Any]] = {
    "plain": ("dense-map", feature_map()),
    "logits": ("dense-map", feature_map(logits=drawn(7))),
    "cam": ("dense-map", feature_map(cam=drawn(4, 2, 3))),
    "all": ("dense-map", WITH_ALL),
    "pyramid": ("pyramid", PYRAMID),
    "one level": ("pyramid", feature_map()),
    "keypoints": ("keypoints", Keypoints(drawn(6, 5), drawn(6, 4), GRID)),
    "weights": ("weight-map", WeightMap(drawn(3, 2, 3).abs(), GRID)),
    "classes": ("weight-map", CLASSES),
}


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    for field in fields(a):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == other.dtype, field.name
            assert torch.equal(mine, other), field.name
        elif isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype, field.name
            assert np.array_equal(mine, other), field.name
        elif field.name == "levels":
            assert len(mine) == len(other)
            for pair in zip(mine, other, strict=True):
                same(*pair)
        else:
            assert mine == other, field.name


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index")
    index.images.add_root(tmp_path)
    index.images.append([ImageRecord(b"%d.jpg" % i, 0, 30, 24, 9, 9, bytes(32)) for i in range(4)])
    return index


def filled(index: Index, encoding: str, items: list[Any]) -> Layer:
    layer = index.layer("features", "net", encoding, {})
    with layer.writer(range(len(items))) as part:
        filling = Filling(encoding, part)
        for value in items:
            filling.append(None if value is None else to_item(encoding, value))
        filling.close()
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_comes_back_at_the_precision_of_the_index(kind: str, index: Index) -> None:
    encoding, value = KINDS[kind]
    layer = filled(index, encoding, [value] * 4)
    back = from_item(encoding, layer.read(1))
    same(back, as_stored(encoding, value))
    rounded = torch.as_tensor(value.values).half().float()
    assert torch.equal(torch.as_tensor(back.values), rounded)
    assert grid_of(layer.head(1)) == value.grid
    assert index.verify() == []


def test_rounding_is_that_of_half_precision_in_all_members_but_the_logits() -> None:
    kept = as_stored("dense-map", WITH_ALL)
    assert torch.equal(kept.logits, WITH_ALL.logits)
    for ours, mine in ((kept.values, WITH_ALL.values), (kept.cam, WITH_ALL.cam)):
        assert not torch.equal(ours, mine)
        assert torch.equal(ours, torch.from_numpy(mine.numpy().astype(np.float16).astype(np.float32)))
    levels = as_stored("pyramid", PYRAMID).levels
    assert [torch.equal(a.values, b.values) for a, b in zip(levels, PYRAMID.levels, strict=True)] == [
        False
    ] * 2
    assert torch.equal(levels[0].values, PYRAMID.levels[0].values.half().float())
    assert [level.grid for level in levels] == [level.grid for level in PYRAMID.levels]
    huge = as_stored("dense-map", replace(WITH_ALL, cam=torch.full((4, 2, 3), 1e9)))
    assert huge.cam.max() == 65504


def test_stored_twice_is_stored_once() -> None:
    for encoding, value in KINDS.values():
        once = as_stored(encoding, value)
        same(as_stored(encoding, once), once)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gaps", [(0,), (1,), (0, 1, 3), (0, 1, 2, 3)])
def test_rows_that_have_none_are_empty_items_of_the_others_widths(
    kind: str, gaps: tuple[int, ...], index: Index
) -> None:
    encoding, value = KINDS[kind]
    layer = filled(index, encoding, [None if row in gaps else value for row in range(4)])
    assert index.verify() == []
    for row in range(4):
        item = layer.read(row)
        if row not in gaps:
            same(from_item(encoding, item), from_item(encoding, to_item(encoding, value)))
            continue
        assert len(item["values"]) == 0
        assert not any(np.any(item[name]) for name in item)
        if len(gaps) < 4:
            wanted = to_item(encoding, value)
            assert {name: (x.dtype, x.shape[-1]) for name, x in item.items()} == {
                name: (x.dtype, x.shape[-1]) for name, x in wanted.items()
            }


def test_a_map_of_several_sizes_is_no_dense_map_and_the_other_way_round() -> None:
    for encoding, value in (
        ("dense-map", PYRAMID),
        ("pyramid", WITH_ALL),
        ("pyramid", feature_map(logits=drawn(7))),
        ("keypoints", WITH_ALL),
    ):
        with pytest.raises(InstsearchError, match=f"made a FeatureMap where the encoding is {encoding}"):
            to_item(encoding, value)


@pytest.mark.parametrize(
    ("encoding", "value", "reason"),
    [
        ("dense-map", replace(WITH_ALL, logits=drawn(1, 7)), r"shape \(1, 7\); wanted logits f32\[C\]"),
        ("dense-map", replace(WITH_ALL, cam=drawn(4, 3, 3)), r"shape \(4, 3, 3\); wanted a map on its grid"),
        ("pyramid", replace(PYRAMID, levels=(replace(PYRAMID, grid=GRID.resized(9, 9)),)), "on its grid"),
        ("weight-map", replace(CLASSES, classes=torch.arange(2)), "wanted a class for each of 3 maps"),
    ],
)
def test_members_that_do_not_fit_are_refused(encoding: str, value: Any, reason: str) -> None:
    with pytest.raises(InstsearchError, match=reason):
        to_item(encoding, value)


def test_levels_differ_in_width_no_more_than_a_dense_maps_pictures() -> None:
    other = FeatureMap(drawn(6, 1, 1), Grid(1, 1, (30.0, 24.0, 0.0, 0.0)))
    with pytest.raises(InstsearchError, match="levels of 5, 6 channels"):
        to_item("pyramid", replace(PYRAMID, levels=(other,)))


def test_numbers_counts_whatever_is_carried() -> None:
    assert numbers(KINDS["plain"][1]) == 5 * 6
    assert numbers(WITH_ALL) == 5 * 6 + 7 + 4 * 6
    assert numbers(PYRAMID) == 5 * (6 + 20 + 1)
    assert numbers(KINDS["keypoints"][1]) == 6 * 5 + 6 * 4
