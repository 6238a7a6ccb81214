"""A picture at several sizes in the encoders of dense vectors."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Regions, WeightMap
from instsearch_cli.options import make_config
from instsearch_plugins.encoders.crow import CroW
from instsearch_plugins.encoders.gem import GeM
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.mscnet import MSCNetCodes
from instsearch_plugins.encoders.pwa import PWA
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_mean import MeanRegionCodes
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.encoders.spoc import SPoC
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.encoders.vlad import VLAD
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (40, 30)
SHAPES = ((3, 4), (5, 7), (6, 8))
GLOBAL = [SumPooling, MAC, SPoC, CroW, GeM, PWA, MSCNetCodes]
REGIONAL = [RegionCodes, MeanRegionCodes]
BOX = (12.0, 4.0, 31.0, 23.0)
BOXES = torch.tensor([BOX, (0.0, 0.0, 40.0, 30.0)])


def one_size(seed, shape, C=6):
    values = torch.rand(C, *shape, generator=torch.Generator().manual_seed(seed)).sub(0.3).clamp(min=0)
    return FeatureMap(values, Grid.over(*shape, size=SIZE))


def sizes(seed):
    return [one_size(10 * seed + k, shape) for k, shape in enumerate(SHAPES)]


def pyramid(seed):
    first, *others = sizes(seed)
    return replace(first, levels=tuple(others))


def bare(cls, **options):
    """An encoder that has learnt nothing."""
    made = cls(make_config(cls, options, "encoder"), CPU)
    made.channels, made.whitening, made.of_sum = torch.arange(2), None, None
    return made


@pytest.mark.parametrize("cls", [*GLOBAL, *REGIONAL])
@pytest.mark.parametrize(
    "asked",
    [
        (None, None),
        (WeightMap(torch.arange(1.0, 13).view(1, 3, 4), Grid.over(3, 4, SIZE)), None),
        (BoxWeight(BOX), None),
        (BoxWeight(BOX, WeightMap(torch.rand(2, 3, 4), Grid.over(3, 4, SIZE))), None),
        (None, Regions(BOXES, torch.ones(2))),
    ],
)
def test_unit_vectors_of_all_sizes_are_added_up(cls, asked):
    made = bare(cls)
    alone = [made.aggregate(size, *asked).vectors for size in sizes(0)]
    together = made.aggregate(pyramid(0), *asked)
    torch.testing.assert_close(together.vectors, l2(sum(alone)))
    torch.testing.assert_close(together.boxes, made.aggregate(sizes(0)[0], *asked).boxes)
    assert not torch.allclose(together.vectors, alone[0], atol=1e-3)


@pytest.mark.parametrize("cls", [*GLOBAL, *REGIONAL])
def test_one_size_is_as_it_was(cls):
    made, size = bare(cls), one_size(3, (3, 4))
    made._network_for(size.values) if cls is MSCNetCodes else None
    raw = made.describe(size.values, torch.ones(1, 3, 4))
    assert torch.equal(made.aggregate(size, None, None).vectors, l2(raw))


class Collection:
    def __init__(self, features, regions=None):
        self.features, self.regions, self.images = features, regions, np.arange(len(features))

    def inputs(self, kinds, rows):
        for row in rows:
            yield Inputs(size=SIZE, row=int(row), features=self.features[row], regions=self.regions)


@pytest.mark.parametrize("cls", [SumPooling, CroW, RegionCodes, MSCNetCodes])
def test_the_whitening_is_learnt_from_all_sizes(cls):
    images = [pyramid(seed) for seed in range(30)]
    options = {"projection": 8} if cls is MSCNetCodes else {}
    z = torch.cat([bare(cls, **options).aggregate(f, None, None).vectors for f in images])
    mean, P = pca_whitening([z], 5)
    made = bare(cls, dims=5, **options)
    state = made.fit(Collection(images), QUIET)
    torch.testing.assert_close(state["mean"], mean, atol=1e-6, rtol=1e-5)
    made.load({k: np.asarray(v) for k, v in state.items()})
    got = torch.cat([made.aggregate(f, None, None).vectors for f in images])
    expected = l2(whiten(z, mean, P))
    torch.testing.assert_close(got @ got.T, expected @ expected.T, atol=1e-3, rtol=0)


def test_a_region_that_is_dark_at_one_size():
    first, *others = sizes(1)
    dark = replace(first, values=torch.zeros_like(first.values), levels=tuple(others))
    made = bare(SumPooling)
    expected = l2(sum(made.aggregate(size, None, None).vectors for size in others))
    torch.testing.assert_close(made.aggregate(dark, None, None).vectors, expected)
    nothing = [replace(size, values=torch.zeros_like(size.values)) for size in others]
    assert not made.aggregate(replace(nothing[0], levels=tuple(nothing[1:])), None, None).vectors.any()


def test_regions_added_up_at_several_sizes():
    made = bare(RegionsSum)
    regions = Regions(BOXES, torch.ones(2))
    each = bare(RegionCodes).aggregate(pyramid(2), None, regions).vectors
    torch.testing.assert_close(
        made.aggregate(pyramid(2), None, regions).vectors, l2(each.sum(0, keepdim=True))
    )


def test_a_querys_grid_of_regions_at_several_sizes():
    made = bare(RegionCodes)
    whole = made.aggregate_query(pyramid(2), None).vectors
    box = made.aggregate_query(pyramid(2), BoxWeight(BOX))
    assert box.boxes.tolist() == [list(BOX)]
    for unit in (whole, box.vectors):
        assert unit.shape == (1, 6)
        assert unit.norm().item() == pytest.approx(1)
    assert not torch.allclose(whole, box.vectors, atol=1e-3)


@pytest.mark.parametrize("regions", [None, Regions(BOXES, torch.ones(2))])
def test_vlad_adds_up_the_local_features_of_all_sizes(regions):
    made = bare(VLAD, over="local", whiten=False, rotate=False, words=3, power=1)
    made.rotations, made.axes, made.centroids = None, None, l2(torch.rand(3, 6))
    codes = [made._sums(size, None, regions)[0] for size in sizes(4)]
    torch.testing.assert_close(made.aggregate(pyramid(4), None, regions).vectors, l2(sum(codes)))
    weights = WeightMap(torch.rand(1, 3, 4), Grid.over(3, 4, SIZE))
    codes = [made._sums(size, weights, regions)[0] for size in sizes(4)]
    torch.testing.assert_close(made.aggregate(pyramid(4), weights, regions).vectors, l2(sum(codes)))
