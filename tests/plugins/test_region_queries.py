"""How R-MAC and regions by themselves describe a query: whole pictures, boxes, regions kept apart."""

from __future__ import annotations

import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, WeightMap
from instsearch_cli.options import config_for
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.regions import rmac_grid
from region_collection import CELLS, GRID, IMAGES, Collection, bare, fitted, pooled, regions_of


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_query_of_the_whole_picture_is_described_as_the_picture_is(levels):
    encoder = fitted(RegionsSum, Collection(IMAGES), query_levels=levels)
    gridded = regions_of(rmac_grid(6, 8, levels))
    asked = encoder.aggregate_query(IMAGES[0], None)
    torch.testing.assert_close(asked.vectors, encoder.aggregate(IMAGES[0], None, gridded).vectors)


def test_a_box_is_described_as_a_picture_of_its_own():
    encoder = fitted(RegionsSum, Collection(IMAGES))
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight((20.0, 10.0, 70.0, 50.0)))
    own = Grid.over(4, 5, (50, 40))
    crop = FeatureMap(IMAGES[0].values[:, 1:5, 2:7], own)
    expected = encoder.aggregate(crop, None, regions_of(rmac_grid(4, 5, 3), own))
    torch.testing.assert_close(asked.vectors, expected.vectors)


def test_a_query_of_one_region_and_a_box_added_to_its_grid():
    box = (20.0, 10.0, 70.0, 50.0)
    alone = bare(RegionsSum, query_levels=0).aggregate_query(IMAGES[0], BoxWeight(box)).vectors
    mac = bare(MAC).aggregate(IMAGES[0], BoxWeight(box), None).vectors
    torch.testing.assert_close(alone, mac)
    inside = rmac_grid(4, 5, 3) + torch.tensor([2, 1, 2, 1])
    cells = torch.cat([torch.tensor([[2, 1, 7, 5]]), inside])
    for whole, kept in ((True, cells), (False, inside)):
        got = bare(RegionsSum, query_whole=whole).aggregate_query(IMAGES[0], BoxWeight(box)).vectors
        expected = l2(pooled(IMAGES[0].values, kept).sum(0, keepdim=True))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [0, 2])
def test_a_query_for_regions_is_one_vector(levels):
    box = (20.0, 10.0, 70.0, 50.0)
    encoder = fitted(RegionCodes, Collection(IMAGES), query_levels=levels)
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(box))
    assert asked.boxes.tolist() == [list(box)]
    if levels == 0:
        expected = encoder.aggregate(IMAGES[0], BoxWeight(box), None).vectors
    else:
        inside = rmac_grid(4, 5, levels) + torch.tensor([2, 1, 2, 1])
        rows = encoder.aggregate(IMAGES[0], None, regions_of(inside)).vectors
        expected = l2(rows.sum(0, keepdim=True))
    torch.testing.assert_close(asked.vectors, expected)


def test_a_query_whose_regions_stay_apart():
    box = (20.0, 10.0, 70.0, 50.0)
    encoder = fitted(RegionCodes, Collection(IMAGES), query_levels=2, query_apart=True, reduce=2)
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(box))
    inside = rmac_grid(4, 5, 2) + torch.tensor([2, 1, 2, 1])
    whole = fitted(RegionCodes, Collection(IMAGES))
    expected = whole.aggregate(IMAGES[0], None, regions_of(inside))
    torch.testing.assert_close(asked.vectors, expected.vectors)
    torch.testing.assert_close(asked.boxes, expected.boxes)
    together = fitted(RegionCodes, Collection(IMAGES), query_levels=2, reduce=2)
    summed = together.aggregate_query(IMAGES[0], BoxWeight(box))
    torch.testing.assert_close(summed.vectors, l2(asked.vectors.sum(0, keepdim=True)))


def test_regions_of_a_query_without_activation_are_left_out():
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, :5] = 0
    asked = bare(RegionCodes, query_apart=True, query_levels=2).aggregate_query(half, None)
    assert 0 < len(asked.vectors) == len(asked.boxes) < len(CELLS)
    assert asked.vectors.any(1).all()
    dead = FeatureMap(torch.zeros(6, 6, 8), GRID)
    asked = bare(RegionCodes, query_apart=True).aggregate_query(dead, None)
    assert asked.vectors.shape == (1, 6)
    assert not asked.vectors.any()


def test_query_options_remake_no_layer():
    for cls in (RegionCodes, RegionsSum):
        apart = {"query_apart": True} if cls is RegionCodes else {}
        a, b = cls.Config(), cls.Config(query_levels=0, query_whole=True, **apart)
        assert config_for(a, "search") == config_for(b, "search")
        assert "pool" in config_for(a, "model")


def test_a_query_is_weighted_inside_its_box():
    alpha = torch.zeros(1, 6, 8)
    alpha[0, 1, 2], alpha[0, 0, 0] = 1, 1
    within = BoxWeight((20.0, 10.0, 70.0, 50.0), WeightMap(alpha, GRID))
    got = bare(RegionsSum).aggregate_query(IMAGES[0], within).vectors[0]
    torch.testing.assert_close(got, l2(IMAGES[0].values[:, 1, 2]))


def test_a_box_smaller_than_a_cell():
    got = bare(RegionsSum).aggregate_query(IMAGES[0], BoxWeight((31.0, 21.0, 33.0, 22.0))).vectors[0]
    torch.testing.assert_close(got, l2(IMAGES[0].values[:, 2, 3]))
