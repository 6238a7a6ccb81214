"""The image table: rows are given out once, names are bytes, removal is a note."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from instsearch_formats import FormatError, Index
from instsearch_formats import part as parts


def test_rows_and_ranges(index, record_of):
    table = index.images
    assert len(table) == 20
    assert table.ranges() == [range(0, 8), range(8, 16), range(16, 20)]
    assert [table.record(i) for i in range(20)] == [record_of(i) for i in range(20)]
    assert list(table.records()) == [(i, record_of(i)) for i in range(20)]
    assert list(table.records(range(6, 17))) == [(i, record_of(i)) for i in range(6, 17)]
    with pytest.raises(FormatError, match="no row 20"):
        table.record(20)


def test_names_need_not_be_utf8(index, tmp_path):
    assert index.images.record(3).name == b"caf\xe9/3.jpg"
    assert index.images.name(3) == os.fsdecode(b"caf\xe9/3.jpg")
    path = index.images.path(3)
    path.parent.mkdir()
    path.write_bytes(b"picture")
    assert (tmp_path / os.fsdecode(b"caf\xe9") / "3.jpg").read_bytes() == b"picture"


@pytest.mark.parametrize("name", [b"", b"/etc/passwd", b"../x.jpg", b"a/../../x.jpg", b"a\0b"])
def test_names_stay_below_their_root(index, record_of, name):
    with pytest.raises(FormatError, match="name"):
        index.images.append([record_of(0)._replace(name=name)])
    assert len(index.images) == 20


def test_records_are_checked(index, record_of):
    for wrong in (
        {"digest": b"short"},
        {"width": -1},
        {"width": 2**32},
        {"root": -1},
        {"nbytes": 2**63},
        {"mtime_ns": 1.5},
    ):
        with pytest.raises(FormatError):
            index.images.append([record_of(0), record_of(1)._replace(**wrong)])
    assert index.images.append([record_of(1)._replace(mtime_ns=-5)]) == range(20, 21)
    assert index.images.record(20).mtime_ns == -5


@pytest.mark.parametrize("count", [0, 257])
def test_at_most_256_at_once(index, record_of, count):
    with pytest.raises(FormatError, match="1 to 256"):
        index.images.append([record_of(0)] * count)


def test_256_at_once(index, record_of):
    assert index.images.append([record_of(i) for i in range(256)]) == range(20, 276)
    assert index.images.record(275) == record_of(255)


def test_removal(index):
    table = index.images
    assert table.removed() == {}
    assert table.alive().tolist() == [True] * 20
    table.remove([3, 17], "deleted")
    table.remove(iter([17, 4]), "a copy of row 2: ä")
    table.remove([3], "again")
    table.remove([], "nothing")
    for images in (table, Index.open(index.path).images):
        assert images.removed() == {3: "deleted", 17: "deleted", 4: "a copy of row 2: ä"}
        assert np.flatnonzero(~images.alive()).tolist() == [3, 4, 17]
        assert len(images) == 20
    assert sorted(p.name for p in (index.path / "images").glob("removed*")) == [
        "removed-0000000000.h5",
        "removed-0000000001.h5",
    ]
    for rows in ([20], [-1], [0, 99]):
        with pytest.raises(FormatError, match="not all among the 20"):
            table.remove(rows, "x")


def test_roots(tmp_path):
    table = Index.create(tmp_path / "i").images
    assert table.roots == []
    assert table.add_root("/photos") == 0
    assert table.add_root("/more/photos") == 1
    assert table.add_root("/photos/") == 0
    table.move_root("/photos", "/mnt/photos")
    assert table.roots == ["/mnt/photos", "/more/photos"]
    assert Index.open(tmp_path / "i").images.roots == ["/mnt/photos", "/more/photos"]
    with pytest.raises(FormatError, match=r"/photos is no root .* /mnt/photos, /more/photos"):
        table.move_root("/photos", "/x")


def test_roots_move_with_the_folder_that_they_lie_in(tmp_path):
    table = Index.create(tmp_path / "i").images
    for root in ("/p/2019", "/p", "/p/2020/x", "/pp", "/q"):
        table.add_root(root)
    table.move_root("/p", "/q")
    assert table.roots == ["/q/2019", "/q", "/q/2020/x", "/pp", "/q"]
    assert table.moved == ("/p", "/q")
    table.move_root("/q", "/")
    assert table.roots == ["/2019", "/", "/2020/x", "/pp", "/"]


def test_a_folder_is_of_single_files_where_all_its_entries_are(tmp_path):
    table = Index.create(tmp_path / "i").images
    for root, single in (("/p", True), ("/q", True), ("/r", False)):
        table.add_root(root, single)
    table.move_root("/p", "/q")
    assert table.single == {"/q"}
    table.move_root("/q", "/r")
    assert table.single == set()


def test_a_moved_collection_needs_one_changed_root(index, tmp_path):
    index.images.move_root(tmp_path, "/elsewhere")
    assert os.fsencode(index.images.path(5)) == b"/elsewhere/caf\xe9/5.jpg"


def test_roots_that_are_not_utf8(tmp_path):
    table = Index.create(tmp_path / "i").images
    table.add_root(os.fsdecode(b"/caf\xe9"))
    assert os.fsencode(table.roots[0]) == b"/caf\xe9"


@pytest.mark.parametrize("text", ["", "[]", '{"roots": 3}', '{"roots": [3]}', "{"])
def test_a_spoilt_roots_file_is_an_error(index, text):
    (index.path / "roots.json").write_text(text)
    if text:
        with pytest.raises(FormatError, match=r"roots\.json should read"):
            index.images.path(0)


def test_a_row_of_an_unknown_root_is_an_error(index):
    index.write_text("roots.json", '{"roots": []}')
    with pytest.raises(FormatError, match="row 3"):
        index.images.path(3)


def test_a_missing_part_is_an_error(index):
    (index.path / "images/part-0000000008-0000000016.h5").unlink()
    images = Index.open(index.path).images
    with pytest.raises(FormatError, match="part-0000000008-0000000016"):
        len(images)


def test_a_million_rows_open_nothing(index, monkeypatch):
    folder = index.path / "images"
    for path in folder.iterdir():
        path.unlink()
    for start in range(0, 1_000_000, 256):
        (folder / parts.part_name(range(start, min(start + 256, 1_000_000)))).touch()
    monkeypatch.setattr(parts.Part, "__init__", lambda *_: pytest.fail("a part was opened"))
    images = Index.open(index.path).images
    assert len(images) == 1_000_000
    assert len(images.ranges()) == 3907
    assert images.alive().sum() == 1_000_000
    rows = random.Random(0).choices(range(1_000_000), k=1000)
    assert all(images._layer.covers(row) for row in rows)


def test_a_lost_tombstones_number_is_given_to_the_next_removal(index):
    for row in (1, 2, 3):
        index.images.remove([row], "x")
    lost = index.path / "images" / "removed-0000000001.h5"
    lost.unlink()
    opened = Index.open(index.path)
    assert (sorted(opened.images.removed()), opened.images.tombstones()) == ([1, 3], [0, 2])
    (problem,) = opened.verify()
    assert problem.path == lost
    assert "found again" in problem.what
    opened.images.remove([5], "y")
    assert opened.images.tombstones() == [0, 2, 3]
    opened.images.remove([2], "y", refill=True)
    assert opened.verify() == []
    assert opened.images.removed() == {1: "x", 2: "y", 3: "x", 5: "y"}
    opened.images.remove([6], "z", refill=True)
    assert opened.images.tombstones() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("verb", ["copy", "rename"])
def test_a_tombstone_in_place_of_another_is_refused(index, verb):
    for row in (1, 2):
        index.images.remove([row], "x")
    first, second = (index.path / "images" / f"removed-{n:010}.h5" for n in (0, 1))
    if verb == "copy":
        first.write_bytes(second.read_bytes())
    else:
        second.rename(first)
    opened = Index.open(index.path)
    with pytest.raises(
        FormatError, match=r"removed-0000000000\.h5 .*'removed-0000000001\.h5', renamed or copied"
    ):
        opened.images.removed()
    assert first in [problem.path for problem in opened.verify()]


def test_rows_that_are_being_replaced(index):
    assert index.images.replacing() == {}
    index.images.replace({3: 18, 4: 19})
    assert Index.open(index.path).images.replacing() == {3: 18, 4: 19}
    assert index.images.removed() == {}
    assert index.verify() == []
    index.images.replaced([3, 4])
    assert index.images.removed() == {3: "changed", 4: "changed"}
    assert index.images.replacing() == {}
    index.images.replaced([])


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": 3}', '{"rows": [[1]]}', '{"rows": [["1", 2]]}', "[" * 99_999]
)
def test_a_damaged_note_of_what_is_being_replaced(index, text):
    index.write_text("replacing.json", text)
    with pytest.raises(FormatError, match=r"replacing\.json is damaged: delete it"):
        index.images.replacing()


def test_a_path_goes_before_a_root_and_a_path(index, record_of):
    """One image's path is another's behind the end of its root: hits call the first one so."""
    first, second = index.images.add_root("/photos/b"), index.images.add_root("/photos/one")
    given = ((first, b"one/1.jpg"), (second, b"1.jpg"), (second, b"2.jpg"))
    rows = index.images.append([record_of(0)._replace(root=root, name=name) for root, name in given])
    named = index.images.named(rows)
    assert named["one/1.jpg"] == rows[0]
    assert named["1.jpg"] == rows[1]
    assert named["one/2.jpg"] == named["2.jpg"] == rows[2]
