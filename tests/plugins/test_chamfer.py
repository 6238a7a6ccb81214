"""Reranker `chamfer`: likenesses against plain loops, transport against what it must keep to, boxes of what matched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Hits, Image, Inputs, Keypoints, Query
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_plugins.numeric.chamfer import Background, chamfer, similarities
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.transport import transported
from instsearch_plugins.rerankers import chamfer as module
from instsearch_plugins.rerankers.chamfer import Chamfer

NOTHING: Any = None
SIZE = (80, 60)


def rows(n, D=4, seed=0):
    return torch.rand(n, D, generator=torch.Generator().manual_seed(seed)) - 0.2


# -- transport --------------------------------------------------------------------------------------------


def slowly(S, z, t, iterations):
    """Sinkhorn of one picture, by plain loops."""
    m, n = len(S), len(S[0])
    K = [[math.exp(t * (S[i][j] if i < m and j < n else z)) for j in range(n + 1)] for i in range(m + 1)]
    a, b = [1.0] * m + [float(n)], [1.0] * n + [float(m)]
    v = [1.0] * (n + 1)
    for _ in range(iterations):
        u = [a[i] / sum(K[i][j] * v[j] for j in range(n + 1)) for i in range(m + 1)]
        v = [b[j] / sum(K[i][j] * u[i] for i in range(m + 1)) for j in range(n + 1)]
    return [[u[i] * K[i][j] * v[j] for j in range(n)] for i in range(m)]


@given(m=st.integers(1, 5), counts=st.lists(st.integers(1, 6), min_size=1, max_size=3), z=st.floats(-0.5, 1))
def test_transport_equals_the_plain_loop(m, counts, z):
    Q = l2(rows(m))
    X = [rows(n, seed=k + 1) for k, n in enumerate(counts)]
    S = similarities(Q, X)
    P = transported(S, (S > -1).any(1), z, 8.0, 5)
    for k, x in enumerate(X):
        expected = slowly((Q @ l2(x).T).double().tolist(), z, 8.0, 5)
        torch.testing.assert_close(P[k, :, : len(x)], torch.tensor(expected), atol=1e-5, rtol=1e-3)
        assert not P[k, :, len(x) :].any()


@given(m=st.integers(1, 6), n=st.integers(1, 6), seed=st.integers(0, 99))
def test_every_feature_gives_and_takes_one_at_most(m, n, seed):
    S = torch.rand(1, m, n, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    P = transported(S, torch.ones(1, n, dtype=torch.bool), 0.3, 10.0, 200)
    assert (P >= 0).all()
    assert (P.sum(1) <= 1 + 1e-3).all()
    assert (P.sum(2) <= 1 + 1e-3).all()


@given(dustbin=st.floats(-1, 1), temperature=st.floats(1, 50), seed=st.integers(0, 99))
def test_every_dustbin_and_temperature_gives_numbers(dustbin, temperature, seed):
    S = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    P = transported(S, torch.ones(2, 5, dtype=torch.bool), dustbin, temperature)
    assert P.isfinite().all()
    assert (P >= 0).all()


def test_one_feature_of_the_picture_is_not_all_of_the_query():
    """The first picture has one feature that both of the query are like, the second has each of the two."""
    Q = l2(torch.tensor([[1.0, 0.3], [1.0, -0.3]]))
    S = similarities(Q, [torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), Q])
    one, both = chamfer(transported(S, (S > -1).any(1), 0.5, 40.0)).tolist()
    assert chamfer(S)[0] > 0.95
    assert one < 0.55 < 0.9 < both


# -- likeness ---------------------------------------------------------------------------------------------


def test_hand_computed():
    """max(0.6, 0) and max(0.8, 1); lengths do not count, and zeros match nothing."""
    Q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    S = similarities(Q, [torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.1]]), torch.zeros(1, 2)])
    torch.testing.assert_close(S[0], torch.tensor([[0.6, -1, 0], [0.8, -1, 1]]))
    torch.testing.assert_close(chamfer(S), torch.tensor([0.8, -1.0]))


# -- decorrelated -----------------------------------------------------------------------------------------


def test_background_by_hand():
    """mu = (1/2, 0), S = diag(1/3, 0) + 2 I / 6: of (0, 1) - mu, S^-1 makes (-3/4, 3)."""
    X = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    A, b = Background.of(X).detectors(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(A, torch.tensor([[-0.75, 3.0]]) / 3.375)
    torch.testing.assert_close(b, torch.tensor([-0.375 / 3.375]))


@given(n=st.integers(2, 30), m=st.integers(1, 4), seed=st.integers(0, 99))
def test_detectors_equal_the_plain_formula(n, m, seed):
    X, Q = l2(rows(n, 5, seed)), l2(rows(m, 5, seed + 1))
    mu = X.numpy().astype(float).mean(0)
    S = np.cov(X.numpy().astype(float).T)
    S += np.eye(5) * 2 * max(S.diagonal().mean(), 1e-9)
    A, b = Background.of(X).detectors(Q)
    for q, a, own in zip(Q.numpy().astype(float), A.numpy(), b.numpy(), strict=True):
        w = np.linalg.solve(S, q - mu)
        np.testing.assert_allclose(a, w / (w @ (q - mu)), rtol=1e-3, atol=1e-3 * np.abs(a).max())
        np.testing.assert_allclose(a @ q - own, 1, atol=1e-3)
        np.testing.assert_allclose(a @ mu - own, 0, atol=1e-3)


def test_a_background_of_one_picture_gives_numbers():
    A, b = Background.of(l2(torch.ones(8, 3))).detectors(l2(torch.ones(1, 3)))
    assert A.isfinite().all()
    assert b.isfinite().all()


def test_what_many_hits_have_counts_for_less():
    """The query is like one picture in what others vary in, and as like the other in what is rare."""
    eye, generator = torch.eye(8), torch.Generator().manual_seed(0)
    usual, rare, noise = eye[0], eye[1], torch.randn(400, 8, generator=generator) / 4

    def of(*cells):
        return FeatureMap(torch.stack(cells).T.reshape(8, 1, -1), Grid.over(1, len(cells), SIZE))

    query = of(usual + rare)
    items = {0: of(usual, eye[2]), 1: of(rare, eye[2])}
    items |= {i: of(usual + noise[2 * i], noise[2 * i + 1] - usual) for i in range(2, 120)}

    def score(row, **options):
        hits = reranked(query, items, list(items), **options)
        return float(hits.scores[0][hits.images[0].tolist().index(row)])

    assert score(0, decorrelated=False) == score(1, decorrelated=False) == pytest.approx(0.5**0.5)
    assert score(0) + 0.2 < score(1)
    few = {i: items[i] for i in range(50)}  # no background of these
    assert (
        reranked(query, few, list(few)).scores.tolist()
        == reranked(query, few, list(few), decorrelated=False).scores.tolist()
    )


class Collection:
    def __init__(self, items) -> None:
        self.items = items

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("features",)
        for row in sorted(map(int, rows)):
            if row in self.items:
                yield Inputs(size=SIZE, row=row, features=self.items[row])


def reranked(asked, items, images, box=None, **options) -> Hits:
    hits = Hits.stack([(np.array(images), np.linspace(2, 1, len(images)), None)], len(images))
    query = Query("q", Image(np.zeros((1, 1, 3), np.uint8), SIZE), box, asked, asked, NOTHING)
    component = Chamfer(Chamfer.Config(**options), torch.device("cpu"))
    return component.rerank([query], hits, Collection(items), NOTHING)


def fmap(seed, h=3, w=4, levels=()):
    return FeatureMap(rows(h * w, 5, seed).T.reshape(5, h, w), Grid.over(h, w, SIZE), levels=tuple(levels))


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6),
    box=st.sampled_from([None, (10.0, 5.0, 50.0, 40.0)]),
    levels=st.booleans(),
)
def test_equals_the_plain_loop(shapes, box, levels):
    def made(seed, h, w):
        return fmap(seed, h, w, [fmap(seed + 50, 2, 2)] if levels else [])

    query, items = made(99, 3, 4), {i: made(i, h, w) for i, (h, w) in enumerate(shapes)}

    def cells(features, box):
        found = []
        for size in (features, *features.levels):
            inside = np.ones(size.grid.shape, bool) if box is None else size.grid.mask(box)
            found += [size.values[:, i, j] for i, j in zip(*np.nonzero(inside), strict=True)]
        return [x / x.norm() for x in found]

    asked = cells(query, box)
    score = {
        i: sum(max(float(q @ x) for x in cells(f, None)) for q in asked) / len(asked)
        for i, f in items.items()
    }
    hits = reranked(query, items, list(items), box)
    expected = sorted(items, key=lambda i: (-round(score[i], 5), i))
    np.testing.assert_allclose(hits.scores[0], [score[i] for i in expected], atol=1e-5)
    groups = [
        len(list(module._groups(Collection(items).inputs(("features",), items), n))) for n in (1, 10**6)
    ]
    assert groups == [len(items), 1]


def test_keypoints_and_the_box_of_what_matched():
    """The query's two keypoints are at (20, 10) and (40, 30) of image 1, all else is unlike them."""
    grid, eye = Grid.nominal(SIZE), np.eye(4, dtype=np.float32)

    def points(places, values):
        geometry = np.array([(x, y, 3, 0) for x, y in places], np.float32).reshape(-1, 4)
        return Keypoints(values, geometry, grid)

    query = points([(5, 5), (9, 9), (70, 50)], eye[[0, 1, 2]])
    items = {
        1: points([(20, 10), (40, 30), (75, 55)], eye[[0, 1, 3]]),
        2: points([(20, 10)], eye[[3]]),
        3: points([], eye[:0]),
    }
    hits = reranked(query, items, [2, 3, 1], (0, 0, 10, 10), scale=1.0)
    assert hits.images[0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(hits.scores[0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hits.boxes[0, 0], [20, 10, 40, 30], atol=1e-4)
    assert np.isnan(hits.boxes[0, 1:]).all()


def test_the_strongest_features_alone_and_a_query_of_none():
    values = torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # the second cell is the stronger
    query = FeatureMap(values.T.reshape(2, 1, 2), Grid.over(1, 2, SIZE))
    items = {4: FeatureMap(values[:1].T.reshape(2, 1, 1), Grid.over(1, 1, SIZE))}
    np.testing.assert_allclose(reranked(query, items, [4]).scores, [[0.5]])
    np.testing.assert_allclose(reranked(query, items, [4], features=1).scores, [[0.0]])
    blank = FeatureMap(torch.zeros(2, 1, 2), query.grid)
    assert reranked(blank, items, [4]).scores.tolist() == [[0.0]]
    assert reranked(query, {4: blank}, [4], transport=True).scores.tolist() == [[0.0]]


def test_wrong_options_are_refused():
    for wrong in ({"depth": 0}, {"features": -1}, {"dustbin": 2.0}, {"temperature": 0.0}, {"iterations": 0}):
        with pytest.raises(UsageError):
            make_config(Chamfer, wrong, "rerank")
