"""Masks of regions: stored bit by bit, read at points, cut with their boxes, and what features they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import MASK, FeatureMap, Grid, Keypoints, Regions
from instsearch_cli.engine.describe import regions_in
from instsearch_cli.errors import InstsearchError
from instsearch_cli.storage import from_item, to_item
from instsearch_plugins.numeric.pooling import region_masks

GRID = Grid.over(6, 8, (160, 120))


def some(seed: int, R: int = 3) -> Regions:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (R, 2))
    boxes = torch.from_numpy(np.hstack([corners, corners + rng.uniform(10, 60, (R, 2))]).astype(np.float32))
    masks = torch.from_numpy(rng.random((R, MASK, MASK)) > 0.5)
    return Regions(boxes, torch.rand(R), masks, torch.arange(R) + 90)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), R=st.integers(0, 5))
def test_what_is_stored_comes_back(seed: int, R: int) -> None:
    regions = some(seed, R)
    item = to_item("regions", regions)
    assert item["masks"].shape == (R, 98)
    read = from_item("regions", item)
    for name in ("boxes", "scores", "masks", "classes"):
        torch.testing.assert_close(getattr(read, name), getattr(regions, name), rtol=0, atol=0)


def test_the_first_cell_is_the_highest_bit() -> None:
    masks = torch.zeros(1, MASK, MASK, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 0] = True
    item = to_item("regions", Regions(torch.zeros(1, 4), torch.zeros(1), masks))
    assert item["masks"][0].tolist() == [128, 0, 0, 8, *[0] * 94]


@pytest.mark.parametrize("wrong", [{"masks": torch.zeros(3, 7, 7)}, {"classes": torch.zeros(2)}])
def test_what_does_not_fit_is_refused(wrong: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InstsearchError, match=r"masks bool\[R, 28, 28\]|a class for each of 3 boxes"):
        to_item("regions", Regions(torch.zeros(3, 4), torch.zeros(3), **wrong))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999))
def test_features_count_in_box_and_mask(seed: int) -> None:
    regions = some(seed)
    assert regions.masks is not None
    inside, boxes = region_masks(FeatureMap(torch.rand(2, 6, 8), GRID), regions)
    torch.testing.assert_close(boxes, regions.boxes)
    x, y = GRID.centres()
    alone = GRID.masks(regions.boxes)
    for r, (x0, y0, x1, y1) in enumerate(regions.boxes.tolist()):
        expected = np.zeros((6, 8), bool)
        for i in range(6):
            for j in range(8):
                if alone[r, i, j]:
                    u = min(max(int((x[j] - x0) / (x1 - x0) * MASK), 0), MASK - 1)
                    v = min(max(int((y[i] - y0) / (y1 - y0) * MASK), 0), MASK - 1)
                    expected[i, j] = bool(regions.masks[r, v, u])
        np.testing.assert_array_equal(inside[r].numpy(), expected if expected.any() else alone[r])


def test_points_count_in_box_and_mask_and_an_empty_mask_does_not() -> None:
    masks = torch.zeros(2, MASK, MASK, dtype=torch.bool)
    masks[0, :, : MASK // 2] = True  # the left half of the first; nothing of the second
    regions = Regions(torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 100]]), torch.ones(2), masks)
    points = np.array([[20.0, 50, 1, 0], [80, 50, 1, 0], [120, 50, 1, 0]], np.float32)
    inside, _ = region_masks(Keypoints(np.ones((3, 2), np.float32), points, GRID), regions)
    assert inside.tolist() == [[True, False, False], [True, True, False]]


def test_a_cut_box_has_what_its_mask_had_there() -> None:
    masks = torch.zeros(1, MASK, MASK, dtype=torch.bool)
    masks[0, :, :7] = True  # x from 0 to 25 of a box from 0 to 100
    regions = Regions(torch.tensor([[0.0, 0, 100, 100]]), torch.ones(1), masks, torch.tensor([5]))
    cut = regions_in(regions, (0.0, 0.0, 70.0, 100.0))
    assert cut.boxes.tolist() == [[0, 0, 70, 100]]
    assert cut.classes is not None
    assert cut.classes.tolist() == [5]
    assert cut.masks is not None
    assert cut.masks[0, 3].tolist() == [k * 70 / MASK + 1.25 < 25 for k in range(MASK)]


def test_regions_without_masks_have_none_to_read() -> None:
    with pytest.raises(ValueError, match="no masks"):
        Regions(torch.zeros(1, 4), torch.zeros(1)).masked(torch.zeros(1), torch.zeros(1))
