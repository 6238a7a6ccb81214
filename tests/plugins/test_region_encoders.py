"""R-MAC and regions by themselves: against plain loops; what the whitenings are learnt from; reduction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import FeatureMap, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.testing import EncoderContract, make_features
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.numeric.whitening import pca_whitening, whiten
from region_collection import (
    CELLS,
    GRID,
    GRIDDED,
    IMAGES,
    SIZE,
    Collection,
    angles,
    bare,
    fitted,
    image,
    pooled,
    regions_of,
)

RAW = torch.cat([pooled(f.values, CELLS) for f in IMAGES])


@given(seed=st.integers(0, 50), mode=st.sampled_from(["max", "mean"]))
def test_unwhitened_against_plain_loops(seed, mode):
    f = image(seed)
    v = pooled(f.values, CELLS, mode)
    codes = bare(RegionCodes, pool=mode).aggregate(f, None, GRIDDED)
    torch.testing.assert_close(codes.vectors, v, atol=1e-5, rtol=0)
    assert codes.boxes is GRIDDED.boxes
    total = bare(RegionsSum, pool=mode).aggregate(f, None, GRIDDED)
    torch.testing.assert_close(total.vectors, l2(v.sum(0, keepdim=True)), atol=1e-5, rtol=0)
    assert total.boxes.tolist() == [[0, 0, *SIZE]]


def test_regions_are_whitened_by_what_is_learnt_from_regions():
    encoder = fitted(RegionCodes, Collection(IMAGES))
    assert isinstance(encoder, Encoder)
    expected = l2(whiten(RAW, *pca_whitening([RAW])))
    got = torch.cat([encoder.aggregate(f, None, GRIDDED).vectors for f in IMAGES])
    torch.testing.assert_close(angles(got), angles(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("stage", ["regions", "sum", "both"])
def test_r_mac_whitened_where_it_is_asked(stage):
    encoder = fitted(RegionsSum, Collection(IMAGES), whiten=stage)
    assert isinstance(encoder, Encoder)
    v = RAW
    if stage != "sum":
        v = l2(whiten(v, *pca_whitening([v])))
    total = l2(v.reshape(len(IMAGES), len(CELLS), -1).sum(1))
    if stage != "regions":
        total = l2(whiten(total, *pca_whitening([total], 16)))
    got = torch.cat([encoder.aggregate(f, None, GRIDDED).vectors for f in IMAGES])
    torch.testing.assert_close(angles(got), angles(total), atol=1e-3, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(IMAGES)))


def test_regions_are_the_default_of_what_is_whitened():
    assert RegionsSum.Config().whiten == "regions"


def test_dimensions():
    many = [image(i, C=40) for i in range(30)]
    assert fitted(RegionCodes, Collection(many), dims=3).aggregate(many[0], None, GRIDDED).vectors.shape == (
        len(CELLS),
        3,
    )
    n = len(many) * len(CELLS)
    assert fitted(RegionCodes, Collection(many)).whitening[1].shape == (40, n // 8)
    assert fitted(RegionsSum, Collection(many), whiten="both", dims=5).of_sum[1].shape == (5, 5)
    assert fitted(RegionsSum, Collection(many), whiten="sum").of_sum[1].shape == (40, 16)


def test_a_sample_is_learnt_from():
    seen = []

    class Watched(Collection):
        def inputs(self, kinds, rows=None):
            seen.extend(rows)
            return super().inputs(kinds, rows)

    fitted(RegionCodes, Watched(IMAGES), fit_images=5)
    assert len(set(seen)) == len(seen) == 5
    assert seen == sorted(seen)


def test_batches_do_not_matter(monkeypatch):
    whole = fitted(RegionsSum, Collection(IMAGES))
    monkeypatch.setattr("instsearch_plugins.encoders.region_vectors.BATCH", 7)
    parts = fitted(RegionsSum, Collection(IMAGES))
    torch.testing.assert_close(parts.whitening[0], whole.whitening[0])
    torch.testing.assert_close(
        parts.whitening[1] @ parts.whitening[1].T,
        whole.whitening[1] @ whole.whitening[1].T,
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
@pytest.mark.parametrize("none", [None, Regions(torch.zeros(0, 4), torch.zeros(0))])
def test_without_regions_the_whole_picture(cls, none):
    encoder = fitted(cls, Collection(IMAGES, none))
    mac = fitted(MAC, Collection(IMAGES))
    got = torch.cat([encoder.aggregate(f, None, none).vectors for f in IMAGES])
    expected = torch.cat([mac.aggregate(f, None, None).vectors for f in IMAGES])
    assert got.shape[0] == len(IMAGES)
    torch.testing.assert_close(angles(got), angles(expected), atol=1e-3, rtol=0)
    assert encoder.aggregate(IMAGES[0], None, none).boxes.tolist() == [[0, 0, *SIZE]]


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
def test_nothing_to_learn_from(cls):
    with pytest.raises(InstsearchError, match=r"no image to learn the whitening of 'regions"):
        fitted(cls, Collection([]))
    dead = [FeatureMap(torch.zeros(6, 6, 8), GRID)] * 3
    with pytest.raises(InstsearchError, match="no image"):
        fitted(cls, Collection(dead))


@pytest.mark.parametrize("options", [{}, {"whiten": "sum"}, {"whiten": "both"}])
def test_equal_pictures_are_left_unwhitened(options):
    flat = [FeatureMap(torch.linspace(0.1, 1, 6)[:, None, None].expand(6, 6, 8).clone(), GRID)] * 4
    encoder = fitted(RegionsSum, Collection(flat), **options)
    v = l2(flat[0].values[:, 0, 0])
    torch.testing.assert_close(encoder.aggregate(flat[0], None, GRIDDED).vectors[0], v)


@pytest.mark.parametrize("whiten", ["regions", "sum", "both"])
def test_silence_stays_zero(whiten):
    encoder = fitted(RegionsSum, Collection(IMAGES), whiten=whiten)
    dead = FeatureMap(torch.zeros(6, 6, 8), GRID)
    width = encoder.aggregate(IMAGES[0], None, GRIDDED).vectors.shape
    codes = encoder.aggregate(dead, None, GRIDDED)
    assert codes.vectors.shape == width
    assert codes.vectors.eq(0).all()
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, 3:] = 0
    left = fitted(RegionCodes, Collection(IMAGES)).aggregate(
        half, None, regions_of(torch.tensor([[0, 0, 3, 6], [3, 0, 8, 6]]))
    )
    torch.testing.assert_close(left.vectors.norm(dim=1), torch.tensor([1.0, 0]))


def test_weights_mask_the_maximum_and_weigh_the_mean():
    f = IMAGES[0]
    alpha = torch.zeros(1, 6, 8)
    alpha[0, 1, 1], alpha[0, 4, 6], alpha[0, 2, 2] = 2, 1, 3
    cells = torch.tensor([[0, 0, 4, 4], [4, 0, 8, 6]])
    weights = WeightMap(alpha, GRID)
    largest = bare(RegionCodes).aggregate(f, weights, regions_of(cells)).vectors
    mean = bare(RegionCodes, pool="mean").aggregate(f, weights, regions_of(cells)).vectors
    a, b, c = f.values[:, 1, 1], f.values[:, 2, 2], f.values[:, 4, 6]
    torch.testing.assert_close(largest, l2(torch.stack([torch.maximum(a, b), c])))
    torch.testing.assert_close(mean, l2(torch.stack([2 * a + 3 * b, c])))


def test_regions_reduced_are_the_means_of_a_mixture():
    """Two kinds of cells, left and right: two vectors, each with the box around its regions."""
    values = torch.zeros(6, 6, 8)
    values[0, :, :4], values[1, :, 4:] = 1, 1
    cells = torch.tensor([[0, 0, 2, 2], [4, 0, 6, 3], [1, 2, 4, 5], [5, 3, 8, 4], [2, 5, 4, 6]])
    codes = bare(RegionCodes, reduce=2).aggregate(FeatureMap(values, GRID), None, regions_of(cells))
    torch.testing.assert_close(codes.vectors, torch.eye(6)[:2])
    around = torch.tensor([[0, 0, 4, 6], [4, 0, 8, 4]])
    torch.testing.assert_close(codes.boxes, cell_boxes(around, GRID))


@pytest.mark.parametrize("reduce", [0, 5, 9])
def test_as_many_regions_or_fewer_stay_as_they_are(reduce):
    f, five = IMAGES[0], regions_of(CELLS[:5])
    expected = bare(RegionCodes).aggregate(f, None, five)
    codes = bare(RegionCodes, reduce=reduce).aggregate(f, None, five)
    assert torch.equal(codes.vectors, expected.vectors)
    assert codes.boxes is five.boxes
    one = bare(RegionCodes, reduce=1).aggregate(f, None, five)
    torch.testing.assert_close(one.vectors, l2(expected.vectors.mean(0, keepdim=True)))


def test_regions_without_activation_are_not_reduced_to():
    half = FeatureMap(IMAGES[0].values.clone(), GRID)
    half.values[:, :, 3:] = 0
    cells = torch.tensor([[0, 0, 2, 6], [3, 0, 8, 6], [0, 0, 3, 3], [1, 0, 3, 6]])
    codes = bare(RegionCodes, reduce=2).aggregate(half, None, regions_of(cells))
    torch.testing.assert_close(codes.vectors.norm(dim=1), torch.ones(2))
    assert codes.boxes[:, 2].max() == 30
    assert bare(RegionCodes, reduce=3).aggregate(half, None, regions_of(cells)).vectors.shape == (4, 6)


def test_reducing_touches_the_codes_alone():
    a, b = RegionCodes.Config(), RegionCodes.Config(reduce=5)
    assert config_for(a, "local") == config_for(b, "local")
    assert config_for(a, "codes") != config_for(b, "codes")
    with pytest.raises(UsageError, match="reduce"):
        make_config(RegionCodes, {"reduce": "-1"}, "encoder")
    with pytest.raises(UsageError, match="no option 'reduce'"):
        make_config(RegionsSum, {"reduce": "1"}, "encoder")


@pytest.mark.parametrize("cls", [RegionCodes, RegionsSum])
def test_keypoints_are_refused(cls):
    with pytest.raises(UsageError, match=f"the {cls.name} encoder needs a feature map"):
        bare(cls).aggregate(Keypoints(torch.rand(3, 6), torch.rand(3, 4), GRID), None, None)


class TestRegionsContract(EncoderContract):
    component = RegionCodes

    def make_fitted(self):
        return fitted(RegionCodes, Collection([make_features(seed=i) for i in range(9)], None))


class TestRegionsSumContract(EncoderContract):
    component = RegionsSum

    def make_fitted(self):
        return fitted(RegionsSum, Collection([make_features(seed=i) for i in range(9)], None), whiten="both")


class TestRegionsReducedContract(EncoderContract):
    component = RegionCodes

    def make_fitted(self):
        collection = Collection([make_features(seed=i) for i in range(9)], None)
        return fitted(RegionCodes, collection, reduce=2, query_apart=True)
