"""Feature saliency and object saliency: the card's numbers, plain loops, and collections with little in them."""

from __future__ import annotations

import functools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.assembly import pick_device
from instsearch_cli.components import Weighter
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Inputs, Keypoints, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.storage import to_state
from instsearch_cli.testing import WeighterContract, make_features
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.numeric import approximate, egm
from instsearch_plugins.numeric.graph import knn, mutual_graph
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.saliency import attention, feature_saliency, patch_maxima
from instsearch_plugins.weighters import object_saliency
from instsearch_plugins.weighters.feature_saliency import FeatureSaliency
from instsearch_plugins.weighters.object_saliency import ObjectSaliency

CPU = pick_device("cpu")
CARD = torch.tensor([[[1.0, 2], [0, 1]], [[0, 4], [0, 0]], [[0, 0], [0, 0]]])
SIZE = (160, 96)


def feature_map(values):
    h, w = values.shape[1:]
    return FeatureMap(values, Grid.over(h, w, SIZE))


def inputs_of(values, row=-1):
    features = feature_map(values)
    return Inputs(size=SIZE, row=row, grid=features.grid, features=features)


def scene(seed, C=8, h=6, w=10):
    """Faint noise, and a bright object of two channels in it."""
    g = torch.Generator().manual_seed(seed)
    A = (torch.rand(C, h, w, generator=g) - 0.4).clamp(min=0)
    y, x = (int(torch.randint(0, max(1, n), (1,), generator=g)) for n in (h - 2, w - 3))
    A[:2, y : y + 3, x : x + 4] += 3 * torch.rand(2, min(h, 3), 4, generator=g)
    return A


class Collection:
    """Images 10, 11, ... with these feature maps."""

    def __init__(self, maps, folder):
        self.maps, self.folder, self.seen = maps, folder, []
        self.images = np.arange(len(maps)) + 10

    def inputs(self, kinds, rows=None):
        assert kinds == ("features",)
        for row in self.images if rows is None else rows:
            self.seen.append(int(row))
            yield inputs_of(self.maps[row - 10], int(row))

    def scratch(self):
        return self.folder


class Recorder:
    """Notes how far each piece of work said it was."""

    def __init__(self):
        self.said = []

    def start(self, label, total=None, unit="images"):
        self.said.append([label, total, 0])

    def advance(self, n=1):
        self.said[-1][2] += n


def learnt(maps, folder, **options):
    """A component and what it learnt, as the index gives it back."""
    component = ObjectSaliency(make_config(ObjectSaliency, options, "weighting"), CPU)
    with torch.inference_mode():
        state = component.fit(Collection(maps, folder), Recorder())
    return component, to_state(state)


def fitted(maps, folder, **options):
    component, state = learnt(maps, folder, **options)
    component.load(state)
    return component


SCENES = [scene(seed) for seed in range(12)]


# -- feature saliency -----------------------------------------------------------------------------------


def test_the_cards_feature_saliency():
    expected = torch.tensor([[0.216563, 0.998898], [0, 0.216563]])
    torch.testing.assert_close(feature_saliency(CARD), expected, atol=1e-4, rtol=0)
    got = FeatureSaliency(FeatureSaliency.Config(), CPU).weigh(inputs_of(CARD))
    torch.testing.assert_close(got.values[0], expected, atol=1e-4, rtol=0)


def plain_feature_saliency(A, epsilon):
    C, h, w = A.shape
    cells = [(i, j) for i in range(h) for j in range(w)]
    a = [sum(float(A[c, i, j]) != 0 for i, j in cells) / len(cells) for c in range(C)]
    b = [np.log(sum(x + epsilon for x in a) / (x + epsilon)) for x in a]
    F = {(i, j): sum(b[c] * float(A[c, i, j]) for c in range(C)) for i, j in cells}
    length = sum(v * v for v in F.values()) ** 0.5
    rows = [[(F[i, j] / length) ** 0.5 if length else 0.0 for j in range(w)] for i in range(h)]
    return torch.tensor(rows, dtype=torch.float32)


@settings(deadline=None, max_examples=40)
@given(
    C=st.integers(1, 5),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    epsilon=st.sampled_from([1e-6, 0.1]),
    seed=st.integers(0, 999),
)
def test_feature_saliency_against_a_plain_loop(C, h, w, epsilon, seed):
    A = (torch.rand(C, h, w, generator=torch.Generator().manual_seed(seed)) - 0.5).clamp(min=0) * 50
    got = feature_saliency(A, epsilon)
    torch.testing.assert_close(got, plain_feature_saliency(A, epsilon), atol=1e-4, rtol=1e-3)


def test_nothing_salient_weighs_all_alike():
    weigh = FeatureSaliency(FeatureSaliency.Config(), CPU).weigh
    assert torch.equal(weigh(inputs_of(torch.zeros(4, 2, 3))).values, torch.ones(1, 2, 3))
    assert torch.equal(weigh(inputs_of(torch.rand(1, 2, 3))).values, torch.ones(1, 2, 3))  # b = log 1
    lone = torch.zeros(4, 2, 3)
    lone[2, 1, 1] = 7
    assert weigh(inputs_of(lone)).values[0].tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("cls", [FeatureSaliency, ObjectSaliency])
def test_keypoints_say_what_to_do(cls, tmp_path):
    component = cls(cls.Config(), CPU) if cls is FeatureSaliency else fitted(SCENES, tmp_path)
    points = Keypoints(torch.rand(7, 128), torch.rand(7, 4), Grid.over(2, 2, SIZE))
    with pytest.raises(UsageError, match=r"needs a feature map.*use another weighting"):
        component.weigh(Inputs(size=SIZE, grid=points.grid, features=points))


def test_epsilon_is_above_zero():
    with pytest.raises(UsageError, match="epsilon is above 0"):
        make_config(FeatureSaliency, {"epsilon": "0"}, "weighting")


# -- equation 14 ----------------------------------------------------------------------------------------


def test_the_cards_object_saliency():
    products, f, g = torch.tensor([[0.9, 0.5]]), torch.tensor([[0.8, 1.0]]), torch.tensor([[2.0, 0.5]])
    S = 0.5**2 * attention(products, f**3 * g, 3.0)
    assert S.item() == pytest.approx(0.202249, abs=1e-4)


@settings(deadline=None, max_examples=30)
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
    z, f, images = [], [], []
    for row, A in enumerate(SCENES):
        F = feature_saliency(A)
        for x0, y0, x1, y1 in egm.cells(egm.fit(F.numpy(), egm.Recipe()), *F.shape).tolist():
            z.append(unit(A[:, y0:y1, x0:x1].amax((1, 2)).double().numpy()))
            f.append(float(F[y0:y1, x0:x1].mean()))
            images.append(row + 10)
    z, n = np.stack(z), len(f)
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
    short = functools.partial(object_saliency.centrality, max_iter=2)
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


# -- approximate neighbours -----------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["Flat", "IVF1,Flat", "HNSW16"])
def test_an_index_that_finds_all_changes_nothing(index, tmp_path):
    exact = fitted(SCENES, tmp_path)
    component, state = learnt(SCENES, tmp_path, index=index)
    component.load(state)
    assert (
        ("index" in state) == ("vectors" not in state) == (index != "IVF1,Flat" or len(state["images"]) >= 39)
    )
    for row, A in ((10, SCENES[0]), (-1, scene(99))):
        one, two = (c.weigh(inputs_of(A, row)).values for c in (exact, component))
        torch.testing.assert_close(one, two, atol=2e-3, rtol=0)


def test_own_regions_are_left_out_of_an_index_too(tmp_path):
    options = {"exclude_self": True, "patch_k": 3}
    one, two = fitted(SCENES, tmp_path, **options), fitted(SCENES, tmp_path, index="HNSW16", **options)
    for row in (10, 15):
        a, b = (c.weigh(inputs_of(SCENES[row - 10], row)).values for c in (one, two))
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_an_index_that_ends_early(tmp_path):
    """Of two lists it looks into one, so that it finds fewer than k."""
    rng = np.random.default_rng(0)
    centres = np.array([[4, 0, 0, 0], [-4, 0, 0, 0]], np.float32)
    V = (centres.repeat(60, 0) + rng.normal(size=(120, 4))).astype(np.float32)
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    index = approximate.tuned(approximate.built(V, "IVF2,Flat"), "nprobe=1")
    _, rows = knn(V, 100, index=index)
    assert (rows < 0).any()
    W = mutual_graph(V, 100, 3, index=index)
    exact = mutual_graph(V, 100, 3).toarray()
    assert 0 < W.nnz < np.count_nonzero(exact)
    found = W.toarray() > 0
    np.testing.assert_allclose(W.toarray()[found], exact[found], rtol=1e-5)
    assert not W.toarray().diagonal().any()
    component = ObjectSaliency(ObjectSaliency.Config(search="nprobe=1", patch_k=50), CPU)
    component.load(
        {
            "mean": np.zeros(4, np.float32),
            "projection": np.eye(4, dtype=np.float32),
            "index": approximate.stored(index),
            "saliency": np.ones(120, np.float32),
            "centrality": np.ones(120, np.float32),
            "images": np.arange(120),
            "boxes": np.zeros((120, 4), np.float32),
        }
    )
    products, rows = component._nearest(torch.from_numpy(V[:3]), torch.tensor([7]))
    assert products.shape == rows.shape == (3, 50)
    assert 7 not in rows[products > -torch.inf]
    assert (rows >= 0).all()


@pytest.mark.parametrize("index", ["", "HNSW16"])
def test_pictures_side_by_side(index, tmp_path):
    component = fitted(SCENES, tmp_path, index=index)

    def weigh(i):
        return component.weigh(inputs_of(SCENES[i], 10 + i)).values

    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        together = list(pool.map(weigh, range(12)))
    for i, S in enumerate(together):
        torch.testing.assert_close(S, weigh(i), atol=1e-5, rtol=0)


def test_indexes_that_faiss_does_not_know(tmp_path):
    with pytest.raises(UsageError, match="faiss cannot build the index 'Nonsense'"):
        learnt(SCENES, tmp_path, index="Nonsense")
    with pytest.raises(UsageError, match="does not take 'nprobe=3'"):
        learnt(SCENES, tmp_path, index="HNSW16", search="nprobe=3")
    with pytest.raises(InstsearchError, match="damaged"):
        approximate.loaded(np.zeros(64, np.uint8))


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


# -- contracts ------------------------------------------------------------------------------------------


class TestFeatureSaliencyContract(WeighterContract):
    component = FeatureSaliency


class TestObjectSaliencyContract(WeighterContract):
    component = ObjectSaliency

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self):
        maps = [make_features(seed=seed).values for seed in range(9)]
        return fitted(maps, self.folder)
