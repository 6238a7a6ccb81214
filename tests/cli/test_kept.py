"""What is kept in memory stays within its bytes, and what was used last stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.kept import Kept


def test_what_was_used_longest_ago_goes():
    kept: Kept[str, int] = Kept(10)
    for key in "abc":
        kept.put(key, ord(key), 3)
    assert kept.get("a") == 97
    kept.put("d", 100, 3)
    assert [kept.get(key) for key in "abcd"] == [97, None, 99, 100]
    kept.drop("a")
    kept.drop("nothing")
    kept.put("e", 1, 4)
    assert [kept.get(key) for key in "acde"] == [None, 99, 100, 1]
    kept.put("large", 1, 11)
    assert kept.get("large") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=40))
def test_against_a_plain_list(puts):
    kept: Kept[int, int] = Kept(12)
    plain: list[tuple[int, int, int]] = []
    for n, (key, size) in enumerate(puts):
        kept.put(key, n, size)
        plain = [each for each in plain if each[0] != key] + [(key, n, size)]
        while sum(each[2] for each in plain) > 12:
            plain.pop(0)
    assert {key: kept.get(key) for key in range(6)} == {
        key: next((n for k, n, _ in plain if k == key), None) for key in range(6)
    }
