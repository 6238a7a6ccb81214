"""What becomes of rows: removed, restored, called otherwise; each file at one moment, the later one holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from instsearch_formats import FormatError, Index
from instsearch_formats.changes import Change
from instsearch_formats.fingerprint import canonical
from instsearch_formats.images import IDENTITY, tombstone_name
from instsearch_formats.writer import write_arrays


def names(index):
    return {row: (record.root, record.name) for row, record in index.images.records()}


def both(index):
    """The table as it is open, and opened anew."""
    return index.images, Index.open(index.path).images


def test_names_are_exchanged_at_one_moment(index):
    before = names(index)
    index.images.change(Change(places={3: (before[4],), 4: (before[3],)}))
    for table in both(index):
        assert table.record(3).name == before[4][1]
        assert table.record(3)[2:] == Index.open(index.path).images.record(3)[2:]
        assert {row: (r.root, r.name) for row, r in table.records()} == before | {3: before[4], 4: before[3]}
        assert table.path(4).name == "3.jpg"
        assert table.removed() == {}
    assert index.images.tombstones() == [0]
    assert index.verify() == []


def test_the_later_change_holds(index):
    table = index.images
    table.change(Change({5: "missing", 6: "removed"}, places={7: ((0, b"x"), (0, b"y"))}))
    table.change(Change(restored={5}, places={7: ((0, b"y"),)}))
    table.change(Change({7: "gone"}))
    table.change(Change({5: "again"}, restored={7}))
    for images in both(index):
        assert images.removed() == {5: "again", 6: "removed"}
        assert images.record(7).name == b"y"
        assert images.others() == {}
        assert not images.alive()[[5, 6]].any()
        assert images.alive()[7]
    table.remove([5], "never mind")
    assert len(table.tombstones()) == 4
    assert index.verify() == []


def test_other_names(index):
    index.images.change(Change(places={2: ((0, b"first"), (0, b"caf\xe9/other"))}))
    for table in both(index):
        assert table.others() == {2: ((0, b"caf\xe9/other"),)}
        assert table.record(2).name == b"first"


def test_a_lost_change_is_named_and_its_number_not_given_to_what_a_later_one_undoes(index):
    table = index.images
    table.change(Change(places={1: ((0, b"x"),)}))
    table.remove([5], "removed")
    table.change(Change(restored={5}))
    (index.path / "images" / tombstone_name(0)).unlink()
    opened = Index.open(index.path)
    assert [problem.path.name for problem in opened.verify()] == [tombstone_name(0)]
    opened.images.remove([5], "removed", refill=True)
    assert opened.images.tombstones() == [1, 2, 3]
    assert opened.images.removed() == {5: "removed"}
    opened.images.remove([6], "removed", refill=True)
    assert opened.images.tombstones() == [0, 1, 2, 3]


def test_what_is_foreseen_is_on_disk_at_the_end_only(index):
    table = index.images
    with table.foreseeing(Change({0: "missing"}, places={1: ((0, b"new"),)})):
        assert table.record(1).name == b"new"
        assert table.removed() == {0: "missing"}
        other = Index.open(index.path).images
        assert (other.removed(), other.record(1).name) == ({}, b"caf\xe9/1.jpg")
        table.replace({2: 18}, since=18)
        assert other.hidden(99) == {18, 19}
        table.replaced([2])
        assert other.hidden(0) == frozenset()
    for images in both(index):
        assert images.removed() == {0: "missing", 2: "changed"}
        assert images.record(1).name == b"new"
    with table.foreseeing(Change({5: "missing"})):
        pass
    assert 5 not in table.removed()


def test_rows_from_since_on_are_hidden_until_the_change_that_settles_is_there(index, monkeypatch):
    from instsearch_formats import places

    table = index.images
    table.replace({}, since=19)
    note = json.loads((index.path / "replacing.json").read_text())
    table.remove([3], "skipped: meanwhile")
    assert table.hidden(20) == {19}
    monkeypatch.setattr(places, "remove", lambda *_: None)
    with table.foreseeing(Change({4: "missing"})):
        table.replaced([])
    assert table.replacement().id == note["id"]  # as after a kill there
    for images in both(index):
        assert images.hidden(20) == frozenset()


@pytest.mark.parametrize(
    "change",
    [
        Change({20: "x"}),
        Change(restored={-1}),
        Change(places={99: ((0, b"x"),)}),
        Change(places={1: ((0, b"../x"),)}),
        Change(places={1: ((0, b""),)}),
        Change(places={1: ((0, b"/etc/passwd"),)}),
    ],
)
def test_what_cannot_be_is_not_written(index, change):
    with pytest.raises(FormatError):
        index.images.change(change)
    assert index.images.tombstones() == []


def rows(*values):
    return np.array(values, np.int64)


PLACED = {
    "placed": rows(1),
    "root": np.array([0], np.uint32),
    "indptr": rows(0, 1),
    "name": np.frombuffer(b"x", np.uint8),
}


@pytest.mark.parametrize(
    ("arrays", "attrs"),
    [
        ({}, {}),
        ({"rows": rows().astype(float)}, {}),
        ({"rows": rows(1, 2), "reason": rows(0)}, {"reasons": ["x"]}),
        ({"rows": rows(1), "reason": rows(1)}, {"reasons": ["x"]}),
        ({"rows": rows(1), "reason": rows(0)}, {}),
        ({"rows": rows(), "restored": np.ones((2, 2), np.int64)}, {}),
        *(({"rows": rows(), **{k: v for k, v in PLACED.items() if k != key}}, {}) for key in PLACED),
        ({"rows": rows(), **PLACED, "indptr": rows(0, 2)}, {}),
        ({"rows": rows(), **PLACED, "indptr": rows(0, 0)}, {}),
        ({"rows": rows(), **PLACED, "placed": rows(1, 2)}, {}),
        ({"rows": rows(), **PLACED, "name": np.frombuffer(b"\0", np.uint8)}, {}),
        ({"rows": rows(), **PLACED, "name": np.frombuffer(b"x", np.uint8).astype(np.int16)}, {}),
        ({"rows": rows(), **PLACED, "name": np.frombuffer(b"..", np.uint8), "indptr": rows(0, 2)}, {}),
    ],
)
def test_a_change_of_another_shape_is_refused_and_named(index, arrays, attrs):
    path = index.path / "images" / tombstone_name(0)
    write_arrays(path, {"kind": "images", "name": "removed", "identity": canonical(IDENTITY)}, arrays, attrs)
    opened = Index.open(index.path)
    with pytest.raises(FormatError, match=r"removed-0000000000\.h5"):
        opened.images.removed()
    assert [problem.path for problem in opened.verify()] == [path]


@pytest.mark.parametrize(
    "change", [{"rows": rows(20)}, {"rows": rows(), **PLACED, "root": np.array([7], np.uint32)}]
)
def test_rows_and_roots_that_are_not_there_are_named(index, change):
    path = index.path / "images" / tombstone_name(0)
    write_arrays(path, {"kind": "images", "name": "removed", "identity": canonical(IDENTITY)}, change, {})
    assert [problem.path for problem in Index.open(index.path).verify()] == [path]


def test_a_reader_of_rows_alone_sees_the_rest_as_it_was(index):
    """What instsearch 0.1 reads of a change."""
    from instsearch_formats.part import read_arrays

    index.images.change(Change({3: "missing", 4: "changed"}, {5}, {6: ((0, b"x"),)}))
    arrays, attrs = read_arrays(index.path / "images" / tombstone_name(0), canonical(IDENTITY), index.path)
    assert (arrays["rows"].tolist(), arrays["rows"].dtype) == ([3, 4], np.int64)
    assert attrs["reason"] == ""
    assert index.images._layer.read(6)["name"].tobytes() == b"caf\xe9/6.jpg"
