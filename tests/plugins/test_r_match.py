from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Hits, Inputs, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_plugins.rerankers.r_match import RMatch

NOTHING: Any = None
NAN = np.full(4, np.nan, np.float32)


def codes(rows, first=0) -> Vectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    return Vectors(rows, first + torch.arange(4.0 * len(rows)).reshape(-1, 4))


class Collection:
    def __init__(self, items: dict[int, Any]) -> None:
        self.items = items

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("codes",)
        for row in sorted(map(int, rows)):
            if row in self.items:
                yield Inputs(size=(9, 9), row=row, codes=self.items[row])


def rematched(q, items, images, depth=100, boxes=True) -> Hits:
    n = len(images)
    where = np.full((n, 4), 99.0) if boxes else None
    hits = Hits.stack([(np.array(images), np.linspace(2, 1, n), where)], n + 1)
    query = Query("q", NOTHING, None, NOTHING, NOTHING, q)
    return RMatch(RMatch.Config(depth), torch.device("cpu")).rerank([query], hits, Collection(items), NOTHING)


def test_hand_computed():
    """Image 4: 0.6 + 0.8; image 7: 1 + 0; image 5: 0.8 + 1, from its regions 0 and 2; the box of the best, 2."""
    items = {4: codes([[0.6, 0.8]]), 7: codes([[1, 0]]), 5: codes([[0.8, 0.6], [-1, 0], [0, 1]])}
    hits = rematched(codes([[1, 0], [0, 1]]), items, [7, 4, 5])
    assert hits.images[0].tolist() == [5, 4, 7, -1]
    np.testing.assert_allclose(hits.scores[0, :3], [1.8, 1.4, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(hits.boxes[0], [[8, 9, 10, 11], [0, 1, 2, 3], [0, 1, 2, 3], NAN])
    without = rematched(codes([[1, 0], [0, 1]]), items, [7, 4, 5], boxes=False)
    np.testing.assert_array_equal(without.images, hits.images)
    assert np.isnan(without.boxes).all()


values = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
regions = st.lists(st.tuples(values, values, values), min_size=1, max_size=3)


@given(q=regions, images=st.lists(regions, min_size=1, max_size=6), depth=st.integers(1, 8))
def test_equals_the_plain_loop(q, images, depth):
    items = {i: codes(rows) for i, rows in enumerate(images)}
    hits = rematched(codes(q), items, list(items), depth)
    n, top = len(items), min(depth, len(items))
    score = [sum(max(float(np.dot(x, y)) for y in rows) for x in q) for rows in images]
    expected = sorted(range(top), key=lambda i: (-score[i], i)) + list(range(top, n))
    assert hits.images[0, :n].tolist() == expected
    assert (np.diff(hits.scores[0, :n]) <= 0).all()
    between = np.diff(hits.scores[0, :top])
    np.testing.assert_allclose(between, np.diff([score[i] for i in expected[:top]]), atol=1e-5)
    if top < n:
        np.testing.assert_array_equal(hits.scores[0, top:n], np.linspace(2, 1, n)[top:].astype(np.float32))


def test_an_image_without_regions_or_without_codes_matches_nothing():
    items = {1: codes(np.zeros((0, 2))), 2: codes([[0.1, 0]])}
    hits = rematched(codes([[1, 0]]), items, [3, 1, 2])
    assert hits.images[0].tolist() == [2, 3, 1, -1]
    np.testing.assert_allclose(hits.scores[0, :3], [0.1, 0, 0], rtol=1e-6)


def test_no_hits():
    assert rematched(codes([[1, 0]]), {}, []).images.tolist() == [[-1]]


def test_sparse_codes_match_too():
    one = SparseVectors(
        torch.tensor([0, 2]), torch.tensor([0.6, 0.8]), torch.tensor([0, 2]), 3, torch.zeros(1, 4)
    )
    hits = rematched(one, {0: one}, [0])
    np.testing.assert_allclose(hits.scores[0, 0], 1.0, rtol=1e-6)
    with pytest.raises(InstsearchError, match="cannot be compared"):
        rematched(codes([[1, 0, 0]]), {0: one}, [0])


def test_depth_is_checked():
    with pytest.raises(UsageError, match="depth"):
        make_config(RMatch, {"depth": 0}, "rerank")
