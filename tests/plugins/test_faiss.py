from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dense_codes import Codes, clustered, fitted, found, query
from instsearch_cli.data import Query, SparseVectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.progress import Quiet
from instsearch_plugins.numeric import ranking
from instsearch_plugins.numeric.approximate import built, stored
from instsearch_plugins.searchers import faiss_index
from instsearch_plugins.searchers.dense import image_blocks, r_match
from instsearch_plugins.searchers.faiss_index import Faiss

eighths = st.sampled_from([-0.5, 0.0, 0.125, 0.25, 0.5, 1.0])


@st.composite
def collections(draw):
    counts = draw(st.lists(st.sampled_from([1, 1, 1, 0, 2, 3]), min_size=1, max_size=12))
    if draw(st.booleans()):
        counts = [1] * len(counts)
    D = draw(st.integers(1, 4))
    rows = draw(
        st.lists(st.lists(eighths, min_size=D, max_size=D), min_size=sum(counts), max_size=sum(counts))
    )
    start = draw(st.sampled_from([0, 7]))
    some = st.sets(st.sampled_from(range(start, start + len(counts))))
    return {
        "codes": (
            np.array(rows, np.float32).reshape(-1, D),
            counts,
            start,
            draw(some),
            draw(st.integers(1, 5)),
        ),
        "q": draw(st.lists(st.lists(eighths, min_size=D, max_size=D), min_size=1, max_size=3)),
        "exclude": draw(some),
        "k": draw(st.integers(1, 15)),
        "cut": (draw(st.integers(1, 5)), draw(st.integers(1, 4))),
    }


@given(case=collections())
def test_flat_equals_the_plain_loop(case, tmp_path_factory):
    """Exact, ties by row, scores of 0 and below included, whatever is removed, excluded or has several rows."""
    with pytest.MonkeyPatch.context() as patch:
        rows, head = case["cut"]
        patch.setattr(faiss_index, "ROWS", rows)
        patch.setattr(ranking, "HEAD", head)
        codes = Codes(*case["codes"], folder=tmp_path_factory.mktemp("scratch"))
        q = np.array(case["q"], np.float32)
        got = found(fitted(codes), codes, query(q, case["exclude"]), case["k"])
        assert got == codes.best(q, case["k"], case["exclude"])


@given(case=collections(), per_image=st.sampled_from([0, 1, 2]))
def test_as_many_regions_of_an_image_as_asked(case, per_image, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        rows, head = case["cut"]
        patch.setattr(faiss_index, "ROWS", rows)
        patch.setattr(ranking, "HEAD", head)
        codes = Codes(*case["codes"], folder=tmp_path_factory.mktemp("scratch"))
        q = np.array(case["q"][:1], np.float32)
        asked = replace(query(q, case["exclude"]), per_image=per_image)
        assert found(fitted(codes), codes, asked, case["k"]) == codes.regions(
            q, case["k"], per_image, case["exclude"]
        )


@pytest.mark.parametrize("factory", ["HNSW32", "IVF8,Flat"])
@pytest.mark.parametrize("per_image", [0, 2])
def test_any_factory_lists_regions(tmp_path, factory, per_image):
    rows = clustered(900, 16)
    codes = Codes(rows, [3] * 300, start=2, removed={5}, part=50, folder=tmp_path)
    searcher = fitted(codes, factory, "nprobe=8" if "IVF" in factory else "efSearch=512")
    assert searcher.index is not None
    q = rows[[30]]
    got = found(searcher, codes, replace(query(q, {12}), per_image=per_image), 40)
    expected = codes.regions(q, 40, per_image, {12})
    assert {(i, box[0]) for i, _, box in got} == {(i, box[0]) for i, _, box in expected}
    np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], atol=1e-5)
    assert len({i for i, *_ in got}) < 40


def test_regions_cannot_be_listed_for_a_query_of_several_vectors(tmp_path):
    codes = Codes(clustered(8, 4), [2] * 4, folder=tmp_path)
    with pytest.raises(UsageError, match="query-apart=false"):
        fitted(codes).search([replace(query(np.eye(4)), per_image=0)], codes, 3)


def test_flat_is_exact_on_many_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_index, "ROWS", 700)
    monkeypatch.setattr(ranking, "HEAD", 100)
    rows = clustered(4000, 33)
    rows[1500] = rows[2900] = rows[7]
    codes = Codes(rows, [2] * 2000, start=3, removed={4, 5}, part=256, folder=tmp_path)
    searcher = fitted(codes)
    for k in (1, 10, 3000):
        q = np.stack([rows[7], rows[8]])
        expected, got = codes.best(q, k, {3}), found(searcher, codes, query(q, {3}), k)
        np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], rtol=1e-6, atol=1e-7)
        assert {i for i, *_ in got[:8]} == {i for i, *_ in expected[:8]}
    equal = [i for i, *_ in found(searcher, codes, query(rows[[7]]), 3)]
    assert equal == [3 + 3, 3 + 750, 3 + 1450]


def test_rows_within_the_slack_are_kept_for_exact_scoring():
    """A product may be off by its rounding: what is that near the k-th best may still be among the best."""
    owners = ranking.Owners(0, np.arange(41), np.zeros((40, 4), np.float32))
    scores = np.linspace(1, 0, 40, dtype=np.float32)
    scores[30] = scores[1] - np.float32(5e-6)
    for slack, expected in ((0.0, [0, 1]), (1e-5, [0, 1, 30])):
        best = ranking.Best(2, owners, slack=slack)
        best.add(0, scores[:20])
        best.add(20, scores[20:])
        assert best.rows.tolist() == expected


def test_flat_with_a_query_of_zeros_goes_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_index, "ROWS", 4)
    codes = Codes(clustered(20, 4), [1] * 20, removed={1}, folder=tmp_path)
    assert [i for i, *_ in found(fitted(codes), codes, query(np.zeros((1, 4))), 3)] == [0, 2, 3]


def test_queries_of_one_call_do_not_mix(tmp_path):
    codes = Codes(np.eye(4), [1] * 4, folder=tmp_path)
    queries = [query(np.eye(4)[[2, 0]], {0}), query(np.eye(4)[[1]])]
    assert fitted(codes).search(queries, codes, 1).images.tolist() == [[2], [1]]


def test_a_query_of_several_vectors_is_matched_region_by_region(tmp_path):
    """Image 1: 0.6 + 0.8; image 2: 0.8 + 1, and the box of its row 2, the best of all; image 0: 1 + 0."""
    rows = [[1, 0], [0.6, 0.8], [0.8, 0.6], [-1, 0], [0, 1]]
    codes = Codes(np.array(rows, np.float16).astype(np.float32), [1, 1, 3], folder=tmp_path)
    got = found(fitted(codes), codes, query(np.eye(2)), 5)
    assert [i for i, *_ in got] == [2, 1, 0]
    np.testing.assert_allclose([s for _, s, _ in got], [1.8, 1.4, 1.0], atol=1e-3)
    assert [box[0] for *_, box in got] == [16, 4, 0]
    assert found(fitted(codes), codes, query(np.zeros((0, 2))), 5) == []


@given(
    seed=st.integers(0, 999),
    M=st.integers(1, 4),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    rows=st.integers(1, 9),
)
def test_r_match_equals_the_plain_loop_over_any_blocks(seed, M, counts, rows):
    pointers = np.cumsum([0, *counts])
    products = np.random.default_rng(seed).integers(-4, 5, (M, pointers[-1])).astype(np.float32)
    scores = np.full(pointers[-1], -np.inf)
    blocks = list(image_blocks(pointers, rows))
    assert [i for part in blocks for i in range(part.start, part.stop)] == list(range(len(counts)))
    for part in blocks:
        own = pointers[part.start : part.stop + 1]
        assert own[-1] - own[0] <= rows or part.stop == part.start + 1
        scores[own[0] : own[-1]] = r_match(products[:, own[0] : own[-1]], own)
    for a, b in pairwise(pointers):
        if a == b:
            continue
        expected = np.full(b - a, -np.inf)
        best = max(range(a, b), key=lambda r: (products[:, r].max(), -r))
        expected[best - a] = sum(max(row[a:b]) for row in products)
        np.testing.assert_array_equal(scores[a:b], products[0, a:b] if M == 1 else expected)


FACTORIES = [
    ("IVF16,Flat", "nprobe=16"),
    ("HNSW16", "efSearch=400"),
    ("RR16,IVF16,Flat", "nprobe=16"),
    ("SQfp16", ""),
    ("IVF16,SQfp16,RFlat", "nprobe=16"),
]


@pytest.mark.parametrize(("factory", "search"), FACTORIES)
@pytest.mark.parametrize("several", [1, 3])
def test_other_indexes_find_what_flat_finds(tmp_path, factory, search, several):
    """Asked to look at everything they agree with the exact search, removed and excluded ones left out."""
    n = 900
    codes = Codes(clustered(n, 16), [several] * (n // several), start=10, part=64, folder=tmp_path)
    codes.images = np.array([i for i in codes.span if i % 3])
    searcher = fitted(codes, factory, search)
    assert searcher.index is not None
    for i in (1, 50, 200):
        q = query(codes.rows[[i]], {11, 13})
        expected, got = codes.best(codes.rows[[i]], 10, {11, 13}), found(searcher, codes, q, 10)
        assert [i for i, *_ in got] == [i for i, *_ in expected]
        assert [b for *_, b in got] == [b for *_, b in expected]
        np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], atol=2e-3)


@pytest.mark.parametrize(("factory", "search"), FACTORIES)
def test_other_indexes_match_several_vectors_as_flat_does_where_they_see_all(tmp_path, factory, search):
    """Asked for so many images that every vector of the query comes upon every one of them."""
    codes = Codes(clustered(900, 16), [3] * 300, start=10, removed={12}, part=64, folder=tmp_path)
    searcher = fitted(codes, factory, search.replace("400", "1000"))
    assert searcher.index is not None
    q = codes.rows[[1, 200, 7]]
    expected, got = codes.best(q, 300, {11}), found(searcher, codes, query(q, {11}), 300)
    assert len(got) == len(expected) == 298
    sums = {i: s for i, s, _ in expected}
    np.testing.assert_allclose([s for _, s, _ in got], [sums[i] for i, *_ in got], atol=4e-3)
    assert {i for i, *_ in got[:10]} == {i for i, *_ in expected[:10]}


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "PQ4x4", "OPQ4_8,IVF8,PQ4x4", "IVF8,PQ4x4fs"])
def test_as_many_images_as_there_are(tmp_path, factory):
    """Rows of one image crowd the best rows: more are asked for until k images come back."""
    rows = clustered(900, 16)
    rows[:600] = rows[0] + np.float16(1e-3) * clustered(600, 16, seed=1)
    codes = Codes(rows, [600] + [1] * 300, removed={5, 6}, part=64, folder=tmp_path)
    searcher = fitted(
        codes, factory, "nprobe=8" if "IVF8" in factory else "nprobe=16" if "IVF" in factory else ""
    )
    assert (searcher.index is None) == (factory == "Flat")
    got = found(searcher, codes, query(rows[[0]], {7}), 40)
    assert len(got) == 40
    assert len({i for i, *_ in got}) == 40
    assert not {i for i, *_ in got} & {5, 6, 7}
    assert len(found(searcher, codes, query(rows[[0]], {7}), 1000)) == 298


def test_few_vectors_are_kept_exact(tmp_path, capfd):
    codes = Codes(clustered(100, 16), [1] * 100, folder=tmp_path)
    searcher = fitted(codes, "IVF64,Flat", "nprobe=1")
    assert searcher.index is None
    q = codes.rows[[3]]
    got, expected = found(searcher, codes, query(q), 100), codes.best(q, 100)
    np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], rtol=1e-5)
    assert "WARNING" not in "".join(capfd.readouterr())


def test_an_index_is_searched_from_read_only_memory(tmp_path):
    codes = Codes(clustered(700, 16), [1] * 700, folder=tmp_path)
    searcher = Faiss(Faiss.Config("IVF16,Flat", "nprobe=16"), torch.device("cpu"))
    state = searcher.fit(codes, Quiet())
    assert state["index"].dtype == np.uint8
    state["index"].tofile(tmp_path / "index.u8")
    searcher.load(state | {"index": np.memmap(tmp_path / "index.u8", np.uint8, "r")})
    assert found(searcher, codes, query(codes.rows[[5]]), 1)[0][0] == 5


@pytest.mark.parametrize("factory", ["Flatt", "IVF,Flat", "PQ7", "LSH"])
def test_a_wrong_factory_is_a_usage_error(tmp_path, factory):
    codes = Codes(clustered(400, 16), [1] * 400, folder=tmp_path)
    with pytest.raises(UsageError, match="IVF1024,Flat"):
        fitted(codes, factory)


def test_an_index_that_cannot_be_filled_is_a_usage_error(tmp_path):
    codes = Codes(clustered(400, 16), [1] * 400, folder=tmp_path)
    with pytest.raises(UsageError, match=r"add_with_ids"):
        fitted(codes, "IDMap,Flat")


def test_wrong_search_parameters_are_a_usage_error(tmp_path):
    codes = Codes(clustered(700, 16), [1] * 700, folder=tmp_path)
    with pytest.raises(UsageError, match="nprobe=16"):
        fitted(codes, "IVF16,Flat", "probes=16")


def test_a_damaged_index_is_an_error(tmp_path):
    codes = Codes(clustered(700, 16), [1] * 700, folder=tmp_path)
    searcher = Faiss(Faiss.Config("IVF16,Flat"), torch.device("cpu"))
    state = searcher.fit(codes, Quiet())
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.load(state | {"index": state["index"][:100]})
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.load({k: v for k, v in state.items() if k != "index"})
    fewer = built(clustered(699, 16), "IVF16,Flat")
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.load(state | {"index": stored(fewer)})
    nsg = faiss.index_factory(16, "NSG16")
    nsg.train(clustered(700, 16))
    nsg.add(clustered(700, 16))
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.load(state | {"index": stored(nsg)})
    searcher.load(state)
    lists = faiss.downcast_index(searcher.index).invlists
    for number in range(lists.nlist):  # rows that are none, which a search would come upon
        if n := lists.list_size(number):
            ids = np.full(n, 10**6)
            lists.update_entries(number, 0, n, faiss.swig_ptr(ids), lists.get_codes(number))
    with pytest.raises(InstsearchError, match="damaged"):
        searcher.search([query(clustered(700, 16)[:1])], codes, 3)


def test_codes_of_another_kind_are_errors(tmp_path):
    codes = Codes(clustered(5, 4), [1] * 5, folder=tmp_path)
    searcher = fitted(codes)
    with pytest.raises(InstsearchError, match="3 values and the index 4"):
        searcher.search([query(np.ones((1, 3)))], codes, 1)
    empty = torch.zeros(0, dtype=torch.int64)
    words = SparseVectors(empty, torch.zeros(0), torch.zeros(2, dtype=torch.int64), 4, torch.zeros(1, 4))
    nothing: Any = None
    with pytest.raises(InstsearchError, match="inverted"):
        searcher.search([Query("q", nothing, None, nothing, nothing, words)], codes, 1)
