"""R-MAC's grid by the numbers of the card and by the formula in plain loops; cells, boxes, detectors."""

import math
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Inputs
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import DetectorContract
from instsearch_plugins.detectors.grid import Grid as GridDetector
from instsearch_plugins.detectors.whole import Whole
from instsearch_plugins.numeric.regions import box_cells, cell_boxes, grid_in, rmac_grid

CPU = torch.device("cpu")
sides = st.integers(1, 70)


@pytest.mark.parametrize(
    ("h", "w", "starts"),
    [
        (24, 32, {24: ([0, 8], [0]), 16: ([0, 8, 16], [0, 8]), 12: ([0, 6, 13, 20], [0, 6, 12])}),
        (32, 32, {32: ([0], [0]), 21: ([0, 11], [0, 11]), 16: ([0, 8, 16], [0, 8, 16])}),
        (7, 7, {7: ([0], [0]), 4: ([0, 3], [0, 3]), 3: ([0, 2, 4], [0, 2, 4])}),
        (45, 64, {45: ([0, 19], [0]), 30: ([0, 17, 34], [0, 15]), 22: ([0, 14, 28, 42], [0, 11, 23])}),
    ],
)
def test_the_cards_grids(h, w, starts):
    expected = [(x, y, x + s, y + s) for s, (xs, ys) in starts.items() for y in ys for x in xs]
    assert rmac_grid(h, w, 3).tolist() == [list(e) for e in expected]
    upright = sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in expected)
    assert sorted(map(tuple, rmac_grid(w, h, 3).tolist())) == upright


@pytest.mark.parametrize(("h", "w"), [(5, 9), (10, 18), (20, 36), (25, 45), (12, 44), (9, 5)])
def test_of_two_counts_that_miss_by_the_same_the_fewer_is_taken(h, w):
    """5 x 9: two squares overlap by 20 %, three by 60 %."""
    short, long = min(h, w), max(h, w)
    misses = {m: abs(Fraction(2, 5) - (1 - Fraction(long - short, short * (m - 1)))) for m in range(2, 8)}
    nearest = [m for m, miss in misses.items() if miss == min(misses.values())]
    assert len(nearest) == 2
    assert len(rmac_grid(h, w, 1)) == nearest[0]


def plain_grid(H, W, L):
    """The card's text, with its half sides."""
    w = min(H, W)
    misses = []
    for steps in (2, 3, 4, 5, 6, 7):
        b = Fraction(max(H, W) - w, steps - 1)
        misses.append(abs((w**2 - w * b) / w**2 - Fraction(2, 5)))
    idx = misses.index(min(misses)) + 1
    Wd, Hd = (idx if H < W else 0), (idx if H > W else 0)
    regions = []
    for level in range(1, L + 1):
        wl = math.floor(2 * w / (level + 1))
        if wl == 0:
            continue
        wl2 = math.floor(wl / 2 - 1)

        def starts(n, count, wl=wl, wl2=wl2):
            step = (n - wl) / (count - 1) if count > 1 else 0
            return [math.floor(wl2 + t * step + 1e-9) - wl2 for t in range(count)]

        regions += [[x, y, x + wl, y + wl] for y in starts(H, level + Hd) for x in starts(W, level + Wd)]
    return regions


@given(h=sides, w=sides, levels=st.integers(0, 5))
def test_the_formula(h, w, levels):
    cells = rmac_grid(h, w, levels)
    assert cells.dtype == torch.int64
    assert cells.tolist() == plain_grid(h, w, levels)
    x0, y0, x1, y1 = cells.T
    assert ((x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= w) & (y1 <= h)).all()


def test_grids_inside_regions():
    cells = torch.tensor([[3, 1, 10, 8], [2, 5, 3, 6]])
    inside = rmac_grid(7, 7, 2) + torch.tensor([3, 1, 3, 1])
    assert grid_in(cells, 2).tolist() == [[3, 1, 10, 8], *inside.tolist(), [2, 5, 3, 6], [2, 5, 3, 6]]
    assert grid_in(cells, 0).tolist() == cells.tolist()
    assert grid_in(torch.zeros(0, 4, dtype=torch.int64), 2).shape == (0, 4)


@given(h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 99))
def test_cells_to_boxes_and_back(h, w, seed):
    g = torch.Generator().manual_seed(seed)
    grid = Grid(h, w, (16.5, 8.25, 3.0, -2.0))
    x = torch.randint(0, w, (5, 2), generator=g).sort(1).values + torch.tensor([0, 1])
    y = torch.randint(0, h, (5, 2), generator=g).sort(1).values + torch.tensor([0, 1])
    cells = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    boxes = cell_boxes(cells, grid)
    for (x0, y0, x1, y1), box in zip(cells.tolist(), boxes.tolist(), strict=True):
        assert box == [3 + 16.5 * x0, -2 + 8.25 * y0, 3 + 16.5 * x1, -2 + 8.25 * y1]
    assert torch.equal(box_cells(boxes, grid), cells)
    assert torch.equal(cell_boxes(cells.numpy(), grid), boxes)


@given(h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 99))
def test_cells_of_any_box_are_those_of_the_mask(h, w, seed):
    grid = Grid.over(h, w, (90, 90))
    corners = (
        torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(seed)).mul(120).sub(15).sort(1).values
    )
    boxes = corners.flatten(1)
    masks = torch.from_numpy(grid.masks(boxes))
    for mask, (x0, y0, x1, y1) in zip(masks, box_cells(boxes, grid).tolist(), strict=True):
        again = torch.zeros(h, w, dtype=torch.bool)
        again[y0:y1, x0:x1] = True
        assert torch.equal(mask, again)


def detected(detector, grid, size=(640, 480)):
    return detector.detect(Inputs(size=size, grid=grid))


def test_the_grid_detector():
    grid = Grid.over(24, 32, (640, 480))
    found = detected(GridDetector(GridDetector.Config(), CPU), grid)
    assert found.boxes[:2].tolist() == [[0, 0, 480, 480], [160, 0, 640, 480]]
    assert torch.equal(found.boxes, cell_boxes(rmac_grid(24, 32, 3), grid))
    assert found.scores.tolist() == [1] * 20
    more = detected(GridDetector(GridDetector.Config(whole=True), CPU), grid)
    assert more.boxes[0].tolist() == [0, 0, 640, 480]
    assert torch.equal(more.boxes[1:], found.boxes)
    alone = detected(GridDetector(GridDetector.Config(levels=0, whole=True), CPU), grid)
    assert alone.boxes.tolist() == [[0, 0, 640, 480]]


@pytest.mark.parametrize("options", [{"levels": 0}, {"levels": -1, "whole": True}])
def test_a_grid_of_nothing_is_refused(options):
    with pytest.raises(UsageError, match="levels is at least 1"):
        make_config(GridDetector, options, "detector")


def test_the_whole_picture():
    found = detected(Whole(Whole.Config(), CPU), Grid.over(3, 4, (640, 480)))
    assert found.boxes.tolist() == [[0, 0, 640, 480]]
    assert found.scores.tolist() == [1]


class TestGridContract(DetectorContract):
    component = GridDetector


class TestGridWithTheWholeContract(DetectorContract):
    component = GridDetector
    options: ClassVar[dict[str, Any]] = {"levels": 5, "whole": "true"}


class TestWholeContract(DetectorContract):
    component = Whole
