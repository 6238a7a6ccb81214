import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.encoders.crow import CroW
from instsearch_plugins.encoders.gem import GeM, gem_pool
from instsearch_plugins.encoders.mac import MAC
from instsearch_plugins.encoders.pwa import PWA
from instsearch_plugins.encoders.spoc import SPoC, centred
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import (
    extent,
    max_pool,
    power_normalised,
    region_masks,
    spatial_weights,
    sum_pool,
    weights_over,
)
from instsearch_plugins.numeric.whitening import pca_whitening, whiten
from instsearch_plugins.weighters.gaussian import spoc_prior

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
GRID = Grid.over(2, 2, (20, 10))
ONES = torch.ones(1, 2, 2)
ENCODERS = [SumPooling, MAC, SPoC, CroW, GeM, PWA]


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


def bare(cls, C, **options):
    """An encoder that can pool C channels and has learnt nothing else."""
    encoder = cls(cls.Config(**options), CPU)
    encoder.channels = torch.arange(C)
    return encoder


def maps(seed, C, h, w, dead=0.4):
    """Non-negative activations, many of them 0."""
    return torch.rand(C, h, w, generator=torch.Generator().manual_seed(seed)).sub(dead).clamp(min=0)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=atol, rtol=1e-5)


def test_the_cards_example():
    assert sum_pool(X, ONES).tolist() == [[1, 4]]
    assert max_pool(X, ONES > 0).tolist() == [[1, 2]]
    close(gem_pool(X, ONES), [[0.62996, 1.35721]])
    close(spatial_weights(X), [[0.81650, 0.81650], [0, 0.57735]])
    close(sum_pool(X, spatial_weights(X)[None]), [[0.81650, 3.02684]])
    close(channel_weights(X, ONES > 0), [[1.38629, 0.28768]])
    close(CroW(CroW.Config(), CPU).describe(X, ONES), [[1.13190, 0.87077]])
    close(CroW(CroW.Config(form="paper"), CPU).describe(X, ONES), [[1.13190, 0.87077]])


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


@given(seed=st.integers(0, 99), h=st.integers(1, 4), w=st.integers(1, 4), M=st.integers(0, 3))
def test_gem_and_crow_against_slow_loops(seed, h, w, M):
    X = maps(seed, 3, h, w)
    alpha = torch.rand(M, h, w, generator=torch.Generator().manual_seed(seed))
    alpha[alpha < 0.4] = 0
    gem = gem_pool(X, alpha, p=2.5, eps=0.01)
    crow = {
        form: CroW(CroW.Config(a=3, b=1.5, form=form), CPU).describe(X, alpha) for form in ("code", "paper")
    }
    S = X.sum(0).tolist()
    z = sum(S[i][j] ** 3 for i in range(h) for j in range(w)) ** (1 / 3)
    for m in range(M):
        cells = [(i, j) for i in range(h) for j in range(w) if alpha[m, i, j] > 0]
        n = max(len(cells), 1)
        Q = [sum(X[c, i, j].item() > 0 for i, j in cells) / n for c in range(3)]
        blank = all((alpha[m] * X[c] <= 0.01).all() for c in range(3))
        for c in range(3):
            pooled = [(alpha[m, i, j] * X[c, i, j]).item() for i, j in cells]
            mean = sum(max(v, 0.01) ** 2.5 for v in pooled) / n
            assert gem[m, c].item() == pytest.approx(0 if blank else mean ** (1 / 2.5), rel=1e-4)
            s = sum(v * (S[i][j] / z) ** (1 / 1.5) for v, (i, j) in zip(pooled, cells, strict=True) if v > 0)
            code = math.log(sum(Q) / Q[c]) if Q[c] else 0
            paper = math.log((3e-6 + sum(Q)) / (1e-6 + Q[c]))
            assert crow["code"][m, c].item() == pytest.approx(code * s, rel=1e-4, abs=1e-6)
            assert crow["paper"][m, c].item() == pytest.approx(paper * s, rel=1e-4, abs=1e-6)


def test_gem_lies_between_the_mean_and_the_maximum():
    alpha = torch.ones(1, 3, 4)
    X = maps(0, 5, 3, 4)
    torch.testing.assert_close(gem_pool(X, alpha, p=1), X.mean((1, 2))[None])
    torch.testing.assert_close(gem_pool(X, alpha, p=1000), X.amax((1, 2))[None], rtol=3e-3, atol=1e-6)
    torch.testing.assert_close(gem_pool(X * 1e12, alpha), gem_pool(X, alpha) * 1e12)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (1, 1), (10, 0.5)])
def test_power_normalised_maps(a, b):
    S = maps(3, 4, 3, 5) * 1e5
    S[1] = 0
    alpha = power_normalised(S, a, b)
    assert alpha[1].eq(0).all()
    norms = (alpha**b).pow(a).sum((1, 2)).pow(1 / a)
    torch.testing.assert_close(norms, torch.tensor([1.0, 0, 1, 1]), rtol=1e-4, atol=0)
    shape = alpha[0] ** b
    torch.testing.assert_close(shape / shape.max(), S[0] / S[0].max(), rtol=1e-4, atol=1e-6)


def test_negative_activations_get_no_spatial_weight():
    assert spatial_weights(torch.tensor([[[-3.0, 4]], [[1, -1]]])).tolist() == [[0, 1]]


def test_dead_channels_get_no_crow_weight():
    X = maps(1, 4, 3, 4)
    X[2] = 0
    w = channel_weights(X, torch.ones(1, 3, 4, dtype=torch.bool))
    assert w[0, 2] == 0
    assert (w[0, [0, 1, 3]] > 0).all()
    for form in ("code", "paper"):
        assert CroW(CroW.Config(form=form), CPU).describe(X, torch.ones(1, 3, 4))[0, 2] == 0


def test_the_prior_is_centred_on_each_mask():
    mask = torch.zeros(3, 5, 6, dtype=torch.bool)
    mask[0] = True
    mask[1, 1:4, 2:5] = True
    mask[1, 2, 3] = False
    g = centred(mask, 1 / 3)
    assert torch.equal(g[0], spoc_prior(5, 6))
    assert torch.equal(g[1, 1:4, 2:5], spoc_prior(3, 3))
    assert g[1].gt(0).sum() == 9
    assert g[2].eq(0).all()


def test_spoc_multiplies_its_prior_and_the_weights():
    X, alpha = maps(2, 4, 3, 5), torch.rand(1, 3, 5) + 0.1
    got = SPoC(SPoC.Config(sigma=0.5), CPU).pool(X, alpha)
    g = [[math.exp(-((i - 1) ** 2 + (j - 2) ** 2) / (2 * 0.75**2)) for j in range(5)] for i in range(3)]
    torch.testing.assert_close(got, (X * alpha * torch.tensor(g)).sum((1, 2))[None])


@pytest.mark.parametrize("cls", ENCODERS)
@given(seed=st.integers(0, 99), top=st.integers(0, 2), left=st.integers(0, 3), h=st.integers(1, 3))
def test_a_region_is_pooled_as_a_picture_of_its_own(cls, seed, top, left, h):
    X, mask = maps(seed, 5, 5, 6), torch.zeros(1, 5, 6)
    mask[0, top : top + h, left : left + 3] = 1
    encoder = bare(cls, 5)
    alone = encoder.describe(X[:, top : top + h, left : left + 3], torch.ones(1, h, 3))
    torch.testing.assert_close(l2(encoder.describe(X, mask)), l2(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cls", ENCODERS)
def test_the_scale_of_the_weights_does_not_matter(cls):
    X, alpha = maps(4, 5, 3, 4), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(4))
    encoder = bare(cls, 5)
    one, seven = encoder.describe(X, alpha), encoder.describe(X, 7 * alpha)
    torch.testing.assert_close(l2(one), l2(seven), atol=1e-5, rtol=1e-4)
    follows = not torch.allclose(l2(one), l2(encoder.describe(X, torch.ones(2, 3, 4))), atol=1e-3)
    assert follows == (cls is not MAC)


@pytest.mark.parametrize("cls", ENCODERS)
def test_no_region_no_row(cls):
    width = bare(cls, 6).pool(torch.rand(6, 3, 4), torch.zeros(0, 3, 4)).shape[1]
    assert width == (36 if cls is PWA else 6)
    encoder = fitted(cls, [image(i) for i in range(20)])
    codes = encoder.aggregate(image(0), None, Regions(torch.zeros(0, 4), torch.zeros(0)))
    assert len(codes.vectors) == len(codes.boxes) == 0


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
    raw = l2(torch.cat([bare(cls, 6).describe(f.values, torch.ones(1, 3, 4)) for f in images]))
    expected = l2(whiten(raw, *pca_whitening([raw], 16)))
    codes = [encoder.aggregate(f, None, None) for f in images]
    vectors = torch.cat([c.vectors for c in codes])
    # the axes' signs are open, the angles between the vectors are not
    torch.testing.assert_close(vectors @ vectors.T, expected @ expected.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(30))
    assert all(c.boxes.tolist() == [[0, 0, 40, 30]] for c in codes)


def test_sum_follows_its_weights():
    images = [image(i) for i in range(20)]
    alpha = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(9))
    encoder = fitted(SumPooling, images, [WeightMap(alpha, f.grid) for f in images])
    raw = l2(torch.stack([(f.values * alpha).sum((1, 2)) for f in images]))
    mean, _ = pca_whitening([raw])
    torch.testing.assert_close(encoder.whitening[0], mean)
    got = encoder.aggregate(images[0], WeightMap(alpha, images[0].grid), None).vectors
    expected = l2(whiten(raw[:1], *encoder.whitening))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_mac_takes_weights_as_a_mask():
    images = [image(i) for i in range(20)]
    encoder = fitted(MAC, images)
    alpha = torch.zeros(1, 3, 4)
    alpha[0, 1, 2], alpha[0, 0, 0] = 0.01, 5
    got = encoder.aggregate(images[3], WeightMap(alpha, images[3].grid), None).vectors
    raw = torch.maximum(images[3].values[:, 1, 2], images[3].values[:, 0, 0])[None]
    torch.testing.assert_close(got, l2(whiten(l2(raw), *encoder.whitening)))


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
    assert encoder.aggregate(blank, None, None).vectors.eq(0).all()
    regions = Regions(torch.tensor([[0.0, 0, 20, 30], [20, 0, 40, 30]]), torch.ones(2))
    half = image(0)
    half.values[:, :, :2] = 0
    norms = encoder.aggregate(half, None, regions).vectors.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.0, 1]))


@pytest.mark.parametrize("cls", ENCODERS)
def test_fewer_images_than_dimensions(cls):
    images = [image(i, C=40) for i in range(5)]
    vectors = fitted(cls, images).aggregate(images[0], None, None).vectors
    assert vectors.shape == (1, 4)
    assert vectors.norm().item() == pytest.approx(1, abs=1e-5)
    assert fitted(cls, images, dims=3).aggregate(images[0], None, None).vectors.shape == (1, 3)
    for same in (images[:1], images[:1] * 4):
        encoder = fitted(cls, same)
        alone = encoder.aggregate(images[1], None, None).vectors
        raw = bare(cls, 40).describe(images[1].values, torch.ones(1, 3, 4)) if cls is not PWA else None
        assert alone.norm().item() == pytest.approx(1, abs=1e-5)
        assert alone.shape == (1, 1000) if raw is None else torch.equal(alone, l2(raw))


def test_dimensions_follow_the_number_of_images():
    images = [image(i, C=40) for i in range(200)]
    for count, options, dims in (
        (200, {}, 25),
        (100, {}, 16),
        (200, {"dims": 40}, 40),
        (200, {"dims": 7}, 7),
    ):
        assert fitted(SumPooling, images[:count], **options).whitening[1].shape == (40, dims)


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


@pytest.mark.parametrize(
    ("cls", "option", "value"),
    [(SPoC, "sigma", 0.0), (CroW, "a", 0.0), (CroW, "b", -1.0), (GeM, "p", 0.0), (GeM, "eps", 0.0)],
)
def test_options_that_make_no_sense(cls, option, value):
    with pytest.raises(ValueError, match=rf"{option}\b.* above 0, not"):
        cls.Config(**{option: value})
    with pytest.raises(ValueError, match="dims is 0"):
        cls.Config(dims=-1)
