from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Query, SparseVectors
from instsearch_cli.errors import InstsearchError
from instsearch_cli.progress import Quiet
from instsearch_plugins.numeric import ranking
from instsearch_plugins.searchers import inverted
from instsearch_plugins.searchers.inverted import Inverted
from states import load
from stored_codes import StoredCodes


class Codes(StoredCodes):
    """A collection's sparse codes, given as dense rows f32[R, K]."""

    def encoded(self, rows, pointers):
        row, word = np.nonzero(rows)
        return {
            "rows": pointers,
            "indptr": np.cumsum([0, *(rows != 0).sum(1)]),
            "indices": word.astype(np.uint16),
            "data": rows[row, word],
            "dim": self.rows.shape[1],
        }

    def best(self, q: np.ndarray, k: int, exclude=frozenset()):
        """(image, score, box), by the plainest of loops."""
        found = []
        for image in self.images.tolist():
            i = image - self.start
            scores = [
                max(float(np.float32(x) @ row) for row in q)
                for x in self.rows[self.first[i] : self.first[i + 1]]
            ]
            if image in exclude or not scores or max(scores) <= 0:
                continue
            row = self.first[i] + scores.index(max(scores))
            found.append((-max(scores), image, self.boxes[row].tolist()))
        return [(image, -score, box) for score, image, box in sorted(found)[:k]]


def sparse(rows) -> SparseVectors:
    rows = torch.as_tensor(np.asarray(rows, np.float32))
    row, word = rows.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(rows))
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return SparseVectors(word, rows[row, word], indptr, rows.shape[1], torch.zeros(len(rows), 4))


def query(rows, exclude=()) -> Query:
    nothing: Any = None
    return Query("q", nothing, None, nothing, nothing, sparse(rows), frozenset(exclude))


def fitted(codes: Codes) -> Inverted:
    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    searcher.load(searcher.fit(codes, Quiet()))
    return searcher


def found(searcher: Inverted, codes: Codes, q: Query, k: int):
    hits = searcher.search([q], codes, k)
    n = hits.valid(0)
    assert (hits.images[0, n:] == -1).all()
    assert np.isneginf(hits.scores[0, n:]).all()
    assert np.isnan(hits.boxes[0, n:]).all()
    return [
        (int(i), float(s), b.tolist())
        for i, s, b in zip(hits.images[0, :n], hits.scores[0, :n], hits.boxes[0, :n], strict=True)
    ]


eighths = st.sampled_from([0.0, 0.0, 0.0, 0.125, 0.25, 0.5, 1.0])


@st.composite
def collections(draw):
    counts = draw(st.lists(st.sampled_from([1, 1, 1, 0, 2, 3]), max_size=12))
    if draw(st.booleans()):
        counts = [1] * len(counts)
    K = draw(st.integers(1, 6))
    rows = draw(
        st.lists(st.lists(eighths, min_size=K, max_size=K), min_size=sum(counts), max_size=sum(counts))
    )
    start = draw(st.sampled_from([0, 7]))
    span = list(range(start, start + len(counts)))
    some = st.sets(st.sampled_from(span)) if span else st.just(set())
    q = draw(st.lists(st.lists(eighths, min_size=K, max_size=K), min_size=1, max_size=2))
    return {
        "codes": (
            np.array(rows, np.float32).reshape(-1, K),
            counts,
            start,
            draw(some),
            draw(st.integers(1, 5)),
        ),
        "q": q,
        "exclude": draw(some),
        "k": draw(st.integers(1, 15)),
        "cut": (draw(st.integers(1, 5)), draw(st.integers(6, 20)), draw(st.integers(1, 4))),
    }


@given(case=collections())
def test_equals_the_plain_loop(case, tmp_path_factory):
    """Exact, ties by row, over several blocks, whatever is removed, excluded, empty or has several rows."""
    with pytest.MonkeyPatch.context() as patch:
        rows, postings, head = case["cut"]
        patch.setattr(inverted, "ROWS", rows)
        patch.setattr(inverted, "POSTINGS", postings)
        patch.setattr(ranking, "HEAD", head)
        codes = Codes(*case["codes"], folder=tmp_path_factory.mktemp("scratch"))
        if not codes.counts:
            return
        searcher = fitted(codes)
        q = np.array(case["q"], np.float32)
        got = found(searcher, codes, query(q, case["exclude"]), case["k"])
        assert got == codes.best(q, case["k"], case["exclude"])


@pytest.mark.parametrize("several", [False, True])
def test_many_rows_of_any_value(tmp_path, several):
    """The guess of the k-th best and the merging of blocks lose nothing; scores are right to 1e-6."""
    rng = np.random.default_rng(0)
    counts = (rng.integers(0, 4, 3000) if several else np.ones(9000, np.int64)).tolist()
    rows = rng.exponential(size=(sum(counts), 40)) * (rng.random((sum(counts), 40)) < 0.2)
    codes = Codes(rows, counts, start=5, removed=range(5, 3000, 7), part=256, folder=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted, "ROWS", 4096)
        patch.setattr(ranking, "HEAD", 512)
        searcher = fitted(codes)
        for k in (1, 10, 100, 20_000):
            q = rng.exponential(size=(1, 40)) * (rng.random(40) < 0.4)
            expected = codes.best(q.astype(np.float32), k, {11, 12})
            got = found(searcher, codes, query(q, {11, 12}), k)
            assert len(got) == len(expected)
            assert [b for *_, b in got] == [b for *_, b in expected]
            assert [i for i, *_ in got] == [i for i, *_ in expected]
            np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], rtol=1e-6)


@pytest.mark.parametrize(("rows", "k"), [(4, 6), (20, 2)])
def test_equal_images_come_by_row_within_and_across_blocks(tmp_path, monkeypatch, rows, k):
    monkeypatch.setattr(inverted, "ROWS", rows)
    monkeypatch.setattr(ranking, "HEAD", 2)
    x = np.float32([0.1, 0.7, 0, 0.3])
    codes = Codes(np.tile(x, (20, 1)), [1] * 20, removed={2}, folder=tmp_path)
    got = found(fitted(codes), codes, query([[0.3, 0.3, 0.1, 0.1]], {5}), k)
    assert [i for i, *_ in got] == [0, 1, 3, 4, 6, 7][:k]
    assert len({s for _, s, _ in got}) == 1


def test_a_query_without_words_and_images_without_common_words_are_no_hits(tmp_path):
    codes = Codes([[1, 0, 0], [0, 1, 0], [0, 0, 0]], [1, 1, 1], folder=tmp_path)
    searcher = fitted(codes)
    assert found(searcher, codes, query([[0, 0, 0]]), 5) == []
    assert [i for i, *_ in found(searcher, codes, query([[0, 1, 0]]), 5)] == [1]


def test_a_query_of_no_rows_finds_nothing(tmp_path):
    codes = Codes([[1, 0]], [1], folder=tmp_path)
    assert found(fitted(codes), codes, query(np.zeros((0, 2))), 5) == []


def test_every_region_that_scores_is_listed_where_asked(tmp_path):
    rows = [[1, 0], [0.5, 0.5], [0, 1], [0.25, 0], [0, 0.5]]
    codes = Codes(rows, [3, 2], folder=tmp_path)
    searcher = fitted(codes)
    for per_image, expected in (
        (0, [(0, 1.0, 0), (0, 0.5, 4), (1, 0.25, 12)]),
        (1, [(0, 1.0, 0), (1, 0.25, 12)]),
        (2, [(0, 1.0, 0), (0, 0.5, 4), (1, 0.25, 12)]),
    ):
        got = found(searcher, codes, replace(query([[1, 0]]), per_image=per_image), 9)
        assert [(i, s, box[0]) for i, s, box in got] == expected
    both = found(searcher, codes, replace(query([[1, 0], [0, 1]]), per_image=0), 9)
    assert [(i, s) for i, s, _ in both] == [(0, 1.0), (0, 1.0), (0, 0.5), (1, 0.5), (1, 0.25)]


def test_queries_of_one_call_do_not_mix(tmp_path):
    codes = Codes(np.eye(4), [1] * 4, folder=tmp_path)
    hits = fitted(codes).search([query(np.eye(4)[[2]]), query(np.eye(4)[[1]])], codes, 2)
    assert hits.images.tolist() == [[2, -1], [1, -1]]


def test_removal_after_fit_is_seen(tmp_path):
    codes = Codes([[1.0], [0.5], [0.25]], [1, 1, 1], folder=tmp_path)
    searcher = fitted(codes)
    assert [i for i, *_ in found(searcher, codes, query([[1.0]]), 3)] == [0, 1, 2]
    codes.images = np.array([1, 2])
    assert [i for i, *_ in found(searcher, codes, query([[1.0]]), 3)] == [1, 2]


def test_the_state_is_searched_where_it_lies(tmp_path):
    """It comes back from the index memory-mapped and read-only."""
    from instsearch_formats import Index

    index = Index.create(tmp_path / "index")
    (tmp_path / "scratch").mkdir()
    codes = Codes(np.eye(5), [1] * 5, start=0, folder=tmp_path / "scratch")
    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    layer = index.layer("search", "inverted", "arrays", {"plugin": "inverted"})
    layer.write_arrays(codes.span, searcher.fit(codes, Quiet()))
    searcher.load(layer.arrays(codes.span))
    assert not searcher.rows.flags.writeable
    assert [i for i, *_ in found(searcher, codes, query([[0, 0, 0, 0.5, 1]]), 3)] == [4, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 3),
        ("rows", -1),
        ("rows", 1 << 30),
        ("pointers", -5),
        ("pointers", 1 << 30),
        ("values", np.nan),
        ("blocks", 1),
        ("images", 3),
    ],
)
def test_damage_is_an_error_and_no_crash(tmp_path, name, value):
    codes = Codes(np.ones((3, 2)), [1] * 3, folder=tmp_path)
    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    state = {key: np.array(array) for key, array in searcher.fit(codes, Quiet()).items()}
    state[name].flat[1] = value

    def ask():
        load(searcher, state, codes.span)
        searcher.search([query([[1, 1]])], codes, 3)

    with pytest.raises((ValueError, InstsearchError)):
        ask()


def test_state_of_another_length_is_refused(tmp_path):
    codes = Codes(np.ones((3, 2)), [1] * 3, folder=tmp_path)
    searcher = Inverted(Inverted.Config(), torch.device("cpu"))
    state = searcher.fit(codes, Quiet())
    for name in ("rows", "values", "images", "layouts", "layout-boxes", "blocks"):
        with pytest.raises((ValueError, InstsearchError)):
            load(searcher, state | {name: state[name][:-1]}, codes.span)


def test_missing_codes_are_an_error(tmp_path):
    class Gap(Codes):
        def blocks(self, kind: str):
            yield from list(super().blocks(kind))[1:]

    codes = Gap(np.ones((6, 2)), [1] * 6, folder=tmp_path)
    with pytest.raises(InstsearchError, match="rows 0 to 2 are missing"):
        fitted(codes)


def test_another_vocabulary_is_an_error(tmp_path):
    codes = Codes(np.ones((3, 2)), [1] * 3, folder=tmp_path)
    with pytest.raises(InstsearchError, match="3 words and the index 2"):
        fitted(codes).search([query([[1, 1, 1]])], codes, 3)


def test_a_code_that_fits_no_block_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(inverted, "POSTINGS", 3)
    codes = Codes(np.ones((2, 4)), [1] * 2, folder=tmp_path)
    with pytest.raises(InstsearchError, match="more than 3 words"):
        fitted(codes)
