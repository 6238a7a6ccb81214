"""Searching by the graph: what sets a query off, weights of regions, several queries at once, and convergence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_collections import V, clustered, fitted, found, query, unit
from instsearch_plugins.numeric.graph import Laplacian, conjugate_gradient
from instsearch_plugins.searchers import graph_search
from instsearch_plugins.searchers.graph_search import gmp_weights, largest, seeds
from stored_codes import StoredCodes


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


@pytest.mark.parametrize("truncate", [0, 30])
def test_queries_of_one_call_do_not_mix(tmp_path, monkeypatch, truncate):
    """However queries are grouped, whatever they exclude: each as if it were alone."""
    codes = StoredCodes(clustered(120, clusters=12, spread=0.05), [2] * 60, folder=tmp_path)
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
    codes = StoredCodes(clustered(90), [3] * 30, folder=tmp_path)
    searcher, q = fitted(codes, k=10), query(unit(1, 8, 4))
    images, scores, boxes = found(searcher, codes, q)
    for k in (1, 5, 29):
        some = found(searcher, codes, q, k)
        assert some[0] == images[:k]
        np.testing.assert_array_equal(some[1], scores[:k])
        np.testing.assert_array_equal(some[2], boxes[:k])


def test_what_does_not_converge_is_said_once_a_search(tmp_path, monkeypatch):
    """A circle of vectors, each with two neighbours: 5 iterations do not go far; 20 on clusters are silent."""
    monkeypatch.setattr(graph_search, "QUERIES", 2)
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    codes = StoredCodes(np.stack([np.cos(turn), np.sin(turn)], 1), folder=tmp_path)
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
    codes = StoredCodes(clustered(300, spread=0.5), folder=tmp_path)
    fitted(codes).search([query(unit(1, 8, 1))], codes, 3)
