"""Object saliency: the card's numbers, plain loops, what is learnt, and collections with little in them."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.components import Weighter
from instsearch_cli.data import BoxWeight, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.testing import WeighterContract, make_features
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.numeric import egm
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.saliency import attention, feature_saliency, patch_maxima
from instsearch_plugins.weighters import object_saliency
from instsearch_plugins.weighters.object_saliency import ObjectSaliency
from saliency_scenes import (
    CPU,
    SCENES,
    Collection,
    Recorder,
    feature_map,
    fitted,
    inputs_of,
    learnt,
    plain_feature_saliency,
    scene,
)

# -- equation 14 ----------------------------------------------------------------------------------------


def test_the_cards_object_saliency():
    products, f, g = torch.tensor([[0.9, 0.5]]), torch.tensor([[0.8, 1.0]]), torch.tensor([[2.0, 0.5]])
    S = 0.5**2 * attention(products, f**3 * g, 3.0)
    assert S.item() == pytest.approx(0.202249, abs=1e-4)


@given(h=st.integers(1, 6), w=st.integers(1, 6), a=st.sampled_from([1, 3, 5, 9]), seed=st.integers(0, 99))
def test_patch_maxima_against_a_plain_loop(h, w, a, seed):
    A = torch.randn(2, h, w, generator=torch.Generator().manual_seed(seed))
    got, r = patch_maxima(A, a), a // 2
    for i in range(h):
        for j in range(w):
            around = A[:, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1]
            assert torch.equal(got[:, i, j], around.amax((1, 2)))


def unit(x):
    return x / (np.linalg.norm(x) or 1)


def plain_object_saliency(A, state, config, row):
    """Equation 14 cell by cell, over the largest value."""
    F = plain_feature_saliency(A, config.epsilon).numpy().astype(np.float64)
    h, w = F.shape
    V, f, g = (np.asarray(state[k], np.float64) for k in ("vectors", "saliency", "centrality"))
    S, r = np.zeros((h, w)), config.a // 2
    for i in range(h):
        for j in range(w):
            if F[i, j] < config.faint * F.max() or F[i, j] == 0:
                continue
            around = A[:, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1].numpy()
            z = unit(around.reshape(len(A), -1).max(1).astype(np.float64))
            u = unit((z - state["mean"]) @ state["projection"])
            counting = [n for n in range(len(V)) if not (config.exclude_self and state["images"][n] == row)]
            near = sorted(counting, key=lambda n: -float(V[n] @ u))[: config.patch_k]
            total = sum(
                max(float(V[n] @ u), 0) ** config.beta * f[n] ** config.region_power * g[n] for n in near
            )
            S[i, j] = F[i, j] ** config.patch_power * total
    return S / S.max() if S.max() > 0 else np.ones_like(S)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"a": 1, "patch_k": 3, "faint": 0},
        {"a": 3, "patch_k": 4, "exclude_self": True, "dims": 5},
        {"patch_power": 1, "region_power": 0.5, "beta": 1, "faint": 0.7, "k": 4, "alpha": 0.5},
    ],
)
def test_object_saliency_against_plain_loops(options, tmp_path, monkeypatch):
    monkeypatch.setattr(object_saliency, "CELLS", 200)  # a few patches at a time
    component, state = learnt(SCENES, tmp_path, **options)
    component.load(state)
    assert isinstance(component, Weighter)
    for row, A in [(10, SCENES[0]), (13, SCENES[3]), (-1, scene(99)), (-1, scene(98, h=1, w=9))]:
        got = component.weigh(inputs_of(A, row))
        assert got.values.shape == (1, *A.shape[1:])
        expected = plain_object_saliency(A, state, component.config, row)
        np.testing.assert_allclose(got.values[0].numpy(), expected, atol=2e-4)


def test_faint_cells_get_nothing(tmp_path):
    component = fitted(SCENES, tmp_path, faint=0.5)
    F = feature_saliency(SCENES[0])
    S = component.weigh(inputs_of(SCENES[0])).values[0]
    assert not S[F.max() * 0.5 > F].any()
    assert S.max() == 1


def test_what_is_common_outweighs_what_is_rare(tmp_path):
    """Two objects, equally salient in their picture; one of them is in twenty others, the other in none."""

    def holding(*places):
        A = 0.01 * torch.rand(8, 8, 24, generator=torch.Generator().manual_seed(sum(x for _, x in places)))
        for channel, x in places:
            A[channel : channel + 2, 2:6, x : x + 4] = 2
        return A

    maps = [holding((2 * (i % 3), i % 20)) for i in range(60)] + [holding((0, 1), (6, 17))]
    F = feature_saliency(maps[-1])
    assert F[3, 18] == pytest.approx(float(F[3, 2]), rel=0.05)
    S = fitted(maps, tmp_path).weigh(inputs_of(maps[-1])).values[0]
    assert S[2:6, 1:5].mean() > 50 * S[2:6, 17:21].mean()


# -- what is learnt -------------------------------------------------------------------------------------


def test_regions_whitening_graph_and_centrality_against_plain_algebra(tmp_path):
    progress = Recorder()
    component = ObjectSaliency(ObjectSaliency.Config(k=6), CPU)
    state = component.fit(Collection(SCENES, tmp_path), progress)
    cells, f, images = [], [], []
    for row, A in enumerate(SCENES):
        F = feature_saliency(A)
        for x0, y0, x1, y1 in egm.cells(egm.fit(F.numpy(), egm.Recipe()), *F.shape).tolist():
            cells.append(unit(A[:, y0:y1, x0:x1].amax((1, 2)).double().numpy()))
            f.append(float(F[y0:y1, x0:x1].mean()))
            images.append(row + 10)
    z, n = np.stack(cells), len(f)
    np.testing.assert_array_equal(state["images"], images)
    np.testing.assert_allclose(state["saliency"], f, rtol=1e-5)
    values, axes = np.linalg.eigh(np.cov(z.T))
    kept = values > 1e-12
    V = (z - z.mean(0)) @ axes[:, kept] / np.sqrt(values[kept])
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    got = state["vectors"].astype(np.float64)
    assert state["vectors"].dtype == np.float16
    np.testing.assert_allclose(got @ got.T, V @ V.T, atol=3e-3)
    s = V @ V.T
    near = [set(np.argsort(-row)[:6].tolist()) for row in s]
    W = np.array(
        [
            [max(s[i, j], 0) ** 3 if i != j and i in near[j] and j in near[i] else 0 for j in range(n)]
            for i in range(n)
        ]
    )
    D = W.sum(1)
    root = np.array([d**-0.5 if d else 0 for d in D])
    g = np.linalg.solve((np.eye(n) - 0.99 * root[:, None] * W * root) / 0.01, np.ones(n))
    np.testing.assert_allclose(state["centrality"], g, rtol=1e-3)
    assert [total for _, total, _ in progress.said] == [len(SCENES), n, n, n]
    assert all(total == done for _, total, done in progress.said)


def test_a_sample_is_learnt_from(tmp_path):
    data = Collection(SCENES, tmp_path)
    state = ObjectSaliency(ObjectSaliency.Config(fit_images=5), CPU).fit(data, Recorder())
    assert data.seen == sorted(set(data.seen))
    assert len(data.seen) == 5
    assert set(state["images"]) == set(data.seen)


def test_batches_do_not_matter(tmp_path, monkeypatch):
    whole = learnt(SCENES, tmp_path)[1]
    monkeypatch.setattr(object_saliency, "BATCH", 5)
    parts = learnt(SCENES, tmp_path)[1]
    np.testing.assert_allclose(parts["centrality"], whole["centrality"], rtol=1e-3)


def test_dimensions(tmp_path):
    maps = [scene(seed, C=40) for seed in range(12)]
    n = len(learnt(maps, tmp_path)[1]["saliency"])
    assert learnt(maps, tmp_path)[1]["vectors"].shape == (n, min(max(n // 8, 16), n - 1))
    assert learnt(maps, tmp_path, dims=3)[1]["vectors"].shape == (n, 3)


def test_what_only_weighs_leaves_the_graph_alone():
    a = ObjectSaliency.Config()
    b = ObjectSaliency.Config(a=3, patch_k=9, patch_power=1, region_power=1, faint=0.1, exclude_self=True)
    assert config_for(a, "model") == config_for(b, "model")
    assert config_for(a, "codes") != config_for(b, "codes")


# -- collections and pictures with little in them -------------------------------------------------------


def test_a_single_picture(tmp_path):
    component, state = learnt(SCENES[:1], tmp_path)
    component.load(state)
    assert 1 <= len(state["saliency"]) < 50  # fewer than k
    for A in (SCENES[0], SCENES[5]):
        S = component.weigh(inputs_of(A)).values
        assert torch.isfinite(S).all()
        assert S.max() == 1
    alone = fitted(SCENES[:1], tmp_path, exclude_self=True)
    assert torch.equal(alone.weigh(inputs_of(SCENES[0], 10)).values, torch.ones(1, 6, 10))


def one_cell(h=1, w=1):
    A = torch.zeros(4, h, w)
    A[:2, h // 2, w // 2] = torch.tensor([2.0, 1.0])
    return A


def test_maps_of_one_cell(tmp_path):
    component, state = learnt([one_cell()] * 3, tmp_path)
    component.load(state)
    np.testing.assert_allclose(state["saliency"], 1)
    np.testing.assert_allclose(state["centrality"], 1, rtol=1e-4)  # equal regions, left unwhitened
    assert component.weigh(inputs_of(one_cell())).values.tolist() == [[[1.0]]]
    # one live cell in a larger map: fewer than two samples, so the whole picture is its region
    _, state = learnt([one_cell(4, 5)], tmp_path)
    np.testing.assert_allclose(state["saliency"], 1 / 20)


def test_dead_pictures_have_no_regions_and_weigh_all_alike(tmp_path):
    dead = torch.zeros(8, 6, 10)
    for index in ("", "HNSW16"):
        component, state = learnt([*SCENES[:3], dead], tmp_path, index=index)
        component.load(state)
        assert set(state["images"]) == {10, 11, 12}
        assert torch.equal(component.weigh(inputs_of(dead)).values, torch.ones(1, 6, 10))
    for maps in ([dead, dead], []):
        with pytest.raises(InstsearchError, match="no region to learn object saliency from"):
            learnt(maps, tmp_path)


def test_isolated_regions_are_as_central_as_alpha_leaves_them(tmp_path):
    maps = []
    for c in range(3):  # nothing in common: after whitening no two are alike
        A = torch.zeros(6, 4, 5)
        A[2 * c : 2 * c + 2, 1:3, 1:3] = torch.tensor([1.0, 2.0])[:, None, None]
        maps.append(A)
    component, state = learnt(maps, tmp_path, alpha=0.9)
    component.load(state)
    np.testing.assert_allclose(state["centrality"], 0.1, rtol=1e-5)
    assert component.weigh(inputs_of(maps[0])).values.max() == 1


def test_what_does_not_converge_is_said(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt(SCENES, tmp_path)
    short = functools.partial(object_saliency.centrality, max_iter=2)  # type: ignore[attr-defined]
    monkeypatch.setattr(object_saliency, "centrality", short)
    with pytest.warns(RuntimeWarning, match=r"after 2 iterations the residual is \d"):
        learnt(SCENES, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": "4"}, "a is odd"),
        ({"k": "0"}, "k is at least 1"),
        ({"alpha": "1"}, "alpha is at least 0 and below 1"),
        ({"beta": "0"}, "beta is above 0"),
        ({"faint": "2"}, "faint are from 0 to 1"),
        ({"dims": "-1"}, "dims is at least 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        make_config(ObjectSaliency, options, "weighting")


# -- regions of a weight map that is zero in places ----------------------------------------------------


def test_encoders_pool_regions_without_the_map_that_they_were_found_on():
    A, grid = SCENES[0], feature_map(SCENES[0]).grid
    alpha = torch.zeros(1, *grid.shape)
    alpha[0, 2, 3] = 1
    regions = Regions(torch.tensor([[0.0, 0, 80, 96]]), torch.ones(1))
    for pool, expected in (("max", A[:, :, :5].amax((1, 2))), ("mean", A[:, :, :5].mean((1, 2)))):
        encoder = RegionVectors(RegionVectors.Config(weighted=False, pool=pool), CPU)
        encoder.load({})
        got = encoder.aggregate(feature_map(A), WeightMap(alpha, grid), regions).vectors[0]
        torch.testing.assert_close(got, l2(expected))
        within = BoxWeight((0.0, 0.0, 80.0, 96.0), WeightMap(alpha, grid))
        torch.testing.assert_close(encoder.aggregate(feature_map(A), within, None).vectors[0], l2(expected))


# -- contract -------------------------------------------------------------------------------------------


class TestObjectSaliencyContract(WeighterContract):
    component = ObjectSaliency

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self):
        maps = [make_features(seed=seed).values for seed in range(9)]
        return fitted(maps, self.folder)
