"""Stamps of files: found by row in a text of lines, of which a question reads few."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.stamps import Stamp, Stamps
from instsearch_formats import Index


@given(st.data())
def test_stamps_are_found_in_any_order(data: st.DataObject) -> None:
    """Rows with gaps, asked for by chance, some noted anew: as a dictionary has them, also when read again."""
    stamps = st.tuples(st.builds(Stamp, *[st.integers(0, 99)] * 3), st.binary(min_size=8, max_size=8))
    wanted = data.draw(st.dictionaries(st.integers(0, 40), stamps, max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        there = Index.create(Path(folder) / "i")
        kept = Stamps(there)
        for row, (stamp, digest) in wanted.items():
            kept.note(row, stamp, digest)
        for _ in range(2):
            with there.lock():
                kept.save()
            kept = Stamps(there)
            for row in data.draw(st.permutations(range(42))):
                stamp, digest = wanted.get(row, (None, b""))
                assert kept._get(row) == (None if stamp is None else (stamp, digest.hex()))
            more = data.draw(st.dictionaries(st.integers(0, 41), stamps, max_size=3))
            for row, (stamp, digest) in more.items():
                kept.note(row, stamp, digest)
                assert kept._get(row) == (stamp, digest.hex())
            wanted |= more


def test_a_damaged_line_of_stamps_costs_no_more_than_its_row(tmp_path: Path) -> None:
    there = Index.create(tmp_path / "i")
    with there.lock():
        there.write_text("stamps.txt", "0\t1\t2\t3\taa\n1\t1\tx\t3\tbb\n2\t1\t2\t3\tcc\n3\t1")
    kept = Stamps(there)
    assert [kept._get(row) for row in range(4)] == [
        (Stamp(1, 2, 3), "aa"),
        None,
        (Stamp(1, 2, 3), "cc"),
        None,
    ]
