"""Offline diffusion: columns worked out beforehand against dense algebra, options, damage and convergence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from diffusion_collections import CPU, clustered, fitted, found, query, unit
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.numeric.graph import mutual_graph, normalised
from instsearch_plugins.searchers import offline_diffusion
from instsearch_plugins.searchers.diffusion import Diffusion
from instsearch_plugins.searchers.graph_search import seeds
from instsearch_plugins.searchers.offline_diffusion import OfflineDiffusion, columns
from states import load
from stored_codes import StoredCodes


def column(X: np.ndarray, i: int, k: int, m: int, alpha: float, early: bool = False) -> np.ndarray:
    """What vector i diffuses to among its m nearest, by dense algebra; D is the whole graph's, or of these alone."""
    near = np.sort(np.argsort(-(X @ X[i]), kind="stable")[:m])
    graph = mutual_graph(X, k, 3.0).toarray().astype(np.float64)
    W = graph[np.ix_(near, near)]
    D = W.sum(1) if early else graph.sum(1)[near]
    root = np.where(D > 0, 1 / np.sqrt(np.where(D > 0, D, 1)), 0)
    f = np.zeros(len(X))
    f[near] = np.linalg.solve(np.eye(m) - alpha * root[:, None] * W * root, near == i)
    return f


@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 30),
    k=st.integers(1, 40),
    m=st.integers(1, 40),
    M=st.integers(1, 3),
    early=st.booleans(),
)
def test_offline_is_a_sum_of_columns(seed, n, k, m, M, early, tmp_path_factory):
    """Isolated vectors, fewer vectors than k or than are kept, a single one, several regions in the query."""
    X, q = clustered(n, seed=seed), unit(M, 8, seed + 1)
    codes = StoredCodes(X, folder=tmp_path_factory.mktemp("scratch"), start=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline_diffusion, "TOGETHER", 3 * m)
        patch.setattr(offline_diffusion, "LISTED", 7 * m)
        options = {"truncate": m, "truncation": "early" if early else "late", "pool": "max"}
        searcher = fitted(codes, OfflineDiffusion, k=k, kq=4, alpha=0.9, iterations=200, **options)
    images, scores, _ = found(searcher, codes, query(q))
    rows, y = seeds(q @ X.T, 4, 3.0)
    f = sum(s * column(X, i, k, min(m, n), 0.9, early) for i, s in zip(rows, y, strict=True))
    expected = np.where(f > 1e-7, f, np.minimum((q @ X.T).max(0) - 1, 0))
    assert sorted(images) == list(codes.span)
    little = (f > 1e-12) & (f < 1e-4)
    at = np.array([i - 5 for i in images])
    np.testing.assert_allclose(scores[~little[at]], expected[at][~little[at]], atol=3e-4)


def test_a_chain_cut_late_keeps_the_degrees_of_the_whole():
    """Four nodes of weight .8, cut to the first two: 1 / (1 - .7^2) and .7 times that; cut early it runs away."""
    W = sparse.diags_array([0.8, 0.8, 0.8], offsets=1, shape=(4, 4)).tocsr()
    W = sparse.csr_array(W + W.T)
    near, of = np.array([[0, 1]]), np.array([0])
    late, _ = columns(normalised(W), near, of, 0.99, 50)
    assert late[0] == pytest.approx([1.96, 1.37], abs=5e-3)
    early, _ = columns(W, near, of, 0.99, 50, early=True)
    assert early[0] == pytest.approx([50.25, 49.75], abs=1e-2)


def test_offline_among_all_is_diffusion(tmp_path):
    codes = StoredCodes(clustered(90), [3] * 30, folder=tmp_path, start=4)
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
    later = StoredCodes(X, [2] * 30, folder=tmp_path, start=3, removed={4, 9})
    (tmp_path / "before").mkdir()
    before = fitted(
        StoredCodes(X, [2] * 30, 3, {4, 9}, folder=tmp_path / "before"), OfflineDiffusion, **options
    )
    assert not np.isin(before.reached, [2, 3, 12, 13]).any()
    (tmp_path / "alone").mkdir()
    alone = StoredCodes(X.reshape(30, 2, 8)[kept].reshape(-1, 8), [2] * 28, folder=tmp_path / "alone")
    q = unit(1, 8, 1)
    a, b = found(before, later, query(q)), found(fitted(alone, OfflineDiffusion, **options), alone, query(q))
    assert a[0] == [kept[i] + 3 for i in b[0]]
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)
    codes = StoredCodes(X, [2] * 30, folder=tmp_path, start=3)
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
    equal = StoredCodes(np.tile([[0.6, 0.8]], (20, 1)), folder=tmp_path)
    searcher = fitted(equal, OfflineDiffusion, k=3, truncate=3)
    for i in range(20):
        assert i in searcher.reached[searcher.bounds[i] : searcher.bounds[i + 1]]
    empty = StoredCodes(np.empty((0, 4)), [0, 0], folder=tmp_path)
    assert found(fitted(empty, OfflineDiffusion), empty, query(np.ones(4)))[0] == []
    gone = StoredCodes(np.eye(4)[:2], folder=tmp_path, removed={0, 1})
    assert found(fitted(gone, OfflineDiffusion), gone, query(np.eye(4)[0]))[0] == []


def test_offline_options_and_damage(tmp_path):
    a, b = OfflineDiffusion.Config(), OfflineDiffusion.Config(alpha=0.9, iterations=30, truncate=50)
    assert config_for(a, "search").keys() == {"k", "gamma", "alpha", "iterations", "truncate", "truncation"}
    assert config_for(a, "search") != config_for(b, "search")
    assert config_for(Diffusion.Config(), "search").keys() == {"k", "gamma"}
    for wrong in ({"alpha": 1.0}, {"iterations": 0}, {"truncate": 0}, {"truncation": "soon"}, {"kq": 0}):
        with pytest.raises(UsageError):
            make_config(OfflineDiffusion, wrong, "searcher")
    codes = StoredCodes(clustered(50), folder=tmp_path)
    searcher = OfflineDiffusion(OfflineDiffusion.Config(k=10), CPU)
    state = searcher.fit(codes, Quiet())
    for change in (
        {"bounds": state["bounds"][1:]},
        {"bounds": state["bounds"][::-1]},
        {"columns": state["columns"][1:]},
        {"reached": state["reached"][1:]},
    ):
        with pytest.raises(ValueError, match=r"wanted|falling"):
            load(searcher, state | change, codes.span)
    for change in ({"reached": state["reached"] + 50}, {"columns": np.full_like(state["columns"], np.nan)}):
        load(searcher, state | change, codes.span)
        with pytest.raises(InstsearchError, match="damaged"):
            searcher.search([query(unit(1, 8))], codes, 3)


def test_offline_columns_that_do_not_converge_are_said_when_they_are_made(tmp_path):
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    codes = StoredCodes(np.stack([np.cos(turn), np.sin(turn)], 1), folder=tmp_path)
    with pytest.warns(RuntimeWarning, match="after 3 iterations") as caught:
        searcher = fitted(codes, OfflineDiffusion, k=3, iterations=3)
    assert len(caught) == 1
    found(searcher, codes, query([1, 0]))
