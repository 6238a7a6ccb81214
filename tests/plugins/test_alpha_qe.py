from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import Hits, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import RerankerContract
from instsearch_plugins.rerankers.alpha_qe import AlphaQueryExpansion, weighted
from instsearch_plugins.rerankers.aqe import expanded

NOTHING: Any = None


def dense(rows) -> Vectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    return Vectors(rows, torch.zeros(len(rows), 4))


def sparse(rows) -> SparseVectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    row, word = rows.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(rows))
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return SparseVectors(word, rows[row, word], indptr, rows.shape[1], torch.zeros(len(rows), 4))


def to_dense(codes) -> np.ndarray:
    if isinstance(codes, Vectors):
        return codes.vectors.numpy()
    out = np.zeros((len(codes.indptr) - 1, codes.dim), np.float32)
    for row in range(len(out)):
        at = slice(codes.indptr[row], codes.indptr[row + 1])
        out[row, codes.indices[at]] = codes.data[at]
    return out


class Collection:
    def __init__(self, codes) -> None:
        self.codes = codes

    def read(self, kind, row):
        assert kind == "codes"
        return self.codes[row]


def asked_again(query, data, images, **options):
    """The codes that the reranker asks again with. The hits' own scores are nonsense: they are not used."""
    hits = Hits.stack([(np.array(images), np.linspace(90, 70, len(images)), None)], len(images))
    seen: list[Any] = []

    def search(codes, k):
        assert k == len(images)
        seen.extend(codes)
        return hits

    reranker = AlphaQueryExpansion(AlphaQueryExpansion.Config(**options), torch.device("cpu"))
    assert reranker.rerank([query], hits, data, search) is hits
    return to_dense(seen[0])


def query(codes, exclude=()) -> Query:
    return Query("q", NOTHING, None, NOTHING, NOTHING, codes, frozenset(exclude))


@pytest.mark.parametrize("kind", [dense, sparse])
def test_card(kind):
    data = Collection([kind([[1, 0]]), kind([[0.8, 0.6]]), kind([[0, 1]])])
    q = asked_again(query(kind([[0.6, 0.8]])), data, [1, 2, 0], depth=2)
    np.testing.assert_allclose(q, [[0.578737, 0.815514]], atol=1e-6)
    excluded = asked_again(query(kind([[0.6, 0.8]]), {0}), data, [0, 1, 2], depth=2)
    np.testing.assert_allclose(excluded, q, atol=1e-6)


@pytest.mark.parametrize("kind", [dense, sparse])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_equals_the_plain_sum(kind, alpha):
    """Each row of the query with its own weights; hits that are unlike it count nothing, unless alpha is 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 20)) * (rng.random((9, 20)) < 0.4)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    got = to_dense(weighted(kind(x[:2]), [(kind(row[None]), 0) for row in x[2:]], alpha))
    assert (x[:2] @ x[2:].T < 0).any()
    for q, result in zip(x[:2], got, strict=True):
        total = q + sum(max(float(q @ v), 0.0) ** alpha * v for v in x[2:])
        np.testing.assert_allclose(result, total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_alpha_of_zero_is_aqe(kind):
    x = np.abs(np.random.default_rng(0).normal(size=(5, 4)))
    hits = [(kind(row[None]), 0) for row in x[1:]]
    np.testing.assert_allclose(
        to_dense(weighted(kind(x[:1]), hits, 0)), to_dense(expanded(kind(x[:1]), hits)), atol=1e-6
    )


def test_each_vector_of_a_query_takes_what_is_most_like_it_of_each_hit():
    rng = np.random.default_rng(3)
    q, hits = rng.normal(size=(3, 8)), rng.normal(size=(4, 6, 8))
    got = asked_again(query(dense(q)), Collection([dense(x) for x in hits]), range(4), alpha=2.0)
    for one, result in zip(q, got, strict=True):
        best = [max(x, key=lambda v: float(v @ one)) for x in hits]
        total = one + sum(max(float(v @ one), 0.0) ** 2 * v for v in best)
        np.testing.assert_allclose(result, total / np.linalg.norm(total), atol=1e-5)


@pytest.mark.parametrize("kind", [dense, sparse])
def test_without_hits_and_with_empty_rows(kind):
    np.testing.assert_allclose(to_dense(weighted(kind([[3, 4]]), [], 3)), [[0.6, 0.8]], rtol=1e-6)
    empty = weighted(kind([[0, 0], [1, 0]]), [(kind([[0, 0]]), 0)], 3)
    np.testing.assert_array_equal(to_dense(empty), [[0, 0], [1, 0]])


def test_errors():
    for a, b in ((dense, sparse), (sparse, dense)):
        with pytest.raises(InstsearchError, match="do not add up"):
            weighted(a([[1, 0]]), [(b([[1, 0]]), 0)], 3)
    with pytest.raises(UsageError, match="negative"):
        make_config(AlphaQueryExpansion, {"alpha": -1.0}, "rerank")


class ContractData:
    def read(self, kind, row):
        return dense(np.eye(4)[[row % 4]])


class TestContract(RerankerContract):
    component = AlphaQueryExpansion

    def make(self):
        reranker = super().make()
        rerank = reranker.rerank
        reranker.rerank = lambda queries, hits, data, search: rerank(queries, hits, ContractData(), search)
        return reranker
