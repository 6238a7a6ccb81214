"""Names looked up by their hashes are those of all images, whatever became of these since."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from instsearch_cli.engine import names as module
from instsearch_cli.engine.name_hashes import NameHashes, note_names
from instsearch_cli.engine.names import Names
from instsearch_cli.errors import InstsearchError
from instsearch_formats import ImageRecord, Index
from instsearch_formats.changes import Change

PATHS = [b"a.jpg", b"b/a.jpg", b"caf\xe9.jpg", "e\u0301.jpg".encode()]
PLACES = st.tuples(st.integers(0, 2), st.sampled_from(PATHS))


def made(folder: str, places: list[tuple[int, bytes]], noted: int) -> Index:
    """An index of images at places, of which the first have hashes."""
    index = Index.create(Path(folder) / "i")
    with index.lock():
        for root in range(3):
            index.images.add_root(f"/{'xyz'[root]}/photos")
        for start, stop in ((0, noted), (noted, len(places))):
            some = [ImageRecord(name, root, 1, 1, 1, 1, bytes(32)) for root, name in places[start:stop]]
            if some:
                index.images.append(some)
            if not start:
                note_names(index)
    return index


@given(st.lists(PLACES, min_size=1, max_size=9), st.data())
def test_looked_up_as_among_all(places: list[tuple[int, bytes]], data: st.DataObject) -> None:
    rows = st.integers(0, len(places) - 1)
    with tempfile.TemporaryDirectory() as folder:
        index = made(folder, places, data.draw(st.integers(0, len(places))))
        assert len(NameHashes(index)) <= len(places)
        with index.lock():
            index.images.remove(data.draw(st.sets(rows, max_size=3)), "removed")
            moved = data.draw(st.dictionaries(rows, st.lists(PLACES, min_size=1, max_size=2), max_size=3))
            index.images.change(Change({}, places={row: tuple(its) for row, its in moved.items()}))
        live = [its for row, its in index.images.records() if row not in index.images.removed()]
        placed = {its[0] for its in moved.values()}
        # nothing comes to lie where something is: only a file that is being replaced has two rows
        assume(all([(i.root, i.name) for i in live].count(place) <= 1 for place in placed))
        looked_up, every = Names(index), Names(index)
        _ = every._rows
        for path in [*PATHS, b"z/photos/a.jpg", b"nothing"]:
            assert sorted(looked_up._having(path)) == sorted(every._having(path))
            assert "_rows" not in vars(looked_up)
        for row, record in index.images.records():
            if row not in index.images.removed():
                assert looked_up.of(record) == every.of(record)
                found = []
                for names in (looked_up, every):
                    try:
                        found.append(names.find(every.of(record)))
                    except InstsearchError as error:
                        found.append(str(error))
                assert found[0] == found[1]


def test_many_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 2)
    index = made(str(tmp_path), [(0, b"a.jpg"), (1, b"a.jpg"), (1, b"b.jpg")], 3)
    names = Names(index)
    for row in range(3):
        label = ("photos" if row == 2 else "xy"[row] + "/photos") + "/"
        expected = f"{label if row < 2 else ''}{'aab'[row]}.jpg"
        assert names.of(index.images.record(row)) == expected
    assert "_rows" in vars(names)


@pytest.mark.parametrize("damage", ["line", "sum", "more", "none", "odd", "no hex", "many"])
def test_hashes_that_are_damaged_are_gone_without(tmp_path: Path, damage: str) -> None:
    index = made(str(tmp_path), [(0, b"a.jpg"), (1, b"a.jpg")], 2)
    path = index.path / "names.txt"
    text = path.read_text()
    changed = {"line": text[:-3] + "0\n", "sum": "0" + text, "more": text + "0" * 16 + "\n", "none": ""}
    lies = {"odd": "00" * 9 + "\n", "no hex": "x" * 16 + "\n", "many": 3 * (16 * "0" + "\n")}
    summed = {name: f"{hashlib.sha256(lie.encode()).hexdigest()}\n{lie}" for name, lie in lies.items()}
    path.write_text((changed | summed)[damage])
    names = Names(index)
    assert len(names._hashes) == 0
    assert names.of(index.images.record(0)) == "x/photos/a.jpg"
    with index.lock():
        note_names(index)
    assert path.read_text() == text
