"""What reads the files of others: archives, arrays and text within their bounds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside import archives, text
from instsearch_cli.outside.archives import open_archive, read_npy
from instsearch_cli.outside.files import nameable, open_plain, read_text
from instsearch_cli.outside.text import parse_json, parse_toml, shown


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">i2", "?", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_order_are_what_they_are(dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4) % 3, dtype, order=order)
    data = npy(array)
    found = read_npy(io.BytesIO(data), len(data))
    assert np.array_equal(found, array)
    assert found.dtype.isnative
    found[0, 0] = 1  # a copy of one's own


def test_archives_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(names: list[str], content: bytes = b"x") -> Path:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content)
        return tmp_path / "a.zip"

    def reading(path: Path) -> None:
        with open_archive(path) as archive:
            archive.read("a")

    reading(pack(["a", "b"]))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = pack(["a", "a"])
    with pytest.raises(InstsearchError, match="two entries of one name"):
        reading(twice)
    with pytest.raises(InstsearchError, match="claim to be 100,000,000"):
        reading(pack(["a"], bytes(100_000_000)))
    monkeypatch.setattr(archives, "DIRECTORY", 1000)
    with pytest.raises(InstsearchError, match="a list of entries of"):
        reading(pack([str(i) for i in range(100)]))


def test_small_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown({"a": [[[[[[[[1]]]]]]]]}).count("[") < 9
    assert len(shown(["x" * 1000] * 1000)) < 300
    assert [nameable(name) for name in ("a", "\udcff", "\ud800", "a\0")] == [True, True, False, False]
    assert parse_json("[1e5, NaN]", "x", finite=False)[0] == 1e5
    assert parse_toml("a.b.c = [0.1, 0.2]\nd = 'a.b.c.d'", "x") == {
        "a": {"b": {"c": [0.1, 0.2]}},
        "d": "a.b.c.d",
    }
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "a", 10) == "abc"
    with pytest.raises(InstsearchError, match="larger than"):
        open_plain(tmp_path / "a", 5)
    monkeypatch.setattr(text, "MOST_VALUES", 3)
    with pytest.raises(InstsearchError, match="over 3 values"):
        parse_json("[1, 2, 3, 4]", "x")
