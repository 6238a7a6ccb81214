"""VLAD: the card's numbers, plain loops, what each option does, what it is learnt from, and queries."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Encoder
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders.regions_mean import MeanRegionCodes
from instsearch_plugins.encoders.vlad import VLAD
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.vlad import aggregated, local_axes, residuals, signed_power

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (240, 160)
GRID = Grid.over(4, 6, SIZE)
REGIONS = Regions(
    torch.tensor(
        [[0.0, 0, 120, 80], [80, 40, 240, 160], [0, 80, 80, 160], [120, 0, 200, 80], [0, 0, 240, 160]]
    ),
    torch.ones(5),
)
WORDS = torch.tensor([[0.0, 0], [4, 0]])
X = torch.tensor([[1.0, 0], [0, 1], [4, 2], [3, 0]])


def image(seed, C=5):
    values = torch.rand(C, *GRID.shape, generator=torch.Generator().manual_seed(seed)).sub(0.3).clamp(min=0)
    return FeatureMap(values, GRID)


IMAGES = [image(i) for i in range(24)]


class Collection:
    """Pictures 0, 1, ..., all with the same regions."""

    def __init__(self, features=tuple(IMAGES), regions=REGIONS):
        self.features, self.regions = features, regions
        self.images = np.arange(len(features))

    def inputs(self, kinds, rows=None):
        assert set(kinds) == {"features", "weights", "regions"}
        for row in self.images if rows is None else rows:
            yield Inputs(size=SIZE, row=int(row), features=self.features[row], regions=self.regions)


def fitted(collection=None, **options):
    encoder = VLAD(VLAD.Config(**options), CPU)
    state = encoder.fit(collection or Collection(), QUIET)
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    return encoder, state


def loop(x, alpha, C, R=None, unit=True):
    """V f32[K, D] by the plainest of loops."""
    V = torch.zeros_like(C)
    for x_i, a_i in zip(x, alpha, strict=True):
        k = min(range(len(C)), key=lambda j: (float((x_i - C[j]).square().sum()), j))
        r = x_i - C[k]
        length = float(r.norm())
        if unit and length:
            r = r / length
        V[k] += a_i * (r if R is None else R[k].T @ r)
    return V


def test_the_cards_numbers():
    ones = torch.ones(1, 4)
    a, r = residuals(X, WORDS, unit=False)
    torch.testing.assert_close(aggregated(r, a, ones, 2), torch.tensor([[[1.0, 1], [-1, 2]]]))
    a, r = residuals(X, WORDS)
    V = aggregated(r, a, ones, 2)
    torch.testing.assert_close(V, torch.tensor([[[1.0, 1], [-1, 1]]]))
    v = l2(signed_power(V.flatten(1), 0.5))
    torch.testing.assert_close(v, torch.tensor([[0.5, 0.5, -0.5, 0.5]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(signed_power(torch.tensor([-4.0, 0, 9]), 0.5), torch.tensor([-2.0, 0, 3]))


def test_a_residual_of_zero_adds_nothing():
    a, r = residuals(torch.cat([X, WORDS]), WORDS)
    assert (r[4:] == 0).all()
    assert a[4:].tolist() == [0, 1]
    C = torch.tensor([[0.6, 0.8]])
    assert (
        residuals(C + 1e-8, C)[1] == 0
    ).all()  # rounding of a word that is the mean of one vector many times


@given(
    seed=st.integers(0, 999),
    n=st.integers(0, 12),
    K=st.integers(1, 4),
    M=st.integers(1, 3),
    unit=st.booleans(),
)
def test_sums_against_a_plain_loop(seed, n, K, M, unit):
    g = torch.Generator().manual_seed(seed)
    x, C, alpha = (
        torch.randn(n, 3, generator=g),
        torch.randn(K, 3, generator=g),
        torch.rand(M, n, generator=g),
    )
    a, r = residuals(x, C, unit)
    got = aggregated(r, a, alpha, K)
    expected = torch.stack([loop(x, row, C, unit=unit) for row in alpha])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_local_axes_turn_each_words_residuals_to_their_principal_axes():
    g = torch.Generator().manual_seed(0)
    r = torch.randn(500, 3, generator=g) * torch.tensor([1.0, 5, 2])
    a = torch.arange(500) % 2
    r[a == 1] = r[a == 1].roll(1, dims=1)
    R = local_axes(r, a, 3)
    torch.testing.assert_close(R.mT @ R, torch.eye(3).repeat(3, 1, 1), atol=1e-5, rtol=0)
    for k in range(2):
        C = torch.cov((r[a == k] @ R[k]).T)
        assert (C - C.diag().diag()).abs().max() < 1e-4
        assert (C.diag().diff() < 0).all()
    assert torch.equal(R[2], torch.eye(3))  # no residual, no turn


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("intra", [False, True])
def test_over_regions_against_a_plain_loop(rotate, unit, intra):
    encoder, state = fitted(rotate=rotate, unit=unit, intra=intra)
    assert isinstance(encoder, Encoder)
    regions = MeanRegionCodes(MeanRegionCodes.Config(), CPU)
    regions.load({k: np.asarray(state[k]) for k in ("mean", "projection")})
    for f in IMAGES[:5]:
        x = regions.aggregate(f, None, REGIONS).vectors
        V = loop(x, torch.ones(len(x)), state["centroids"], state.get("rotations"), unit)
        V = (l2(V) if intra else V).flatten()
        v = torch.where(V < 0, -1, 1) * V.abs().sqrt()
        got = encoder.aggregate(f, None, REGIONS)
        torch.testing.assert_close(got.vectors[0], v / v.norm(), atol=1e-4, rtol=0)
        assert got.boxes.tolist() == [[0, 0, *SIZE]]
    assert len(state["centroids"]) == 4


def keypoints(seed, n=40):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=g) * torch.tensor(SIZE)
    geometry = torch.cat([xy, torch.ones(n, 2)], 1)
    return Keypoints(torch.randn(n, 8, generator=g), geometry, Grid.nominal(SIZE))


@pytest.mark.parametrize("make", [image, keypoints])
@pytest.mark.parametrize("whiten", [False, True])
def test_over_local_features_each_region_has_a_code(make, whiten):
    features = [make(i) for i in range(12)]
    encoder, state = fitted(Collection(features), over="local", words=3, whiten=whiten, rotate=False)
    assert ("mean" in state) == whiten
    f = features[0]
    x = torch.from_numpy(f.values) if isinstance(f, Keypoints) else f.values.flatten(1).T
    if isinstance(f, Keypoints):
        at = torch.from_numpy(f.geometry[:, :2])
    else:
        cx, cy = map(torch.from_numpy, GRID.centres())
        at = torch.stack([cx.repeat(4), cy.repeat_interleave(6)], 1)
    got = encoder.aggregate(f, None, REGIONS)
    assert torch.equal(got.boxes, REGIONS.boxes)
    for v, (x0, y0, x1, y1) in zip(got.vectors, REGIONS.boxes.tolist(), strict=True):
        inside = (at[:, 0] >= x0) & (at[:, 0] < x1) & (at[:, 1] >= y0) & (at[:, 1] < y1) & x.any(1)
        units = l2(x[inside])
        if whiten:
            units = l2((units - state["mean"]) @ state["projection"])
        V = signed_power(loop(units, torch.ones(len(units)), state["centroids"]).flatten(), 0.5)
        torch.testing.assert_close(v, l2(V), atol=1e-4, rtol=0)
    box = tuple(REGIONS.boxes[1].tolist())
    asked = encoder.aggregate_query(f, BoxWeight(box))
    torch.testing.assert_close(asked.vectors[0], got.vectors[1], atol=1e-5, rtol=0)
    assert asked.boxes.tolist() == [list(box)]
    assert encoder.localises
    assert not encoder.query_regions


def test_weights_count():
    encoder, state = fitted(over="local", whiten=False, rotate=False, words=2, power=1.0)
    alpha = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(1))
    x = IMAGES[0].values.flatten(1).T
    some = x.any(1)
    V = loop(l2(x[some]), alpha.flatten()[some], state["centroids"]).flatten()
    got = encoder.aggregate(IMAGES[0], WeightMap(alpha, GRID), None)
    torch.testing.assert_close(got.vectors[0], l2(V), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pictures", [8, 24])
def test_the_whole_is_turned_to_its_principal_axes(pictures):
    """From fewer pictures than values (4 words of 5), and from more."""
    collection = Collection(IMAGES[:pictures])
    turned, state = fitted(collection, pca=3, power=1.0)
    assert state["axes"].shape == (20, 3)
    torch.testing.assert_close(state["axes"].T @ state["axes"], torch.eye(3), atol=1e-4, rtol=0)
    plain = VLAD(VLAD.Config(power=1.0), CPU)
    plain.load({k: np.asarray(v) for k, v in state.items() if k != "axes"})
    raw = torch.cat([plain._sums(f, None, REGIONS)[0] for f in IMAGES[:pictures]])
    V = torch.linalg.svd(raw - raw.mean(0), full_matrices=False)[2][:3].T
    expected = l2(raw @ V)
    got = torch.cat([turned.aggregate(f, None, REGIONS).vectors for f in IMAGES[:pictures]])
    torch.testing.assert_close(got @ got.T, expected @ expected.T, atol=1e-3, rtol=0)


def test_a_query_without_a_detector_is_described_by_its_box():
    encoder, _ = fitted()
    assert encoder.query_regions
    assert not encoder.localises
    box = (80.0, 40.0, 240.0, 160.0)
    asked = encoder.aggregate_query(IMAGES[0], BoxWeight(box))
    alone = encoder.aggregate(IMAGES[0], None, Regions(torch.tensor([box]), torch.ones(1)))
    torch.testing.assert_close(asked.vectors, alone.vectors)
    assert asked.boxes.tolist() == [list(box)]
    assert not VLAD(VLAD.Config(query="grid"), CPU).query_regions


def test_regions_out_of_a_querys_box_do_not_count():
    encoder, _ = fitted()
    box = (0.0, 0.0, 120.0, 80.0)
    within = encoder.aggregate(IMAGES[0], BoxWeight(box), Regions(REGIONS.boxes[[0, 2]], torch.ones(2)))
    alone = encoder.aggregate(IMAGES[0], None, Regions(REGIONS.boxes[:1], torch.ones(1)))
    torch.testing.assert_close(within.vectors, alone.vectors)


def test_the_sample_is_bounded_and_spread():
    encoder = VLAD(VLAD.Config(n_train=30, over="local", whiten=False), CPU)
    encoder._share = -(-30 // 24)
    seen = [encoder._units(inputs) for inputs in Collection().inputs(encoder.fit_needs)]
    assert {len(x) for x in seen} == {2}
    many, _ = fitted(n_train=24, words=4, iterations=1)
    again, _ = fitted(n_train=24, words=4, iterations=1)
    assert torch.equal(many.centroids, again.centroids)


def test_fewer_vectors_than_words():
    _, state = fitted(Collection(IMAGES[:1]), words=64)
    assert len(state["centroids"]) == 5


def test_what_cannot_be():
    empty = [FeatureMap(torch.zeros(5, 4, 6), GRID)]
    for options in ({}, {"whiten": False}, {"over": "local", "whiten": False}):
        with pytest.raises(InstsearchError, match="learn"):
            fitted(Collection(empty), **options)
    encoder, _ = fitted()
    assert not encoder.aggregate(empty[0], None, REGIONS).vectors.any()
    with pytest.raises(UsageError, match="over=local"):
        encoder.aggregate(keypoints(0), None, None)
    for wrong in ({"words": 0}, {"power": 0.0}, {"pca": -1}, {"n_train": 0}):
        with pytest.raises(ValueError, match=r"at least 1|above 0"):
            VLAD.Config(**wrong)


def test_equal_pictures_have_no_axes():
    _, state = fitted(Collection([IMAGES[0]] * 6), pca=2)
    assert "axes" not in state


def test_what_remakes_what():
    assert {"power", "query", "query_levels"}.isdisjoint(config_for(VLAD.Config(), "model"))
    assert "power" in config_for(VLAD.Config(), "codes")
    assert "query" not in config_for(VLAD.Config(), "search")


class TestContract(EncoderContract):
    component = VLAD

    def make_fitted(self):
        encoder = VLAD(VLAD.Config(whiten=False, rotate=False), CPU)
        encoder.load({"centroids": np.random.default_rng(0).random((4, 16), np.float32)})
        return encoder
