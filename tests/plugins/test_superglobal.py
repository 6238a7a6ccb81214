"""Reranker `superglobal`, and SuperGlobal's variants of GeM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Hits, Inputs, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import config_for, late, make_config
from instsearch_plugins.encoders.gem import GeM, gem_pool, regional_gem
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.refinement import refined, refined_scores
from instsearch_plugins.rerankers.superglobal import SuperGlobal
from region_collection import GRID, bare, image

NOTHING: Any = None


def units(n, D=5, seed=0):
    return l2(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)))


def slowly(q, X, K, beta):
    """By plain loops."""
    X = X.double()
    R = []
    for d in range(len(X)):
        s = {i: float(X[d] @ X[i]) for i in range(len(X)) if i != d}
        near = sorted(s, key=lambda i: -s[i])[:K]
        total, weight = X[d].clone(), 1.0
        for i in near:
            total += beta * max(s[i], 0) * X[i]
            weight += beta * max(s[i], 0)
        R.append(total / weight)
    first = [float(q.double() @ r) for r in R]
    best = sorted(range(len(R)), key=lambda d: -first[d])[: K + 1]
    e = torch.tensor([max(float(R[d][c]) for d in best) for c in range(X.shape[1])]).double()
    return torch.stack(R), torch.tensor([(first[d] + float(e @ R[d])) / 2 for d in range(len(R))])


@given(n=st.integers(1, 12), K=st.integers(0, 9), beta=st.floats(0, 1), seed=st.integers(0, 99))
def test_equals_the_plain_loop(n, K, beta, seed):
    X, q = units(n, seed=seed), units(1, seed=seed + 100)[0]
    R, S = slowly(q, X, K, beta)
    torch.testing.assert_close(refined(X, K, beta), R.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(refined_scores(q, X, K, beta), S.float(), atol=1e-5, rtol=1e-4)


def test_hand_computed():
    """Two at right angles, and one between: r_1 = (x_1 + 0.5 * 0.6 x_3) / 1.3."""
    X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    R = refined(X, 1, 0.5)
    torch.testing.assert_close(R[0], torch.tensor([1.18, 0.24]) / 1.3)
    torch.testing.assert_close(R[2], torch.tensor([0.6, 1.2]) / 1.4)


class Collection:
    def __init__(self, items) -> None:
        self.items = items

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("codes",)
        for row in sorted(map(int, rows)):
            if row in self.items:
                yield Inputs(size=(9, 9), row=row, codes=self.items[row])


def reranked(q, items, images, **options) -> Hits:
    hits = Hits.stack([(np.array(images), np.linspace(2, 1, len(images)), None)], len(images))
    query = Query("q", NOTHING, None, NOTHING, NOTHING, q)
    component = SuperGlobal(SuperGlobal.Config(**options), torch.device("cpu"))
    return component.rerank([query], hits, Collection(items), NOTHING)


def of(rows) -> Vectors:
    return Vectors(torch.as_tensor(rows), torch.zeros(len(rows), 4))


def test_neighbours_bring_up_what_the_query_does_not_see():
    """Image 2 is like image 1, which is like the query; image 3 is as like the query as image 2, and alone."""
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, -60.0]))
    q, *others = torch.stack([angles.cos(), angles.sin()], 1)
    items = {i + 1: of(x[None]) for i, x in enumerate(others)}
    hits = reranked(of(q[None]), items, [1, 3, 2], neighbours=1, beta=0.5)
    assert hits.images[0].tolist() == [1, 2, 3]
    assert (np.diff(hits.scores[0]) <= 0).all()


def test_of_several_regions_the_best_counts_and_the_rest_of_the_list_stays():
    items = {
        5: of([[0.0, 1.0], [1.0, 0.0]]),
        6: of([[0.8, 0.6]]),
        7: of([[1.0, 0.0]]),
        8: of(np.zeros((0, 2), np.float32)),
    }
    hits = reranked(of([[1.0, 0.0]]), items, [6, 5, 8, 7], depth=3)
    assert hits.images[0].tolist() == [5, 6, 8, 7]
    assert (np.diff(hits.scores[0]) <= 0).all()
    assert np.isnan(hits.boxes).all()
    assert reranked(of([[1.0, 0.0]]), {}, []).images.tolist() == [[]]


def test_words_and_wrong_options_are_refused():
    one = SparseVectors(np.array([0]), np.ones(1, np.float32), np.array([0, 1]), 3, np.zeros((1, 4)))
    with pytest.raises(InstsearchError, match="--encoder gem"):
        reranked(one, {0: one}, [0])
    for wrong in ({"depth": 0}, {"neighbours": -1}, {"beta": -0.1}):
        with pytest.raises(UsageError):
            make_config(SuperGlobal, wrong, "rerank")


# -- the variants of GeM ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(h=st.integers(1, 6), w=st.integers(1, 6), side=st.sampled_from([1, 3, 5]), p=st.floats(0.5, 9))
def test_regional_gem_equals_the_plain_loop(h, w, side, p):
    X = image(h * 7 + w, C=2, grid=Grid.over(h, w, (60, 60))).values
    Y = regional_gem(X, side, p)
    half = side // 2
    for i in range(h):
        for j in range(w):
            around = (
                X[:, max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1].flatten(1).double()
            )
            mean = around.pow(p).mean(1).pow(1 / p)
            torch.testing.assert_close(Y[:, i, j].double(), X[:, i, j] / 2 + mean / 2, atol=1e-5, rtol=1e-4)


def test_gem_with_windows_and_the_largest_over_sizes():
    small = image(2, grid=Grid.over(3, 4, (80, 60)))
    features = FeatureMap(image(1).values, GRID, levels=(small,))
    encoder = bare(GeM, window=3, sizes="max", p=4.6)
    a, b = (
        l2(gem_pool(regional_gem(m.values, 3), torch.ones(1, *m.grid.shape), 4.6)) for m in (features, small)
    )
    torch.testing.assert_close(encoder.aggregate(features, None, None).vectors, l2(torch.maximum(a, b)))
    usual = bare(GeM, p=4.6).aggregate(features, None, None).vectors
    plain = [l2(gem_pool(m.values, torch.ones(1, *m.grid.shape), 4.6)) for m in (features, small)]
    torch.testing.assert_close(usual, l2(plain[0] + plain[1]))


def test_layers_of_before_keep_their_names():
    assert not {"window", "window_p", "sizes"} & set(config_for(GeM.Config(), "codes"))
    assert late(GeM.Config()) == {}
    assert late(GeM.Config(window=5)) == {"window": 5, "window-p": 2.5}
    for wrong in ({"window": 2}, {"window": 0}, {"window": 3, "window_p": 0.0}, {"sizes": "mean"}):
        with pytest.raises(UsageError):
            make_config(GeM, wrong, "encoder")
