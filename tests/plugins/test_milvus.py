"""Searcher `milvus`, in folders of Milvus Lite: what it finds is what local searchers find.

With INSTSEARCH_TEST_MILVUS=http://host:19530 a server is asked as well; INSTSEARCH_MILVUS has its login.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers import milvus_asking, milvus_copy, milvus_server
from instsearch_plugins.searchers.faiss_index import Faiss
from milvus_searching import (
    KINDS,
    Sparse,
    asked,
    assert_same,
    by_hand,
    dense,
    filled,
    options,
    origin,
    rows_of,
    searcher,
    shared,
    sparse,
)
from states import load
from stored_codes import StoredCodes

__all__ = ["options", "shared"]  # fixtures

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regions", [False, True])
def test_what_is_found_is_what_the_local_searcher_finds(
    kind: str, regions: bool, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed and excluded images, several regions an image, and more than one time asked."""
    stored, codes, cls = KINDS[kind]
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 7, 40).tolist() if regions else None
    rows = rows_of(kind, sum(counts) if counts else 40)
    data = stored(rows, counts, removed=(3, 4, 17), part=11)
    made, other = filled(data, options)[0], by_hand(cls, data, tmp_path)
    few, most = [0, 5, 9], [i for i in range(40) if i % 5]
    for most_at_once in (16384, 8):
        monkeypatch.setattr(milvus_asking, "MOST", most_at_once)
        monkeypatch.setattr(milvus_asking, "SOME", 2)
        for k in (1, 7, 50):
            for each in (1, 2, 0) if regions else (1,):
                q = [asked(codes(row), gone, each) for row in rows[:3] for gone in ((), few, most)]
                assert_same(made.search(q, data, k), other.search(q, data, k))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_of_several_rows(kind: str, options: dict[str, str], tmp_path: Path) -> None:
    """R-Match of dense ones, exact however deep it must look; the best of sparse ones."""
    stored, codes, cls = KINDS[kind]
    counts = np.random.default_rng(2).integers(1, 6, 30).tolist()
    rows = rows_of(kind, sum(counts), 3)
    data = stored(rows, counts, removed=(8,))
    made, other = filled(data, options)[0], by_hand(cls, data, tmp_path)
    q = [asked(codes(rows[a : a + 3]), (a,)) for a in (0, 20, 40)]
    for k in (1, 4, 30):
        assert_same(made.search(q, data, k), other.search(q, data, k))
    if kind == "dense":
        with pytest.raises(UsageError, match="per-image"):
            made.search([asked(codes(rows[:2]), per_image=2)], data, 3)


def test_an_approximate_index_of_the_server(options: dict[str, str], tmp_path: Path) -> None:
    rows = rows_of("dense", 60)
    data = StoredCodes(rows, removed=(1,))
    made, _ = filled(data, options, index="HNSW", build="M=16,efConstruction=100", search="ef=80")
    q = [asked(dense(row)) for row in rows[2:5]]
    assert_same(made.search(q, data, 5), by_hand(Faiss, data, tmp_path).search(q, data, 5))


def test_an_index_that_milvus_lite_has_not_leaves_no_collection(tmp_path: Path) -> None:
    data, uri = StoredCodes(rows_of("dense", 30)), str(tmp_path / "m.db")
    said = "unknown index_type: 'DISKANN': give another --set searcher.index or searcher.build"
    with pytest.raises(InstsearchError, match=said):
        filled(data, {"uri": uri}, index="DISKANN")
    assert milvus_server.connected(uri, "").client.list_collections() == []


def test_a_query_without_a_word_finds_nothing(options: dict[str, str]) -> None:
    data = Sparse(rows_of("sparse", 9))
    made, _ = filled(data, options)
    assert made.search([asked(sparse(np.zeros(40)))], data, 3).valid(0) == 0


# -- the copy -------------------------------------------------------------------------------------------


def test_a_fill_that_was_killed_goes_on(options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = Sparse(rows_of("sparse", 20), part=4)
    of, made, mend, blocks = origin(data), searcher(options), milvus_copy.Copy.mend, []

    def killed(self, found):
        if len(blocks) == 3:
            raise KeyboardInterrupt
        blocks.append(found)
        return mend(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(milvus_copy.Copy, "mend", killed)
        with pytest.raises(KeyboardInterrupt):
            made.fill(data, of, Quiet())
    assert len(made.differences(data, of, Quiet())) == 1
    again = made.fill(data, of, Quiet())
    assert again.changed == 20 - 3 * 4
    assert made.differences(data, of, Quiet()) == []
    assert made.fill(data, of, Quiet()).changed == 0


def test_what_differs_is_named_and_the_next_fill_mends_it(options: dict[str, str]) -> None:
    rows = rows_of("dense", 12)
    data = StoredCodes(rows, [2] * 6)
    made, of = filled(data, options)
    copy, _ = made._copy(made._name(of))
    client, per = copy.server.client, milvus_copy.REGIONS
    (one,) = client.get(copy.name, [2 * per])
    (two,) = client.get(copy.name, [3 * per + 1])
    (three,) = client.get(copy.name, [4 * per])
    client.delete(copy.name, ids=[per, per + 1])
    wrong = {**dict(one), "code": rows[7]}
    turned = {**dict(two), "x1": 3.5}
    lied = {**dict(three), "sum": 7}
    client.upsert(copy.name, [wrong, turned, lied, {**dict(one), "id": 99 * per, "row": 99}])
    said = made.differences(data, of, Quiet())
    assert [line.partition(": ")[2] for line in said] == [
        "2 missing: 1.jpg, 1.jpg (region 1)",
        "1 with other codes: 2.jpg",
        "1 with other boxes: 3.jpg (region 1)",
        "1 with other checksums: 4.jpg",
        "1 of nothing in the index: row 99",
    ]
    assert made.fill(data, of, Quiet()).changed == 5
    assert made.differences(data, of, Quiet()) == []


def test_what_is_there_twice_is_written_anew(options: dict[str, str]) -> None:
    """Milvus Lite that is killed at the wrong moment has what was in its log twice."""
    data = Sparse(rows_of("sparse", 5))
    blocks = list(data.blocks("codes"))
    own = milvus_copy.entities(blocks[0], ["a.jpg", "b.jpg", "c.jpg"])
    there = [{"id": number, "sum": total} for number, total in zip(own.ids, own.sums, strict=True)]
    assert not any(milvus_copy._differences(own, None, there).named())
    found = milvus_copy._differences(own, None, [*there, there[1]])
    assert list(found.named()) == [("there more than once", milvus_copy.REGIONS, "b.jpg")]
    made, of = filled(data, options)
    copy, _ = made._copy(made._name(of))
    assert copy.mend(found) == 1
    assert copy.count() == 5


def test_pictures_are_renamed_and_added(options: dict[str, str]) -> None:
    rows = rows_of("sparse", 9)
    data = Sparse(rows[:6])
    _, of = filled(data, options)
    other = of._replace(names=lambda span: ["neu/é.jpg" if row == 2 else f"{row}.jpg" for row in span])
    more = Sparse(rows)
    made, _ = filled(more, options, of=other)
    copy, _ = made._copy(made._name(other))
    assert copy.count() == 9
    (entity,) = copy._query(f"id == {2 * milvus_copy.REGIONS}", ["name"])
    assert entity["name"] == "neu/é.jpg"
    assert made.differences(more, other, Quiet()) == []
    (said,) = made.differences(more, of, Quiet())
    assert "1 named otherwise: 2.jpg" in said
    q = asked(sparse(rows[8]))
    assert made.search([q], more, 1).images[0, 0] == 8


def test_a_copy_that_is_gone_or_not_whole_is_not_asked(options: dict[str, str]) -> None:
    data = Sparse(rows_of("sparse", 9))
    made, of = filled(data, options)
    state = made.fill(data, of, Quiet()).state
    (copy, _), q = made._copy(made._name(of)), [asked(sparse(rows_of("sparse", 9)[0]))]
    copy.server.client.delete(copy.name, ids=[0])
    with pytest.raises(InstsearchError, match="is not whole: run `instsearch index`"):
        made.search(q, data, 3)
    copy.server.client.drop_collection(copy.name)
    with pytest.raises(InstsearchError, match=r"is not at .*: run `instsearch index`"):
        made.search(q, data, 3)
    assert "is not there" in made.differences(data, of, Quiet())[0]
    load(made, made.fill(data, of, Quiet()).state, data.span)
    assert made.search(q, data, 1).images[0, 0] == 0
    assert {k: v.tolist() for k, v in state.items()} == {
        k: v.tolist() for k, v in made.fill(data, of, Quiet()).state.items()
    }


def test_the_mirror_of_another_index_is_refused(options: dict[str, str]) -> None:
    rows = rows_of("sparse", 9)
    data = Sparse(rows)
    made, of = filled(data, options)
    copied = of._replace(place=Path("/another/folder"))
    assert made.fill(data, copied, Quiet()).changed == 0  # a copy of the index, or the index moved
    other = of._replace(place=Path("/third"), pictures=lambda stop: f"others{stop}")
    for call in (made.fill, made.differences):
        try:
            said = "".join(call(data, other, Quiet()))
        except InstsearchError as error:
            said = str(error)
        assert "is the mirror of another index, /another/folder" in said
        assert "searcher.collection=NAME" in said
    state = {**made.fill(data, copied, Quiet()).state, "pictures": np.frombuffer(b"others9", np.uint8)}
    load(made, state, data.span)
    with pytest.raises(InstsearchError, match="is the mirror of another index"):
        made.search([asked(sparse(rows[0]))], data, 1)
    fewer = Sparse(rows[:5])  # the index put back from an older copy: it is the truth
    assert made.fill(fewer, copied, Quiet()).changed == 4
    assert made.differences(fewer, copied, Quiet()) == []


def test_only_the_index_s_own_unused_collections_are_dropped(options: dict[str, str]) -> None:
    data = [Sparse(rows_of("sparse", 4, seed)) for seed in range(3)]
    origins = [origin(one) for one in data]
    origins[2] = origins[2]._replace(place=Path("/elsewhere"))
    for one, of in zip(data, origins, strict=True):
        made, _ = filled(one, options, of=of)
    names = [made._name(of) for of in origins]
    said = made.sweep(origins[0], {origins[0].key}, dry_run=True)
    assert [line.split()[1] for line in said] == [names[1]]
    client = made._connected().client
    assert set(names) <= set(client.list_collections())
    made.sweep(origins[0], {origins[0].key}, dry_run=False)
    assert set(names) & set(client.list_collections()) == {names[0], names[2]}


def test_other_widths_take_a_new_collection(options: dict[str, str]) -> None:
    rows = rows_of("dense", 6)
    data = StoredCodes(rows)
    of = origin(data)
    filled(data, options, of=of)
    made, _ = filled(StoredCodes(rows[:, :5]), options, of=of)
    assert made.differences(StoredCodes(rows[:, :5]), of, Quiet()) == []
