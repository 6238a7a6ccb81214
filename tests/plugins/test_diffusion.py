"""Diffusion: hand-computed scores, dense algebra on small collections, and collections made again without images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffusion_collections import CPU, V, clustered, fitted, found, query, unit
from instsearch_cli.data import Query, SparseVectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.numeric.graph import Laplacian, mutual_graph
from instsearch_plugins.searchers.diffusion import Diffusion
from instsearch_plugins.searchers.faiss_index import Faiss
from instsearch_plugins.searchers.regional_diffusion import RegionalDiffusion
from states import load
from stored_codes import StoredCodes


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
    codes = StoredCodes(V, folder=tmp_path)
    images, scores, _ = found(fitted(codes, k=3, kq=2, pool="max"), codes, query([0.9, 0.435890]))
    assert images == [1, 2, 0, 3]
    np.testing.assert_allclose(scores, [63.900, 56.193, 46.273, -1.9], atol=1e-3)


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
    codes = StoredCodes(X, folder=tmp_path_factory.mktemp("scratch"), start=5)
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
    codes = StoredCodes(X, folder=tmp_path)
    images, scores, _ = found(fitted(codes, k=2, kq=1), codes, query([1, 0, 0]))
    assert images == [0, 1, 2, 3, 4]
    assert (scores[:2] > 0).all()
    np.testing.assert_allclose(scores[2:], [-1, -1, -2], atol=1e-6)


def test_diffusion_reaches_what_similarity_does_not(tmp_path):
    """A chain of views of one object against an outlier that is nearer to the query than the chain's end."""
    turn = np.deg2rad(np.arange(0, 91, 10))
    chain = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    outliers = np.array([[0.5, 0, 0.866], [0.45, 0, 0.893], [0.4, 0, 0.917]])
    codes = StoredCodes(np.concatenate([chain, outliers]), folder=tmp_path)
    q = query([1, 0, 0])
    plain = Faiss(Faiss.Config(), CPU)
    plain.load(plain.fit(codes, Quiet()))
    assert found(plain, codes, q)[0].index(9) > found(plain, codes, q)[0].index(10)
    assert set(found(fitted(codes, k=4, kq=2), codes, q)[0][:10]) == set(range(10))


@given(seed=st.integers(0, 999), n=st.integers(2, 25), gone=st.sets(st.integers(0, 24), max_size=12))
def test_excluded_images_are_not_there_at_all(seed, n, gone, tmp_path_factory):
    """With all vectors neighbours: the same as a collection made without them."""
    X, q = clustered(n, seed=seed), unit(1, 8, seed + 1)
    gone = {i for i in gone if i < n}
    left = [i for i in range(n) if i not in gone]
    options = {"k": 50, "kq": 4, "alpha": 0.9, "iterations": 300}
    codes = StoredCodes(X, folder=tmp_path_factory.mktemp("scratch"))
    images, scores, _ = found(fitted(codes, **options), codes, query(q, gone))
    assert not gone & set(images)
    without = StoredCodes(X[left], folder=tmp_path_factory.mktemp("scratch"))
    expected, others, _ = found(fitted(without, **options), without, query(q))
    assert len(images) == len(expected)
    at = dict(zip([left[i] for i in expected], others.tolist(), strict=True))
    np.testing.assert_allclose(scores, [at[i] for i in images], atol=2e-4)


@pytest.mark.parametrize("truncate", [0, 20])
def test_removed_images_as_if_they_were_excluded(tmp_path, truncate):
    """Removed after the graph was made they are left out as excluded ones are; before, they never enter."""
    X, q = clustered(60), unit(1, 8, 1)
    codes = StoredCodes(X, [2] * 30, folder=tmp_path, start=3)
    searcher = fitted(codes, k=8, truncate=truncate)
    excluded = found(searcher, codes, query(q, {4, 9, 10}))
    later = StoredCodes(X, [2] * 30, folder=tmp_path, start=3, removed={4, 9})
    for a, b in zip(excluded, found(searcher, later, query(q, {10})), strict=True):
        np.testing.assert_array_equal(a, b)
    before = fitted(later, k=8, truncate=truncate)
    assert not before.W[before.node[[2, 3, 12, 13]]].nnz
    assert not before.W[:, before.node[[2, 3, 12, 13]]].nnz
    assert before.W.nnz
    kept = [i for i in range(30) if i not in (1, 6)]
    alone = StoredCodes(X.reshape(30, 2, 8)[kept].reshape(-1, 8), [2] * 28, folder=tmp_path)
    a, b = found(before, later, query(q)), found(fitted(alone, k=8, truncate=truncate), alone, query(q))
    assert a[0] == [kept[i] + 3 for i in b[0]]
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)


def test_excluded_images_pass_nothing_on(tmp_path):
    """A bridge between two vectors: without it the far one is not reached."""
    turn = np.deg2rad([0, 40, 80])
    X = np.stack([np.cos(turn), np.sin(turn)], 1)
    codes = StoredCodes(X, folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=3, kq=1), CPU)
    bridge = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32))
    graph = {"edges": bridge.data, "ends": bridge.indices, "pointers": bridge.indptr, "order": np.arange(3)}
    searcher.load(searcher.fit(codes, Quiet()) | graph | {"components": np.zeros(3, np.int32)})
    assert (found(searcher, codes, query(X[0]))[1] > 0).sum() == 3
    images, scores, _ = found(searcher, codes, query(X[0], {1}))
    assert images == [0, 2]
    assert (scores > 0).tolist() == [True, False]


@pytest.mark.parametrize("pool", ["max", "sum", "gmp"])
def test_pooling_of_regions(tmp_path, pool):
    """Images of several rows against the plain sums; the box is that of the row with the largest f."""
    X, q = clustered(40), clustered(2, seed=3)
    counts = [3, 0, 1, 4, 2, 5, 1, 1, 3, 20]
    codes = StoredCodes(X, counts, folder=tmp_path, start=2)
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
    codes = StoredCodes(X, folder=tmp_path)
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
    codes = StoredCodes(X, counts, folder=tmp_path, start=2)
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
    codes, q = StoredCodes(clustered(300), [3] * 100, folder=tmp_path), query(clustered(4, seed=1))
    a = found(fitted(codes, RegionalDiffusion), codes, q)
    b = found(fitted(codes, k=200, kq=200), codes, q)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert RegionalDiffusion.Config(kq=7) == RegionalDiffusion.Config(200, 3.0, 7)
    assert config_for(RegionalDiffusion.Config(), "search") == {"k": 200, "gamma": 3.0}


def test_no_images_and_only_excluded_ones(tmp_path):
    empty = StoredCodes(np.empty((0, 4)), [0, 0], folder=tmp_path)
    assert found(fitted(empty), empty, query(np.ones(4)))[0] == []
    one = StoredCodes(np.eye(4)[:1], folder=tmp_path)
    assert found(fitted(one), one, query(np.eye(4)[0]))[0] == [0]
    assert found(fitted(one), one, query(np.eye(4)[0], {0}))[0] == []
    assert fitted(one).search([], one, 3).images.shape == (0, 3)
    gone = StoredCodes(np.eye(4)[:2], folder=tmp_path, removed={0, 1})
    assert found(fitted(gone), gone, query(np.eye(4)[0]))[0] == []


def test_loads_from_read_only_memory_and_leaves_it_alone(tmp_path):
    codes = StoredCodes(clustered(50), folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=10), CPU)
    state = {name: np.asarray(a).copy() for name, a in searcher.fit(codes, Quiet()).items()}
    expected = found(fitted(codes, k=10), codes, query(unit(1, 8)))
    for name, array in state.items():
        array.tofile(tmp_path / name)
        state[name] = np.memmap(tmp_path / name, array.dtype, "r", shape=array.shape)
    searcher.load(state)
    for a, b in zip(found(searcher, codes, query(unit(1, 8))), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_graph_is_an_error(tmp_path):
    codes = StoredCodes(clustered(50), folder=tmp_path)
    searcher = Diffusion(Diffusion.Config(k=10), CPU)
    state = searcher.fit(codes, Quiet())
    for change in (
        {"ends": state["ends"] + 50},
        {"pointers": state["pointers"][::-1]},
        {"edges": state["edges"][:-1]},
        {"components": state["components"] - 1},
        {"weights": state["weights"][1:]},
        {"order": state["order"][1:]},
        {"order": np.zeros_like(state["order"])},
        {"vectors": np.full_like(state["vectors"], np.nan)},
        {"layouts": state["layouts"][1:]},
        {"layouts": state["layouts"] + 1},
        {"start": state["start"] + 1},
    ):
        with pytest.raises((ValueError, InstsearchError)):
            load(searcher, state | change, codes.span)
    load(searcher, state, codes.span)


def test_wrong_queries_and_options_are_errors(tmp_path):
    codes = StoredCodes(V, folder=tmp_path)
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


def test_dba_searches_the_augmented_vectors(tmp_path):
    """Each vector with its 2 nearest, removed ones neither neighbours nor hits."""
    X, q = clustered(12), clustered(1, seed=2)
    codes = StoredCodes(X, folder=tmp_path, removed={4})
    searcher = Faiss(Faiss.Config(dba=2, dba_alpha=1.0), CPU)
    searcher.load(searcher.fit(codes, Quiet()))
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
