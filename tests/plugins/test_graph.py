"""Graphs of neighbours: hand-computed weights, and linear systems against dense algebra."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from instsearch_plugins.numeric import expansion, graph
from instsearch_plugins.numeric.expansion import augmented
from instsearch_plugins.numeric.graph import (
    Laplacian,
    centrality,
    conjugate_gradient,
    knn,
    mutual_graph,
    normalised,
)

V = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0]], np.float32)


def unit(n: int, D: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain_graph(V: np.ndarray, k: int, gamma: float) -> np.ndarray:
    """The definition, pair by pair."""
    n = len(V)
    products = V.astype(np.float64) @ V.T.astype(np.float64)
    near = [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in products]
    W = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and j in near[i] and i in near[j]:
                W[i, j] = max(products[i, j], 0) ** gamma
    return W


def plain_normalised(W: np.ndarray) -> np.ndarray:
    D = W.sum(1)
    root = np.array([d**-0.5 if d > 0 else 0.0 for d in D])
    return root[:, None] * W * root[None, :]


def test_knn_is_exact_and_counts_the_row_itself(monkeypatch):
    monkeypatch.setattr(graph, "QUERIES", 7)
    X, done = unit(40, 5), []
    products, rows = knn(X, 6, done.append)
    assert done == [7, 7, 7, 7, 7, 5]
    expected = X @ X.T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :6])
    np.testing.assert_allclose(products, -np.sort(-expected, axis=1)[:, :6], atol=1e-6)
    assert (rows[:, 0] == np.arange(40)).all()


def test_card_weights():
    W = mutual_graph(V, 3, 3).toarray()
    assert W[0, 1] == pytest.approx(0.512, abs=1e-6)
    assert W[0, 2] == pytest.approx(0.216, abs=1e-6)
    assert W[1, 2] == pytest.approx(0.884736, abs=1e-6)
    assert not W[3].any()
    assert not W[:, 3].any()
    assert not W.diagonal().any()
    np.testing.assert_array_equal(W, W.T)


def test_card_centrality():
    W = mutual_graph(V, 3, 3)
    np.testing.assert_allclose(centrality(W, 0.5), [0.894504, 1.081652, 0.993817, 0.5], atol=1e-5)
    np.testing.assert_allclose(centrality(W, 0.99), [0.817254, 1.129302, 1.002964, 0.01], atol=1e-5)
    np.testing.assert_allclose(centrality(W, 0), np.ones(4))


def test_card_diffusion():
    y = np.array([[0.729], [0.945618], [0], [0]])
    f, residuals = conjugate_gradient(Laplacian(mutual_graph(V, 3, 3).astype(np.float64), 0.99), y)
    np.testing.assert_allclose(f[:, 0], [46.273, 63.900, 56.193, 0], atol=1e-3)
    assert residuals[0] <= 1e-6


@pytest.mark.parametrize(
    ("n", "k", "gamma"), [(30, 5, 3.0), (30, 2, 1.0), (4, 50, 3.0), (1, 50, 3.0), (9, 1, 2)]
)
def test_graph_equals_the_definition(n, k, gamma):
    X = unit(n, 4, seed=n)
    W = mutual_graph(X, k, gamma)
    np.testing.assert_allclose(W.toarray(), plain_graph(X, k, gamma), atol=1e-5)
    np.testing.assert_allclose(normalised(W).toarray(), plain_normalised(plain_graph(X, k, gamma)), atol=1e-5)
    assert (W.data > 0).all()
    assert W.nnz <= n * (k - 1)
    assert W.indices.dtype == W.indptr.dtype == np.int32


def test_equal_vectors_make_no_loops():
    W = mutual_graph(np.ones((20, 2), np.float32) / np.sqrt(2, dtype=np.float32), 5, 3).toarray()
    assert not W.diagonal().any()
    np.testing.assert_array_equal(W, W.T)


def test_no_vectors():
    assert mutual_graph(np.empty((0, 3), np.float32), 5, 3).shape == (0, 0)
    assert centrality(mutual_graph(np.empty((0, 3), np.float32), 5, 3), 0.9).shape == (0,)


@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 25),
    k=st.integers(1, 30),
    alpha=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
)
def test_solutions_equal_dense_algebra(seed, n, k, alpha):
    """Several right-hand sides, each with hidden nodes: what remains is solved as if they had never been."""
    rng = np.random.default_rng(seed)
    W = mutual_graph(unit(n, 3, seed), k, 2).astype(np.float64)
    shown, b = rng.random((n, 3)) < 0.7, rng.normal(size=(n, 3))
    x, residuals = conjugate_gradient(Laplacian(W, alpha, shown), b, tol=1e-12, max_iter=500)
    assert (residuals <= 1e-12).all()
    for j in range(3):
        at = np.flatnonzero(shown[:, j])
        A = np.eye(len(at)) - alpha * plain_normalised(W.toarray()[np.ix_(at, at)])
        np.testing.assert_allclose(x[at, j], np.linalg.solve(A, b[at, j]), atol=1e-8)
        np.testing.assert_allclose(x[~shown[:, j], j], b[~shown[:, j], j], atol=1e-8)
    g = centrality(W, alpha, tol=1e-12)
    S = np.eye(n) - alpha * plain_normalised(W.toarray())
    np.testing.assert_allclose(g, np.linalg.solve(S / (1 - alpha), np.ones(n)), atol=1e-8)


def test_columns_do_not_depend_on_their_companions():
    rng = np.random.default_rng(1)
    A = Laplacian(mutual_graph(unit(200, 5), 10, 3), 0.99)
    b = (rng.random((200, 4)) < 0.05).astype(np.float32)
    b[:, 2] = 0
    together = conjugate_gradient(A, b, max_iter=7).x
    for j in range(4):
        np.testing.assert_allclose(
            together[:, [j]], conjugate_gradient(A, b[:, [j]], max_iter=7).x, atol=1e-5
        )
    assert not together[:, 2].any()


def test_a_matrix_and_a_start():
    """Any symmetric positive definite A; a start at the solution needs no step."""
    rng = np.random.default_rng(0)
    M = rng.normal(size=(12, 12))
    A, b = sparse.csr_array(M @ M.T + np.eye(12)), rng.normal(size=(12, 2))
    x = conjugate_gradient(A, b, tol=1e-12, max_iter=200).x
    np.testing.assert_allclose(A @ x, b, atol=1e-9)
    again = conjugate_gradient(A, b, x0=x, tol=1e-6, max_iter=1)
    np.testing.assert_array_equal(again.x, x)
    started = conjugate_gradient(A, b, x0=np.ones((12, 2)), tol=1e-12, max_iter=200)
    np.testing.assert_allclose(started.x, x, atol=1e-8)


def test_the_residual_is_true():
    W = mutual_graph(unit(300, 6), 10, 3).astype(np.float64)
    A, b = Laplacian(W, 0.99), np.eye(300)[:, :2].copy()
    x, residuals = conjugate_gradient(A, b, max_iter=5)
    np.testing.assert_allclose(residuals, np.linalg.norm(b - A @ x, axis=0), rtol=1e-9)
    assert (residuals > 1e-3).all()


def test_what_does_not_converge_is_said():
    W = mutual_graph(unit(300, 6), 10, 3)
    with pytest.warns(RuntimeWarning, match=r"after 3 iterations the residual is \d"):
        centrality(W, 0.99, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        centrality(W, 0.99)


def test_augmented_equals_the_plain_loop(monkeypatch):
    monkeypatch.setattr(expansion, "ROWS", 7)
    X, shown = unit(30, 4), np.arange(30) % 5 != 2
    got = np.concatenate(list(augmented(X, 3, 2.0, shown)))
    for i in range(30):
        if not shown[i]:
            np.testing.assert_array_equal(got[i], X[i])
            continue
        others = sorted((j for j in range(30) if shown[j] and j != i), key=lambda j: -float(X[i] @ X[j]))[:3]
        total = X[i] + sum(max(float(X[i] @ X[j]), 0) ** 2 * X[j] for j in others)
        np.testing.assert_allclose(got[i], total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_augmented_with_fewer_rows_than_neighbours(n):
    X = np.eye(3, dtype=np.float32)[:n]
    got = np.concatenate([np.empty((0, 3), np.float32), *augmented(X, 10, 0, np.ones(n, bool))])
    total = np.ones((n, n)) @ X
    np.testing.assert_allclose(got, total / np.sqrt(max(n, 1)), atol=1e-6)
    none = np.concatenate([np.empty((0, 3), np.float32), *augmented(X, 10, 0, np.zeros(n, bool))])
    np.testing.assert_array_equal(none, X)


def test_equal_vectors_are_augmented_alike():
    X = np.repeat(unit(2, 3), 8, axis=0)
    got = np.concatenate(list(augmented(X, 4, 3.0, np.ones(16, bool))))
    np.testing.assert_allclose(got, X, atol=1e-6)
