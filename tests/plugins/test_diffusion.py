"""Diffusion: hand-computed scores, dense algebra on small collections, and collections made again without images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from instsearch_cli.data import Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_plugins.numeric.graph import Laplacian, conjugate_gradient, mutual_graph
from instsearch_plugins.searchers import graph_search, offline_diffusion
from instsearch_plugins.searchers.diffusion import Diffusion
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.graph_search import gmp_weights, largest, seeds
from instsearch_plugins.searchers.offline_diffusion import OfflineDiffusion
from instsearch_plugins.searchers.regional_diffusion import RegionalDiffusion

V = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0]], np.float32)
CPU = torch.device("cpu")


class Codes:
    """A collection's vectors f32[R, D], and how many of them each image owns."""

    def __init__(self, rows, counts=None, folder: Path | None = None, start=0, removed=(), part=3) -> None:
        self.rows = np.asarray(rows, np.float32)
        self.counts = [1] * len(self.rows) if counts is None else counts
        self.folder, self.start, self.part = folder, start, part
        self.span = range(start, start + len(self.counts))
        self.images = np.array([i for i in self.span if i not in set(removed)], np.int64)
        self.first = np.cumsum([0, *self.counts])
        self.boxes = np.arange(4 * len(self.rows), dtype=np.float32).reshape(-1, 4)

    def scratch(self) -> Path:
        assert self.folder is not None
        return self.folder

    def blocks(self, kind: str):
        assert kind == "codes"
        for a in range(0, len(self.counts), self.part):
            b = min(a + self.part, len(self.counts))
            rows = slice(self.first[a], self.first[b])
            indptr = self.first[a : b + 1] - self.first[a]
            yield {
                "start": self.start + a,
                "stop": self.start + b,
                "indptr": indptr,
                "vectors": self.rows[rows],
                "boxes": self.boxes[rows],
            }


class Silent:
    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


def query(rows, exclude=()) -> Query:
    rows = torch.as_tensor(np.atleast_2d(np.asarray(rows, np.float32)))
    nothing: Any = None
    return Query(
        "q", nothing, None, nothing, nothing, Vectors(rows, torch.zeros(len(rows), 4)), frozenset(exclude)
    )


def fitted(codes: Codes, kind: Any = Diffusion, **options) -> Any:
    searcher = kind(kind.Config(**options), CPU)
    searcher.load(searcher.fit(codes, Silent()))
    return searcher


def found(searcher, codes: Codes, q: Query, k: int = 100):
    hits = searcher.search([q], codes, k)
    n = hits.valid(0)
    assert (hits.images[0, n:] == -1).all()
    assert (np.diff(hits.scores[0, :n]) <= 0).all()
    return hits.images[0, :n].tolist(), hits.scores[0, :n], hits.boxes[0, :n]


def unit(n: int, D: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered(n: int, D: int = 8, clusters: int = 6, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = unit(clusters, D, seed)[rng.integers(0, clusters, n)] + spread * rng.normal(size=(n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def dense_f(X: np.ndarray, q: np.ndarray, k: int, kq: int, gamma: float, alpha: float) -> np.ndarray:
    """The whole of it with dense matrices: graph, seeds, solution."""
    X, q = X.astype(np.float64), np.atleast_2d(q).astype(np.float64)
    S = X @ X.T
    near = np.zeros(S.shape, bool)
    np.put_along_axis(near, np.argsort(-S, axis=1, kind="stable")[:, :k], True, axis=1)
    W = np.where(near & near.T, np.maximum(S, 0) ** gamma, 0)
    np.fill_diagonal(W, 0)
    D = W.sum(1)
    root = np.where(D > 0, 1 / np.sqrt(np.where(D > 0, D, 1)), 0)
    total = np.zeros(len(X))
    for s in q @ X.T:
        for i in np.argsort(-s, kind="stable")[:kq]:
            total[i] += s[i]
    y = np.zeros(len(X))
    for i in sorted(np.flatnonzero(total), key=lambda i: (-total[i], i))[:kq]:
        y[i] = max(total[i], 0) ** gamma
    return np.linalg.solve(np.eye(len(X)) - alpha * root[:, None] * W * root, y)


def test_card(tmp_path):
    codes = Codes(V, folder=tmp_path)
    images, scores, _ = found(fitted(codes, k=3, kq=2, pool="max"), codes, query([0.9, 0.435890]))
    assert images == [1, 2, 0, 3]
    np.testing.assert_allclose(scores, [63.900, 56.193, 46.273, -1.9], atol=1e-3)


def test_card_seeds():
    rows, y = seeds(np.array([[0.9, 0.435890]], np.float32) @ V.T, 2, 3)
    assert dict(zip(rows.tolist(), y.tolist(), strict=True)) == pytest.approx(
        {0: 0.729, 1: 0.945618}, abs=1e-5
    )


def test_similarities_of_several_regions_are_summed():
    """Row 1 is near both regions and leads, at 1.1; of rows 0 and 2 only the larger is kept. A sum below 0 gives 0."""
    s = np.array([[0.9, 0.6, -0.5, -0.9], [-0.9, 0.5, 0.8, -0.9]], np.float32)
    rows, y = seeds(s, 2, 2)
    assert rows.tolist() == [1, 0]
    np.testing.assert_allclose(y, [1.21, 0.81], rtol=1e-6)
    rows, y = seeds(-np.ones((1, 3), np.float32), 2, 2)
    assert rows.tolist() == [0, 1]
    assert not y.any()


def test_card_gmp():
    X = np.array([[1, 0], [1, 0], [0, 1], [3, 4], [1, 0]], np.float32)
    c = gmp_weights(X, np.array([0, 3, 3, 4, 5]))
    np.testing.assert_allclose(c, [1 / 3, 1 / 3, 1 / 2, 1 / 26, 1 / 2], rtol=1e-6)


@given(
    values=st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=12),
    k=st.integers(1, 14),
)
def test_largest_equals_a_sort(values, k):
    expected = [i for i in sorted(range(len(values)), key=lambda i: (-values[i], i)) if values[i] > -np.inf][
        :k
    ]
    assert largest(np.array(values, np.float32), k).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 30),
    k=st.integers(1, 40),
    kq=st.integers(1, 12),
    M=st.integers(1, 3),
)
def test_equals_dense_algebra(seed, n, k, kq, M, tmp_path_factory):
    """Isolated vectors, fewer vectors than k, a single one, several regions in the query: all of it."""
    X, q = clustered(n, seed=seed), unit(M, 8, seed + 1)
    codes = Codes(X, folder=tmp_path_factory.mktemp("scratch"), start=5)
    searcher = fitted(codes, k=k, kq=kq, alpha=0.9, iterations=200, pool="max")
    images, scores, _ = found(searcher, codes, query(q))
    f = dense_f(X, q, k, kq, 3.0, 0.9)
    initial = np.minimum((q @ X.T).max(0) - 1, 0)
    assert sorted(images) == list(codes.span)
    for i, score in zip(np.array(images) - 5, scores, strict=True):
        if f[i] > 1e-4:
            assert score == pytest.approx(f[i], abs=2e-4)
        elif f[i] < 1e-12:
            assert score == pytest.approx(initial[i], abs=1e-5)
        else:  # too little for float32 to tell from nothing
            assert abs(score - f[i]) < 2e-4 or score == pytest.approx(initial[i], abs=1e-5)


def test_what_is_not_reached_comes_last_by_similarity(tmp_path):
    X = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8], [0, 0, 1], [-1, 0, 0]], np.float32)
    codes = Codes(X, folder=tmp_path)
    images, scores, _ = found(fitted(codes, k=2, kq=1), codes, query([1, 0, 0]))
    assert images == [0, 1, 2, 3, 4]
    assert (scores[:2] > 0).all()
    np.testing.assert_allclose(scores[2:], [-1, -1, -2], atol=1e-6)


def test_diffusion_reaches_what_similarity_does_not(tmp_path):
    """A chain of views of one object against an outlier that is nearer to the query than the chain's end."""
    turn = np.deg2rad(np.arange(0, 91, 10))
    chain = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    outliers = np.array([[0.5, 0, 0.866], [0.45, 0, 0.893], [0.4, 0, 0.917]])
    codes = Codes(np.concatenate([chain, outliers]), folder=tmp_path)
    q = query([1, 0, 0])
    plain = Faiss(Faiss.Config(), CPU)
    plain.load(plain.fit(codes, Silent()))
    assert found(plain, codes, q)[0].index(9) > found(plain, codes, q)[0].index(10)
    assert set(found(fitted(codes, k=4, kq=2), codes, q)[0][:10]) == set(range(10))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(2, 25), gone=st.sets(st.integers(0, 24), max_size=12))
def test_excluded_images_are_not_there_at_all(seed, n, gone, tmp_path_factory):
    """With all vectors neighbours: the same as a collection made without them."""
    X, q = clustered(n, seed=seed), unit(1, 8, seed + 1)
    gone = {i for i in gone if i < n}
    left = [i for i in range(n) if i not in gone]
    options = {"k": 50, "kq": 4, "alpha": 0.9, "iterations": 300}
    codes = Codes(X, folder=tmp_path_factory.mktemp("scratch"))
    images, scores, _ = found(fitted(codes, **options), codes, query(q, gone))
    assert not gone & set(images)
    without = Codes(X[left], folder=tmp_path_factory.mktemp("scratch"))
    expected, others, _ = found(fitted(without, **options), without, query(q))
    assert len(images) == len(expected)
    at = dict(zip([left[i] for i in expected], others.tolist(), strict=True))
    np.testing.assert_allclose(scores, [at[i] for i in images], atol=2e-4)


@pytest.mark.parametrize("truncate", [0, 20])
def test_removed_images_as_if_they_were_excluded(tmp_path, truncate):
    """Removed after the graph was made they are left out as excluded ones are; before, they never enter."""
    X, q = clustered(60), unit(1, 8, 1)
    codes = Codes(X, [2] * 30, tmp_path, start=3)
    searcher = fitted(codes, k=8, truncate=truncate)
    excluded = found(searcher, codes, query(q, {4, 9, 10}))
    later = Codes(X, [2] * 30, tmp_path, start=3, removed={4, 9})
    for a, b in zip(excluded, found(searcher, later, query(q, {10})), strict=True):
        np.testing.assert_array_equal(a, b)
    before = fitted(later, k=8, truncate=truncate)
    assert not before.W[before.node[[2, 3, 12, 13]]].nnz
    assert not before.W[:, before.node[[2, 3, 12, 13]]].nnz
    assert before.W.nnz
    kept = [i for i in range(30) if i not in (1, 6)]
    alone = Codes(X.reshape(30, 2, 8)[kept].reshape(-1, 8), [2] * 28, tmp_path)
    a, b = found(before, later, query(q)), found(fitted(alone, k=8, truncate=truncate), alone, query(q))
    assert a[0] == [kept[i] + 3 for i in b[0]]
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)


def test_excluded_images_pass_nothing_on(tmp_path):
    """A bridge between two vectors: without it the far one is not reached."""
    turn = np.deg2rad([0, 40, 80])
    X = np.stack([np.cos(turn), np.sin(turn)], 1)
    codes = Codes(X, folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=3, kq=1), CPU)
    bridge = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32))
    graph = {"edges": bridge.data, "ends": bridge.indices, "pointers": bridge.indptr, "order": np.arange(3)}
    searcher.load(searcher.fit(codes, Silent()) | graph | {"components": np.zeros(3, np.int32)})
    assert (found(searcher, codes, query(X[0]))[1] > 0).sum() == 3
    images, scores, _ = found(searcher, codes, query(X[0], {1}))
    assert images == [0, 2]
    assert (scores > 0).tolist() == [True, False]


@pytest.mark.parametrize("pool", ["max", "sum", "gmp"])
def test_pooling_of_regions(tmp_path, pool):
    """Images of several rows against the plain sums; the box is that of the row with the largest f."""
    X, q = clustered(40), clustered(2, seed=3)
    counts = [3, 0, 1, 4, 2, 5, 1, 1, 3, 20]
    codes = Codes(X, counts, tmp_path, start=2)
    searcher = fitted(codes, k=40, kq=40, alpha=0.9, iterations=200, pool=pool)
    images, scores, boxes = found(searcher, codes, query(q))
    f = dense_f(X, q, 40, 40, 3.0, 0.9)
    assert (f > 0).all()
    expected = {}
    for i, n in enumerate(counts):
        rows = np.arange(codes.first[i], codes.first[i] + n)
        if n:
            gram = X[rows] @ X[rows].T + np.eye(n)
            c = {"max": None, "sum": np.ones(n), "gmp": np.linalg.solve(gram, np.ones(n))}[pool]
            score = f[rows].max() if c is None else c @ f[rows]
            expected[i + 2] = (score, codes.boxes[rows[f[rows].argmax()]])
    assert sorted(images) == sorted(expected)
    np.testing.assert_allclose(scores, [expected[i][0] for i in images], rtol=1e-3)
    np.testing.assert_array_equal(boxes, [expected[i][1] for i in images])


def test_truncated_is_the_graph_of_the_nearest_alone(tmp_path):
    X, q = clustered(80), clustered(1, seed=5)
    codes = Codes(X, folder=tmp_path)
    searcher = fitted(codes, k=80, kq=5, truncate=25, alpha=0.9, iterations=300, pool="max")
    images, scores, _ = found(searcher, codes, query(q))
    near = np.sort(np.argsort(-(q @ X.T)[0], kind="stable")[:25])
    f = dense_f(X[near], q, 80, 5, 3.0, 0.9)
    expected = np.minimum((q @ X.T)[0] - 1, 0)
    expected[near[f > 1e-7]] = f[f > 1e-7]
    np.testing.assert_allclose(scores, expected[images], atol=2e-4)


def test_truncation_counts_images_by_their_best_region(tmp_path):
    """Among the 12 images whose best row is most like either region of the query, with all their rows."""
    X, q = clustered(90), clustered(2, seed=5)
    counts = [3, 0, 1, 4, 2, 5, 1, 1, 3, 20, *[2] * 25]
    codes = Codes(X, counts, tmp_path, start=2)
    searcher = fitted(codes, k=90, kq=5, truncate=12, alpha=0.9, iterations=300, pool="max")
    images, scores, _ = found(searcher, codes, query(q))
    s = (q @ X.T).max(0)
    best = {i: s[codes.first[i] : codes.first[i + 1]].max() for i, n in enumerate(counts) if n}
    nearest = sorted(best, key=lambda i: -best[i])[:12]
    near = np.concatenate([np.arange(codes.first[i], codes.first[i + 1]) for i in sorted(nearest)])
    total = np.zeros(90)
    for one in q @ X.T:
        total[np.argsort(-one)[:5]] += np.sort(one)[::-1][:5]
    y = np.zeros(90)
    y[np.argsort(-total)[:5]] = np.sort(total)[::-1][:5] ** 3
    assert set(np.flatnonzero(y)) <= set(near)
    A = Laplacian(mutual_graph(X[near], 90, 3.0).astype(np.float64), 0.9)
    f = np.zeros(90)
    f[near] = np.linalg.solve(A @ np.eye(len(near)), y[near])
    expected = {}
    for i, n in enumerate(counts):
        if n:
            own = f[codes.first[i] : codes.first[i + 1]].max()
            expected[i + 2] = own if i in nearest else min(best[i] - 1, 0)
    assert sorted(images) == sorted(expected)
    np.testing.assert_allclose(scores, [expected[i] for i in images], atol=5e-4)


def test_regional_diffusion_is_diffusion_with_the_papers_setting(tmp_path):
    codes, q = Codes(clustered(300), [3] * 100, tmp_path), query(clustered(4, seed=1))
    a = found(fitted(codes, RegionalDiffusion), codes, q)
    b = found(fitted(codes, k=200, kq=200), codes, q)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert RegionalDiffusion.Config(kq=7) == RegionalDiffusion.Config(200, 3.0, 7)
    assert config_for(RegionalDiffusion.Config(), "search") == {"k": 200, "gamma": 3.0}


@pytest.mark.parametrize("truncate", [0, 30])
def test_queries_of_one_call_do_not_mix(tmp_path, monkeypatch, truncate):
    """However queries are grouped, whatever they exclude: each as if it were alone."""
    codes = Codes(clustered(120, clusters=12, spread=0.05), [2] * 60, tmp_path)
    searcher = fitted(codes, k=7, truncate=truncate)
    queries = [query(clustered(1 + j % 2, clusters=12, seed=j), {j, 2 * j}) for j in range(9)]
    alone = [searcher.search([q], codes, 50) for q in queries]
    for cut in (1, 4, 16):
        monkeypatch.setattr(graph_search, "QUERIES", cut)
        monkeypatch.setattr(graph_search, "ROWS", 50)
        hits = searcher.search(queries, codes, 50)
        for j, one in enumerate(alone):
            np.testing.assert_allclose(hits.scores[j], one.scores[0], rtol=1e-4, atol=1e-5)
            assert not {j, 2 * j} & set(hits.images[j].tolist())


def test_as_few_as_asked_for_are_the_best(tmp_path):
    codes = Codes(clustered(90), [3] * 30, tmp_path)
    searcher, q = fitted(codes, k=10), query(unit(1, 8, 4))
    images, scores, boxes = found(searcher, codes, q)
    for k in (1, 5, 29):
        some = found(searcher, codes, q, k)
        assert some[0] == images[:k]
        np.testing.assert_array_equal(some[1], scores[:k])
        np.testing.assert_array_equal(some[2], boxes[:k])


def test_no_images_and_only_excluded_ones(tmp_path):
    empty = Codes(np.empty((0, 4)), [0, 0], tmp_path)
    assert found(fitted(empty), empty, query(np.ones(4)))[0] == []
    one = Codes(np.eye(4)[:1], folder=tmp_path)
    assert found(fitted(one), one, query(np.eye(4)[0]))[0] == [0]
    assert found(fitted(one), one, query(np.eye(4)[0], {0}))[0] == []
    assert fitted(one).search([], one, 3).images.shape == (0, 3)
    gone = Codes(np.eye(4)[:2], folder=tmp_path, removed={0, 1})
    assert found(fitted(gone), gone, query(np.eye(4)[0]))[0] == []


def test_loads_from_read_only_memory_and_leaves_it_alone(tmp_path):
    codes = Codes(clustered(50), folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=10), CPU)
    state = {name: np.asarray(a).copy() for name, a in searcher.fit(codes, Silent()).items()}
    expected = found(fitted(codes, k=10), codes, query(unit(1, 8)))
    for name, array in state.items():
        array.tofile(tmp_path / name)
        state[name] = np.memmap(tmp_path / name, array.dtype, "r", shape=array.shape)
    searcher.load(state)
    for a, b in zip(found(searcher, codes, query(unit(1, 8))), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_graph_is_an_error(tmp_path):
    codes = Codes(clustered(50), folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=10), CPU)
    state = searcher.fit(codes, Silent())
    for change in (
        {"ends": state["ends"] + 50},
        {"pointers": state["pointers"][::-1]},
        {"edges": state["edges"][:-1]},
        {"components": state["components"] - 1},
        {"weights": state["weights"][1:]},
        {"order": state["order"][1:]},
        {"order": np.zeros_like(state["order"])},
    ):
        with pytest.raises(InstsearchError, match="damaged"):
            searcher.load(state | change)


def test_wrong_queries_and_options_are_errors(tmp_path):
    codes = Codes(V, folder=tmp_path)
    with pytest.raises(InstsearchError, match="3 values and the index 2"):
        fitted(codes).search([query(np.ones(3))], codes, 1)
    none = torch.zeros(0, dtype=torch.int64)
    words = SparseVectors(none, torch.zeros(0), torch.zeros(2, dtype=torch.int64), 4, torch.zeros(1, 4))
    nothing: Any = None
    with pytest.raises(InstsearchError, match="inverted"):
        fitted(codes).search([Query("q", nothing, None, nothing, nothing, words)], codes, 1)
    for wrong in ({"alpha": 1.0}, {"kq": 0}, {"truncate": 3}, {"pool": "mean"}, {"gamma": 0.0}):
        with pytest.raises(UsageError):
            make_config(Diffusion, wrong, "searcher")


def test_what_does_not_converge_is_said_once_a_search(tmp_path, monkeypatch):
    """A circle of vectors, each with two neighbours: 5 iterations do not go far; 20 on clusters are silent."""
    monkeypatch.setattr(graph_search, "QUERIES", 2)
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    codes = Codes(np.stack([np.cos(turn), np.sin(turn)], 1), folder=tmp_path)
    circle = fitted(codes, k=3)
    queries = [query([np.cos(t), np.sin(t)]) for t in (0.1, 1.0, 2.0, 3.0, 4.0)]
    few = fitted(codes, k=3, kq=1, iterations=5)
    with pytest.warns(
        RuntimeWarning, match=r"after 5 iterations the residual is 0\.\d+, above 0\.1"
    ) as caught:
        few.search(queries, codes, 3)
    assert len(caught) == 1
    y = np.zeros((400, 1))
    y[circle.node[3]] = 1
    residual = conjugate_gradient(Laplacian(circle.W.astype(np.float64), 0.99), y, max_iter=5).residuals[0]
    assert f"{residual:.2g}" in str(caught[0].message)
    fitted(codes, k=3, kq=1, iterations=100).search(queries, codes, 3)
    codes = Codes(clustered(300, spread=0.5), folder=tmp_path)
    fitted(codes).search([query(unit(1, 8, 1))], codes, 3)


# -- columns worked out beforehand ----------------------------------------------------------------------


def column(X: np.ndarray, i: int, k: int, m: int, alpha: float) -> np.ndarray:
    """What vector i diffuses to among its m nearest, by dense algebra."""
    near = np.sort(np.argsort(-(X @ X[i]), kind="stable")[:m])
    W = mutual_graph(X, k, 3.0).toarray().astype(np.float64)[np.ix_(near, near)]
    D = W.sum(1)
    root = np.where(D > 0, 1 / np.sqrt(np.where(D > 0, D, 1)), 0)
    f = np.zeros(len(X))
    f[near] = np.linalg.solve(np.eye(m) - alpha * root[:, None] * W * root, near == i)
    return f


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 30),
    k=st.integers(1, 40),
    m=st.integers(1, 40),
    M=st.integers(1, 3),
)
def test_offline_is_a_sum_of_columns(seed, n, k, m, M, tmp_path_factory):
    """Isolated vectors, fewer vectors than k or than are kept, a single one, several regions in the query."""
    X, q = clustered(n, seed=seed), unit(M, 8, seed + 1)
    codes = Codes(X, folder=tmp_path_factory.mktemp("scratch"), start=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline_diffusion, "TOGETHER", 3 * m)
        patch.setattr(offline_diffusion, "LISTED", 7 * m)
        searcher = fitted(
            codes, OfflineDiffusion, k=k, kq=4, alpha=0.9, iterations=200, truncate=m, pool="max"
        )
    images, scores, _ = found(searcher, codes, query(q))
    rows, y = seeds(q @ X.T, 4, 3.0)
    f = sum(s * column(X, i, k, min(m, n), 0.9) for i, s in zip(rows, y, strict=True))
    expected = np.where(f > 1e-7, f, np.minimum((q @ X.T).max(0) - 1, 0))
    assert sorted(images) == list(codes.span)
    little = (f > 1e-12) & (f < 1e-4)
    at = np.array([i - 5 for i in images])
    np.testing.assert_allclose(scores[~little[at]], expected[at][~little[at]], atol=3e-4)


def test_offline_among_all_is_diffusion(tmp_path):
    codes = Codes(clustered(90), [3] * 30, tmp_path, start=4)
    options = {"k": 12, "kq": 5, "iterations": 300}
    q = query(clustered(2, seed=3))
    a = found(fitted(codes, OfflineDiffusion, truncate=90, **options), codes, q)
    b = found(fitted(codes, **options), codes, q)
    assert a[0] == b[0]
    np.testing.assert_allclose(a[1], b[1], rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(a[2], b[2])


def test_offline_removed_and_excluded_images(tmp_path):
    """Removed before, an image is in no column; later, or excluded, it sets off nothing and is not returned."""
    X = clustered(60)
    options = {"k": 8, "truncate": 20, "kq": 5}
    kept = [i for i in range(30) if i not in (1, 6)]
    later = Codes(X, [2] * 30, tmp_path, start=3, removed={4, 9})
    (tmp_path / "before").mkdir()
    before = fitted(Codes(X, [2] * 30, tmp_path / "before", 3, {4, 9}), OfflineDiffusion, **options)
    assert not np.isin(before.reached, [2, 3, 12, 13]).any()
    (tmp_path / "alone").mkdir()
    alone = Codes(X.reshape(30, 2, 8)[kept].reshape(-1, 8), [2] * 28, tmp_path / "alone")
    q = unit(1, 8, 1)
    a, b = found(before, later, query(q)), found(fitted(alone, OfflineDiffusion, **options), alone, query(q))
    assert a[0] == [kept[i] + 3 for i in b[0]]
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)
    codes = Codes(X, [2] * 30, tmp_path, start=3)
    searcher = fitted(codes, OfflineDiffusion, **options)
    excluded = found(searcher, codes, query(q, {4, 9}))
    assert not {4, 9} & set(excluded[0])
    for x, y in zip(excluded, found(searcher, later, query(q)), strict=True):
        np.testing.assert_array_equal(x, y)
    s = q @ X.T
    s[:, [2, 3, 12, 13]] = -np.inf
    rows, y = seeds(s, 5, 3.0)
    f = sum(w * column(X, i, 8, 20, 0.99) for i, w in zip(rows, y, strict=True))
    f[[2, 3, 12, 13]] = 0
    assert set(excluded[0][: int((excluded[1] > 0).sum())]) == {3 + i // 2 for i in np.flatnonzero(f > 1e-7)}


def test_offline_of_equal_vectors_and_of_none(tmp_path):
    """A row that as many equal ones crowd out of its own list is in its column all the same."""
    equal = Codes(np.tile([[0.6, 0.8]], (20, 1)), folder=tmp_path)
    searcher = fitted(equal, OfflineDiffusion, k=3, truncate=3)
    for i in range(20):
        assert i in searcher.reached[searcher.bounds[i] : searcher.bounds[i + 1]]
    empty = Codes(np.empty((0, 4)), [0, 0], tmp_path)
    assert found(fitted(empty, OfflineDiffusion), empty, query(np.ones(4)))[0] == []
    gone = Codes(np.eye(4)[:2], folder=tmp_path, removed={0, 1})
    assert found(fitted(gone, OfflineDiffusion), gone, query(np.eye(4)[0]))[0] == []


def test_offline_options_and_damage(tmp_path):
    a, b = OfflineDiffusion.Config(), OfflineDiffusion.Config(alpha=0.9, iterations=30, truncate=50)
    assert config_for(a, "search").keys() == {"k", "gamma", "alpha", "iterations", "truncate"}
    assert config_for(a, "search") != config_for(b, "search")
    assert config_for(Diffusion.Config(), "search").keys() == {"k", "gamma"}
    for wrong in ({"alpha": 1.0}, {"iterations": 0}, {"truncate": 0}, {"kq": 0}):
        with pytest.raises(UsageError):
            make_config(OfflineDiffusion, wrong, "searcher")
    codes = Codes(clustered(50), folder=tmp_path)
    searcher = OfflineDiffusion(OfflineDiffusion.Config(k=10), CPU)
    state = searcher.fit(codes, Silent())
    for change in (
        {"bounds": state["bounds"][1:]},
        {"bounds": state["bounds"][::-1]},
        {"columns": state["columns"][1:]},
        {"reached": state["reached"][1:]},
    ):
        with pytest.raises(InstsearchError, match="damaged"):
            searcher.load(state | change)
    searcher.load(state | {"reached": state["reached"] + 50})
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.search([query(unit(1, 8))], codes, 3)


def test_offline_columns_that_do_not_converge_are_said_when_they_are_made(tmp_path):
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    codes = Codes(np.stack([np.cos(turn), np.sin(turn)], 1), folder=tmp_path)
    with pytest.warns(RuntimeWarning, match="after 3 iterations") as caught:
        searcher = fitted(codes, OfflineDiffusion, k=3, iterations=3)
    assert len(caught) == 1
    found(searcher, codes, query([1, 0]))


def test_dba_searches_the_augmented_vectors(tmp_path):
    """Each vector with its 2 nearest, removed ones neither neighbours nor hits."""
    X, q = clustered(12), clustered(1, seed=2)
    codes = Codes(X, folder=tmp_path, removed={4})
    searcher = Faiss(Faiss.Config(dba=2, dba_alpha=1.0), CPU)
    searcher.load(searcher.fit(codes, Silent()))
    expected = {}
    for i in (i for i in range(12) if i != 4):
        near = sorted((j for j in range(12) if j not in (i, 4)), key=lambda j: -float(X[i] @ X[j]))[:2]
        v = X[i] + sum(max(float(X[i] @ X[j]), 0) * X[j] for j in near)
        expected[i] = float(q[0] @ v / np.linalg.norm(v))
    images, scores, _ = found(searcher, codes, query(q))
    assert sorted(images) == sorted(expected)
    np.testing.assert_allclose(scores, [expected[i] for i in images], atol=1e-5)
    with pytest.raises(UsageError, match="dba"):
        make_config(Faiss, {"dba": -1}, "searcher")
