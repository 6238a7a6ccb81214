"""Encoder and searcher `asmk`: codes and scores against plain loops over features and words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Keypoints, Query, Regions, SparseVectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.storage import to_item
from instsearch_cli.testing import EncoderContract
from instsearch_formats.declared import check
from instsearch_plugins.encoders.asmk import ASMK
from instsearch_plugins.numeric.asmk import aggregated_residuals, nearest_words, rotation, selected
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.searchers.asmk import SelectiveMatch, bits_of, postings_of

NOTHING: Any = None
CPU = torch.device("cpu")
SIZE = (80, 60)
QUIET: Any = type("Quiet", (), {"start": lambda *a, **k: None, "advance": lambda *a: None})()


def some(n, D=6, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def encoder(K=5, D=6, **options):
    made = ASMK(ASMK.Config(whiten=False, **options), CPU)
    idf = torch.linspace(0.5, 2, K)
    made.load({"centroids": l2(some(K, D, 7)).numpy(), "idf": idf.numpy(), "images": np.int64(3)})
    return made


def points(n, seed=0, D=6):
    rng = np.random.default_rng(seed)
    geometry = np.c_[rng.uniform(0, 80, n), rng.uniform(0, 60, n), np.ones(n), np.zeros(n)].astype(np.float32)
    return Keypoints(some(n, D, seed).numpy(), geometry, Grid.nominal(SIZE))


def slowly(features, centroids, binary, assign=1, inside=None):
    """V_c of each word, by plain loops: {word: unit vector}."""
    sums: dict[int, torch.Tensor] = {}
    for i, x in enumerate(l2(torch.as_tensor(features.values)).double()):
        if inside is not None and not inside[i]:
            continue
        near = sorted(range(len(centroids)), key=lambda k: float((x - centroids[k]).norm()))[:assign]
        for k in near:
            sums[k] = sums.get(k, torch.zeros(len(x)).double()) + x - centroids[k]
    if binary:
        R = rotation(6).double()
        return {k: torch.where(R @ v > 0, 1.0, -1.0).double() / len(v) ** 0.5 for k, v in sums.items()}
    return {k: v / v.norm() for k, v in sums.items()}


def kernel(X, Y, alpha, tau, w):
    """K(X, Y) = gamma(X) gamma(Y) sum_c w_c sigma(<X_c, Y_c>)."""
    gamma = [sum(w[c] for c in V) ** -0.5 for V in (X, Y)]
    total = 0.0
    for c in set(X) & set(Y):
        u = float(X[c] @ Y[c])
        total += w[c] * np.sign(u) * abs(u) ** alpha if u > tau else 0.0
    return gamma[0] * gamma[1] * total


class Collection:
    """Images from row 3 on, with their codes as storage has them."""

    def __init__(self, encoder, codes, per_block=2) -> None:
        self.encoder, self.codes, self.per_block = encoder, codes, per_block
        self.span = range(3, 3 + len(codes))
        self.images = np.arange(3, 3 + len(codes))
        self.folder: Any = None

    def scratch(self):
        return self.folder

    def blocks(self, kind):
        assert kind == "codes"
        for a in range(0, len(self.codes), self.per_block):
            items = [to_item("csr", c) for c in self.codes[a : a + self.per_block]]
            nnz = np.concatenate([np.diff(item["indptr"]) for item in items])
            yield {
                "start": 3 + a,
                "stop": 3 + a + len(items),
                "rows": np.concatenate([[0], np.cumsum([len(item["indptr"]) - 1 for item in items])]),
                "indptr": np.concatenate([[0], nnz.cumsum()]),
                "dim": items[0]["dim"],
                **{n: np.concatenate([item[n] for item in items]) for n in ("indices", "data", "boxes")},
            }


def searched(encoder, codes, asked, tmp_path, k=9, exclude=(), **options):
    data = Collection(encoder, codes)
    data.folder = tmp_path
    state = SelectiveMatch(SelectiveMatch.Config(), None).fit(data, QUIET)
    check(state, SelectiveMatch.learns, n=len(codes), start=3)
    searcher = SelectiveMatch(SelectiveMatch.Config(**options), None)
    searcher.load(state)
    query = Query("q", NOTHING, None, NOTHING, NOTHING, asked, frozenset(exclude))
    return searcher.search([query], data, k)


class TestASMK(EncoderContract):
    component = ASMK

    def make_fitted(self):
        return encoder(D=16)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("alpha", "tau", "idf"), [(3.0, 0.0, False), (2.0, 0.25, True)])
def test_scores_are_the_papers_kernel(binary, alpha, tau, idf, tmp_path):
    made = encoder(binary=binary, idf=idf, assign=2)
    w = made._learnt["idf"].tolist() if idf else [1.0] * 5
    c = made._learnt["centroids"].double()
    images = [points(n, seed) for seed, n in enumerate((9, 1, 12, 4), 1)]
    query, box = points(10, 30), (0.0, 0.0, 60.0, 60.0)
    codes = [made.aggregate(image, None, None) for image in images]
    asked = made.aggregate_query(query, BoxWeight(box))
    hits = searched(made, codes, asked, tmp_path, alpha=alpha, tau=tau)
    Q = slowly(query, c, binary, 2, query.geometry[:, 0] < 60)
    scores = {i + 3: kernel(Q, slowly(f, c, binary), alpha, tau, w) for i, f in enumerate(images)}
    expected = sorted((row for row in scores if scores[row] > 0), key=lambda row: -scores[row])
    n = hits.valid(0)
    assert hits.images[0, :n].tolist() == expected
    np.testing.assert_allclose(hits.scores[0, :n], [scores[row] for row in expected], rtol=4e-3)
    without = searched(made, codes, asked, tmp_path, alpha=alpha, tau=tau, exclude=expected[:1])
    assert without.images[0, : n - 1].tolist() == expected[1:]


def test_a_picture_is_all_like_itself_and_products_are_alpha_one(tmp_path):
    for binary in (True, False):
        made = encoder(binary=binary, assign=1)
        images = [points(8, 1), points(8, 2)]
        codes = [made.aggregate(image, None, None) for image in images]
        hits = searched(made, codes, codes[0], tmp_path, alpha=1.0, tau=-1.0)
        assert hits.images[0, 0] == 3
        np.testing.assert_allclose(hits.scores[0, 0], 1, rtol=2e-3)
        a, b = (np.zeros(30, np.float32) for _ in codes)
        a[codes[0].indices], b[codes[1].indices] = codes[0].data, codes[1].data
        if hits.valid(0) > 1:
            np.testing.assert_allclose(hits.scores[0, 1], a @ b, atol=2e-3)
        else:
            assert a @ b <= 2e-3


def test_maps_regions_and_weights():
    made = encoder(binary=False)
    values = some(12, seed=4).T.reshape(6, 3, 4)
    features = FeatureMap(values, Grid.over(3, 4, SIZE))
    left = torch.tensor([[0.0, 0.0, 40.0, 60.0], [79.0, 59.0, 80.0, 60.0]])
    codes = made.aggregate(features, None, Regions(left, torch.ones(2)))
    cells = FeatureMap(values[:, :, :2], Grid.over(3, 2, (40, 60)))
    alone = made.aggregate(cells, None, None)
    first = slice(0, int(codes.indptr[1]))
    np.testing.assert_array_equal(codes.indices[first], alone.indices)
    np.testing.assert_allclose(codes.data[first], alone.data, atol=1e-6)
    assert len(codes.indptr) == 3
    in_box = made.aggregate_query(features, BoxWeight((0.0, 0.0, 40.0, 60.0)))
    assert in_box.dim == codes.dim == 30
    blank = made.aggregate(FeatureMap(torch.zeros(6, 2, 2), Grid.over(2, 2, SIZE)), None, None)
    assert len(blank.indices) == 0
    assert blank.indptr.tolist() == [0, 0]


@given(n=st.integers(0, 8), k=st.integers(1, 7), M=st.integers(1, 3), seed=st.integers(0, 99))
def test_aggregated_residuals_equal_the_plain_loop(n, k, M, seed):
    x, c = some(n, 4, seed), some(5, 4, seed + 1)
    alpha = torch.rand(M, n, generator=torch.Generator().manual_seed(seed)).sub(0.4).clamp(min=0)
    words = nearest_words(x, c, k)
    assert words.shape == (n, min(k, 5))
    row, word, V = aggregated_residuals(x, words, alpha, c)
    sums: dict[tuple[int, int], torch.Tensor] = {}
    for r in range(M):
        for i in range(n):
            for w in words[i].tolist():
                if alpha[r, i] > 0:
                    sums[r, w] = sums.get((r, w), torch.zeros(4)) + alpha[r, i] * (x[i] - c[w])
    assert list(zip(row.tolist(), word.tolist(), strict=True)) == sorted(sums)
    for key, v in zip(sorted(sums), V, strict=True):
        torch.testing.assert_close(v, l2(sums[key]), atol=1e-4, rtol=1e-4)


def test_residuals_of_thousands_of_regions_are_added_up_some_regions_at_a_time(monkeypatch):
    x, c, alpha = some(6, 4, 0), some(5, 4, 1), torch.rand(7, 6).sub(0.4).clamp(min=0)
    words = nearest_words(x, c, 2)
    wanted, counted = aggregated_residuals(x, words, alpha, c), []
    unique = torch.unique
    monkeypatch.setattr("instsearch_plugins.numeric.asmk.HELD", 48)
    monkeypatch.setattr(torch, "unique", lambda key, **more: counted.append(len(key)) or unique(key, **more))
    for found, expected in zip(aggregated_residuals(x, words, alpha, c), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert counted == [2 * int((part > 0).sum()) for part in alpha.split(2)]


@given(st.integers(1, 130), st.integers(0, 5), st.integers(0, 99))
def test_bits_differ_where_signs_do(D, p, seed):
    a, b = some(p, D, seed).numpy(), some(p, D, seed + 1).numpy()
    h = np.bitwise_count(bits_of(a) ^ bits_of(b)).sum(axis=1)
    assert h.tolist() == ((a > 0) != (b > 0)).sum(axis=1).tolist()


def test_the_rotation_keeps_angles_and_can_be_left_out():
    R = rotation(7)
    torch.testing.assert_close(R @ R.T, torch.eye(7), atol=1e-5, rtol=0)
    image = points(6, 3)
    plain = encoder(rotate=False).aggregate(image, None, None)
    vectors = encoder(binary=False).aggregate(image, None, None)
    assert ((plain.data > 0) == (vectors.data > 0)).all()


def test_selectivity_and_postings_by_hand():
    u = np.array([-0.5, 0.0, 0.5, 1.0], np.float32)
    assert selected(u, 3, 0).tolist() == [0, 0, 0.125, 1]
    assert selected(u, 3, -1).tolist() == [-0.125, 0, 0.125, 1]
    found = postings_of(np.array([0, 3, 3, 4]), np.array([0, 1, 5, 2]), np.array([3.0, 4, 2, 1]), 2)
    assert found.row.tolist() == [0, 0, 2]
    assert found.word.tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.unit, [[0.6, 0.8], [0, 1], [1, 0]])
    np.testing.assert_allclose(found.length, [5, 2, 1])


def test_what_does_not_fit_is_said(tmp_path):
    codes = SparseVectors(np.array([0]), np.ones(1, np.float32), np.array([0, 1]), 3, np.zeros((1, 4)))
    with pytest.raises(InstsearchError, match="--encoder asmk"):
        searched(NOTHING, [codes], codes, tmp_path)
    with pytest.raises(UsageError, match="vocabulary=own"):
        ASMK(ASMK.Config(vocabulary="included"), CPU).aggregate(points(3), None, None)
    with pytest.raises(UsageError, match=r"of SIFT.*vocabulary=own"):
        ASMK(ASMK.Config(vocabulary="included"), CPU).aggregate(points(3, D=128), None, None)
    for wrong in ({"words": 0}, {"dims": -1}, {"assign": 0}):
        with pytest.raises(UsageError):
            make_config(ASMK, wrong, "encoder")
    for wrong in ({"alpha": 0.0}, {"tau": 1.0}):
        with pytest.raises(UsageError):
            make_config(SelectiveMatch, wrong, "searcher")
