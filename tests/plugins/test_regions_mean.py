"""The mean of the cells that a box touches: against plain loops; where a query is pooled."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Regions
from instsearch_cli.options import documented, make_config
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_mean import MeanRegionCodes
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.regions import cell_boxes, touched_cells
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (250, 130)
GRID = Grid.over(5, 7, SIZE)
BOXES = torch.tensor([[10.0, 20, 90, 60], [0, 0, 250, 130], [100, 100, 101, 101], [40, 3, 200, 129]])


def image(seed, C=6):
    values = torch.rand(C, *GRID.shape, generator=torch.Generator().manual_seed(seed)).sub(0.2).clamp(min=0)
    return FeatureMap(values, GRID)


def bare(**options):
    encoder = MeanRegionCodes(MeanRegionCodes.Config(**options), CPU)
    encoder.load({})
    return encoder


def touched(box):
    """lo = floor, hi = ceil of the box in cells, by the card."""
    sx, sy = SIZE[0] / GRID.w, SIZE[1] / GRID.h
    columns = range(max(0, math.floor(box[0] / sx)), min(GRID.w, math.ceil(box[2] / sx)))
    rows = range(max(0, math.floor(box[1] / sy)), min(GRID.h, math.ceil(box[3] / sy)))
    return [(i, j) for i in rows for j in columns]


def mean_of(f, cells):
    return l2(torch.stack([f.values[:, i, j] for i, j in cells]).mean(0, keepdim=True))[0]


coordinate = st.integers(-30, 300)


@given(x=st.tuples(coordinate, coordinate), y=st.tuples(coordinate, coordinate))
def test_touched_cells_against_the_cards_rule(x, y):
    box = (min(x), min(y), max(x) + 0.7, max(y) + 0.7)
    cells = touched_cells(torch.tensor([box]), GRID)
    x0, y0, x1, y1 = cells[0].tolist()
    assert 0 <= x0 < x1 <= GRID.w
    assert 0 <= y0 < y1 <= GRID.h
    expected = touched(box)
    if expected:
        assert [(i, j) for i in range(y0, y1) for j in range(x0, x1)] == expected
    assert touched_cells(cell_boxes(cells, GRID), GRID).tolist() == cells.tolist()


def test_each_region_is_the_mean_of_what_it_touches():
    f = image(1)
    got = bare().aggregate(f, None, Regions(BOXES, torch.ones(4)))
    expected = torch.stack([mean_of(f, touched(box)) for box in BOXES.tolist()])
    torch.testing.assert_close(got.vectors, expected, atol=1e-6, rtol=0)
    assert torch.equal(got.boxes, BOXES)
    assert (
        got.vectors[0] @ bare(cells="centres").aggregate(f, None, Regions(BOXES, torch.ones(4))).vectors[0]
        < 0.999
    )


def test_centres_are_what_regions_has():
    f, regions = image(2), Regions(BOXES, torch.ones(4))
    plain = RegionCodes(RegionCodes.Config(pool="mean"), CPU)
    plain.load({})
    torch.testing.assert_close(
        bare(cells="centres").aggregate(f, None, regions).vectors, plain.aggregate(f, None, regions).vectors
    )


@pytest.mark.parametrize("cells", ["touched", "centres"])
def test_a_query_is_the_region_of_its_box(cells):
    f, encoder = image(3), bare(cells=cells)
    for box in BOXES.tolist():
        asked = encoder.aggregate_query(f, BoxWeight(tuple(box)))
        kept = encoder.aggregate(f, None, Regions(torch.tensor([box]), torch.ones(1)))
        torch.testing.assert_close(asked.vectors, kept.vectors)
        assert asked.boxes.tolist() == [box]
    whole = encoder.aggregate_query(f, None)
    torch.testing.assert_close(whole.vectors, encoder.aggregate(f, None, None).vectors)
    assert len(whole.vectors) == 1


def test_the_whitening_is_learnt_from_these_regions():
    images, regions = [image(i) for i in range(20)], Regions(BOXES, torch.ones(4))

    class Collection:
        images = np.arange(20)

        def inputs(self, kinds, rows):
            for row in rows:
                yield Inputs(size=SIZE, row=int(row), features=images[row], regions=regions)

    encoder = MeanRegionCodes(MeanRegionCodes.Config(), CPU)
    state = encoder.fit(Collection(), QUIET)
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    raw = torch.stack([mean_of(f, touched(box)) for f in images for box in BOXES.tolist()])
    expected = l2(whiten(raw, *pca_whitening([raw])))
    got = torch.cat([encoder.aggregate(f, None, regions).vectors for f in images])
    torch.testing.assert_close(got @ got.T, expected @ expected.T, atol=1e-3, rtol=0)


def test_options_are_those_of_regions_with_other_defaults():
    config = make_config(MeanRegionCodes, {"query-apart": "yes"}, "encoder")
    assert (config.pool, config.cells, config.query_levels, config.query_apart) == (
        "mean",
        "touched",
        0,
        True,
    )
    texts = {o.name: o.text for o in documented(MeanRegionCodes)}
    assert all(texts.values())
    assert texts["cells"].startswith("cells that are a region's")
    assert isinstance(bare(), Encoder)


class TestContract(EncoderContract):
    component = MeanRegionCodes

    def make_fitted(self):
        return bare()
