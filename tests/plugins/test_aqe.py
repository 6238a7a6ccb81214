from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import Hits, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.rerankers.aqe import AverageQueryExpansion, expanded

NAN = np.full(4, np.nan, np.float32)


def dense(rows, boxes=None) -> Vectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    return Vectors(rows, torch.zeros(len(rows), 4) if boxes is None else torch.tensor(boxes))


def sparse(rows, boxes=None) -> SparseVectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    row, word = rows.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(rows))
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    boxes = torch.zeros(len(rows), 4) if boxes is None else torch.tensor(boxes)
    return SparseVectors(word, rows[row, word], indptr, rows.shape[1], boxes)


def to_dense(codes) -> np.ndarray:
    if isinstance(codes, Vectors):
        return codes.vectors.numpy()
    out = np.zeros((len(codes.indptr) - 1, codes.dim), np.float32)
    for row in range(len(out)):
        at = slice(codes.indptr[row], codes.indptr[row + 1])
        assert (np.diff(codes.indices[at]) > 0).all()
        out[row, codes.indices[at]] = codes.data[at]
    return out


class Collection:
    def __init__(self, codes) -> None:
        self.codes, self.asked = codes, []

    def read(self, kind, row):
        assert kind == "codes"
        self.asked.append(row)
        return self.codes[row]


def query(codes, exclude=()) -> Query:
    nothing: Any = None
    return Query("q", nothing, None, nothing, nothing, codes, frozenset(exclude))


def asked_again(queries, hits, data, depth=10):
    """The codes that the reranker asks again with, and what it makes of the answer."""
    seen: dict[str, Any] = {}
    answer = Hits.stack([(np.array([3]), np.ones(1), None)] * len(queries), hits.images.shape[1])

    def search(codes, k):
        seen["codes"], seen["k"] = codes, k
        return answer

    reranker = AverageQueryExpansion(AverageQueryExpansion.Config(depth), torch.device("cpu"))
    assert reranker.rerank(queries, hits, data, search) is answer
    assert seen["k"] == hits.images.shape[1]
    return [to_dense(c) for c in seen["codes"]]


def ranked(*images, k=None, boxes=None) -> Hits:
    n = len(images)
    return Hits.stack([(np.array(images), np.linspace(1, 0.5, n), boxes)], k or n)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_hand_computed(kind):
    """(1, 0, 0) + (0, 1, 0) + (1, 1, 1) = (2, 2, 1), of length 3."""
    data = Collection([kind([[0, 1, 0]]), kind([[1, 1, 1]]), kind([[0, 0, 9]])])
    [q] = asked_again([query(kind([[1, 0, 0]]))], ranked(1, 0, 2), data, depth=2)
    np.testing.assert_allclose(q, [[2 / 3, 2 / 3, 1 / 3]], rtol=1e-6)
    assert data.asked == [1, 0]


@pytest.mark.parametrize("kind", [dense, sparse])
def test_equals_the_plain_sum(kind):
    rng = np.random.default_rng(0)
    x = rng.random((30, 50)) * (rng.random((30, 50)) < 0.3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    data = Collection([kind(row[None]) for row in x])
    q = asked_again([query(kind(x[[i]])) for i in (0, 1)], Hits.stack([
        (np.arange(5, 25), np.ones(20), None), (np.arange(7, 10), np.ones(3), None)
    ], 20), data)  # fmt: skip
    for got, own, top in ((q[0], x[0], x[5:15]), (q[1], x[1], x[7:10])):
        total = own + top.sum(0)
        np.testing.assert_allclose(got[0], total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_excluded_images_do_not_enter_and_do_not_count(kind):
    data = Collection([kind([[0, 1, 0]]), kind([[1, 1, 1]]), kind([[0, 0, 9]])])
    [q] = asked_again([query(kind([[1, 0, 0]]), {2})], ranked(2, 1, 0), data, depth=1)
    np.testing.assert_allclose(q, np.array([[2, 1, 1]]) / np.sqrt(6), rtol=1e-6)
    assert 2 not in data.asked


@pytest.mark.parametrize("kind", [dense, sparse])
def test_the_row_with_the_box_of_the_hit_is_taken(kind):
    boxes = [[0.0, 0, 9, 9], [1.0, 1, 5, 5]]
    data = Collection([kind([[0, 1, 0], [0, 0, 1]], boxes), kind(np.zeros((0, 3)))])
    first = asked_again([query(kind([[1, 0, 0]]))], ranked(0, 1), data)[0]
    np.testing.assert_allclose(first, np.array([[1, 1, 0]]) / np.sqrt(2), rtol=1e-6)
    hits = ranked(0, 1, boxes=np.stack([np.float32(boxes[1]), NAN]))
    second = asked_again([query(kind([[1, 0, 0]]))], hits, data)[0]
    np.testing.assert_allclose(second, np.array([[1, 0, 1]]) / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_without_hits_the_query_is_asked_again(kind):
    [q] = asked_again([query(kind([[0.6, 0.8, 0]]))], ranked(k=4), Collection([]))
    np.testing.assert_allclose(q, [[0.6, 0.8, 0]], rtol=1e-6)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_every_row_of_a_query_is_expanded(kind):
    q = to_dense(expanded(kind([[1, 0, 0], [0, 0, 0], [0, 0, 1]]), [(kind([[0, 1, 0]]), 0)]))
    r = np.sqrt(0.5)
    np.testing.assert_allclose(q, [[r, r, 0], [0, 1, 0], [0, r, r]], rtol=1e-6)
    assert to_dense(expanded(kind(np.zeros((0, 3))), [])).shape == (0, 3)


def test_each_vector_of_a_query_takes_what_is_most_like_it_of_each_hit():
    rng = np.random.default_rng(3)
    q, hits = rng.normal(size=(3, 8)), rng.normal(size=(4, 6, 8))
    box = np.float32([[1, 1, 5, 5]])  # of no row: the first would be the hit's
    found = ranked(*range(4), boxes=np.repeat(box, 4, axis=0))
    [got] = asked_again([query(dense(q))], found, Collection([dense(x) for x in hits]))
    for one, result in zip(q, got, strict=True):
        total = one + sum(x[max(range(6), key=lambda j: float(x[j] @ one))] for x in hits)
        np.testing.assert_allclose(result, total / np.linalg.norm(total), atol=1e-5)
    without = Collection([dense(np.zeros((0, 8)))])
    [alone] = asked_again([query(dense(q))], ranked(0), without)
    np.testing.assert_allclose(alone, q / np.linalg.norm(q, axis=1, keepdims=True), atol=1e-6)


def test_codes_of_two_kinds_do_not_add_up():
    for a, b in ((dense, sparse), (sparse, dense)):
        with pytest.raises(InstsearchError, match="do not add up"):
            expanded(a([[1, 0]]), [(b([[1, 0]]), 0)])
