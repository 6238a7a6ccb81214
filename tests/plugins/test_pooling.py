from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent, max_pool, region_masks, sum_pool, weights_over
from instsearch_plugins.numeric.whitening import pca_whitening, whiten

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
GRID = Grid.over(2, 2, (20, 10))
ENCODERS = [SumPooling, MAC]


def image(seed, h=3, w=4, C=6):
    values = torch.rand(C, h, w, generator=torch.Generator().manual_seed(seed))
    return FeatureMap(values, Grid.over(h, w, (40, 30)))


class Collection:
    """Images 10, 11, ... with weights or without."""

    def __init__(self, features, weights=None):
        self.features, self.weights = features, weights
        self.images = np.arange(len(features)) + 10
        self.asked = []

    def inputs(self, kinds, rows=None):
        for row in self.images if rows is None else rows:
            self.asked.append(int(row))
            weights = None if self.weights is None else self.weights[row - 10]
            yield Inputs(size=(40, 30), row=int(row), features=self.features[row - 10], weights=weights)


def fitted(cls, images, weights=None, **options):
    encoder = cls(cls.Config(**options), CPU)
    state = encoder.fit(Collection(images, weights), QUIET)
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    return encoder


def test_the_cards_example():
    ones = torch.ones(1, 2, 2)
    assert sum_pool(X, ones).tolist() == [[1, 4]]
    assert max_pool(X, ones > 0).tolist() == [[1, 2]]


@given(seed=st.integers(0, 99), h=st.integers(1, 4), w=st.integers(1, 4), M=st.integers(0, 3))
def test_against_slow_loops(seed, h, w, M):
    g = torch.Generator().manual_seed(seed)
    X, alpha = torch.randn(3, h, w, generator=g), torch.rand(M, h, w, generator=g)
    alpha[alpha < 0.4] = 0
    total, largest = sum_pool(X, alpha), max_pool(X, alpha > 0)
    assert total.shape == largest.shape == (M, 3)
    for m in range(M):
        for c in range(3):
            cells = [(i, j) for i in range(h) for j in range(w) if alpha[m, i, j] > 0]
            slow = sum(alpha[m, i, j].item() * X[c, i, j].item() for i, j in cells)
            assert total[m, c].item() == pytest.approx(slow, abs=1e-5)
            assert largest[m, c].item() == max((X[c, i, j].item() for i, j in cells), default=0)


def test_extent_of_a_grid():
    assert extent(GRID) == (0, 0, 20, 10)
    assert extent(Grid(3, 2, (16.0, 8.0, 5.0, -1.0))) == (5, -1, 37, 23)


def test_regions_take_the_cells_whose_centre_they_hold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [6, 6, 7, 7]])
    masks, kept = region_masks(FeatureMap(X, GRID), Regions(boxes, torch.ones(2)))
    assert masks.tolist() == [[[True, False], [True, False]], [[False, False], [True, False]]]
    assert kept is boxes
    masks, kept = region_masks(FeatureMap(X, GRID), None)
    assert masks.tolist() == [[[True, True], [True, True]]]
    assert kept.tolist() == [[0, 0, 20, 10]]


def test_regions_over_points():
    geometry = torch.tensor([[1.0, 1, 1, 0], [19, 9, 1, 0], [10, 5, 1, 0]])
    words = Words(torch.tensor([0, 1, 2]), GRID, geometry)
    masks, _ = region_masks(words, Regions(torch.tensor([[0.0, 0, 10, 10], [10, 5, 20, 10]]), torch.ones(2)))
    assert masks.tolist() == [[True, False, False], [False, True, True]]
    assert region_masks(words, None)[0].tolist() == [[True, True, True]]


def test_no_region_gives_no_row():
    none = Regions(torch.zeros(0, 4), torch.zeros(0))
    assert region_masks(FeatureMap(X, GRID), none)[0].shape[0] == 0


def test_several_maps_are_summed():
    local = FeatureMap(X, GRID)
    maps = WeightMap(torch.tensor([[[1.0, 0], [0, 2]], [[3, 1], [0, 0]]]), GRID)
    assert weights_over(local, maps).tolist() == [[4, 1], [0, 2]]
    assert weights_over(local, None) is None


@pytest.mark.parametrize("cls", ENCODERS)
def test_pooled_whitened_and_of_unit_length(cls):
    images = [image(i) for i in range(30)]
    encoder = fitted(cls, images)
    assert isinstance(encoder, Encoder)
    assert encoder.embed(images[0]) is images[0]
    pool = {SumPooling: lambda X: X.sum((1, 2)), MAC: lambda X: X.amax((1, 2))}[cls]
    raw = l2(torch.stack([pool(f.values) for f in images]))
    expected = l2(whiten(raw, *pca_whitening([raw])))
    for f, row in zip(images, expected, strict=True):
        codes = encoder.aggregate(f, None, None)
        torch.testing.assert_close(codes.vectors, row[None], atol=1e-4, rtol=1e-4)
        assert codes.boxes.tolist() == [[0, 0, 40, 30]]


def test_sum_follows_its_weights():
    images = [image(i) for i in range(20)]
    alpha = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(9))
    encoder = fitted(SumPooling, images, [WeightMap(alpha, f.grid) for f in images])
    raw = l2(torch.stack([(f.values * alpha).sum((1, 2)) for f in images]))
    mean, _ = pca_whitening([raw])
    torch.testing.assert_close(encoder.mean, mean)
    got = encoder.aggregate(images[0], WeightMap(alpha, images[0].grid), None).vectors
    expected = l2(whiten(raw[:1], encoder.mean, encoder.projection))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_mac_takes_weights_as_a_mask():
    images = [image(i) for i in range(20)]
    encoder = fitted(MAC, images)
    alpha = torch.zeros(1, 3, 4)
    alpha[0, 1, 2], alpha[0, 0, 0] = 0.01, 5
    got = encoder.aggregate(images[3], WeightMap(alpha, images[3].grid), None).vectors
    raw = torch.maximum(images[3].values[:, 1, 2], images[3].values[:, 0, 0])[None]
    torch.testing.assert_close(got, l2(whiten(l2(raw), encoder.mean, encoder.projection)))


@pytest.mark.parametrize("cls", ENCODERS)
def test_a_box_and_the_region_of_that_box_agree(cls):
    images = [image(i) for i in range(20)]
    encoder = fitted(cls, images)
    box = (10.0, 0.0, 30.0, 20.0)
    regions = Regions(torch.tensor([box, (0, 0, 40, 30)]), torch.tensor([1.0, 0.5]))
    codes = encoder.aggregate(images[0], None, regions)
    assert codes.boxes is regions.boxes
    torch.testing.assert_close(codes.vectors[:1], encoder.aggregate(images[0], BoxWeight(box), None).vectors)
    torch.testing.assert_close(codes.vectors[1:], encoder.aggregate(images[0], None, None).vectors)
    assert not torch.allclose(codes.vectors[0], codes.vectors[1])


@pytest.mark.parametrize("cls", ENCODERS)
def test_a_region_without_activation_stays_zero(cls):
    encoder = fitted(cls, [image(i) for i in range(20)])
    blank = FeatureMap(torch.zeros(6, 3, 4), image(0).grid)
    assert torch.equal(encoder.aggregate(blank, None, None).vectors, torch.zeros(1, 6))


@pytest.mark.parametrize("cls", ENCODERS)
def test_fewer_images_than_dimensions(cls):
    images = [image(i, C=40) for i in range(5)]
    vectors = fitted(cls, images).aggregate(images[0], None, None).vectors
    assert vectors.shape == (1, 4)
    assert vectors.norm().item() == pytest.approx(1, abs=1e-5)
    assert fitted(cls, images, dims=3).aggregate(images[0], None, None).vectors.shape == (1, 3)
    alone = fitted(cls, images[:1]).aggregate(images[0], None, None).vectors
    assert alone.shape == (1, 40)
    assert alone.norm().item() == pytest.approx(1, abs=1e-5)


def test_dimensions_follow_the_number_of_images():
    images = [image(i, C=40) for i in range(200)]
    for count, options, dims in (
        (200, {}, 25),
        (100, {}, 16),
        (200, {"dims": 40}, 40),
        (200, {"dims": 7}, 7),
    ):
        assert fitted(SumPooling, images[:count], **options).projection.shape == (40, dims)


def test_only_so_many_images_are_looked_at():
    images = [image(i) for i in range(30)]
    looked = []
    for seed in (0, 0, 1):
        data = Collection(images)
        state = SumPooling(SumPooling.Config(fit_images=12, seed=seed), CPU).fit(data, QUIET)
        assert state["images"] == 12
        looked.append(data.asked)
    assert len(set(looked[0])) == 12
    assert looked[0] == looked[1] != looked[2]


@pytest.mark.parametrize("cls", ENCODERS)
def test_what_cannot_be_done_is_said(cls):
    encoder = cls(cls.Config(), CPU)
    with pytest.raises(InstsearchError, match="no image to learn the whitening"):
        encoder.fit(Collection([]), QUIET)
    with pytest.raises(UsageError, match=r"needs a feature map.*use the blcf encoder"):
        encoder.aggregate(Keypoints(torch.rand(3, 6), torch.rand(3, 4), GRID), None, None)
    with pytest.raises(ValueError, match="dims is 0"):
        cls.Config(dims=-1)
