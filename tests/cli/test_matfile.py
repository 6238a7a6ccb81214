"""MATLAB files as SciPy writes and reads them, and files that nobody should have written."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsearch_cli.measure import matfile
from instsearch_cli.measure.matfile import read_mat
from real_data import PROTOCOLS

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def saved(compressed: bool = True, **variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(content)) + content + bytes(-len(content) % 8)


def array_head(kind: int, name: bytes, shape: tuple[int, ...] = (1, 1), order: str = "<") -> bytes:
    flags = element(6, struct.pack(order + "II", kind, 0), order)
    return flags + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order) + element(1, name, order)


types = st.sampled_from([np.float64, np.float32, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])


@given(hnp.arrays(types, hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4)), st.booleans())
def test_numbers(array: np.ndarray, compressed: bool) -> None:
    found = read_mat(saved(compressed, x=array, y=3), ["x", "z"])
    assert found.keys() == {"x"}
    assert found["x"].shape == array.shape
    assert np.array_equal(found["x"], array, equal_nan=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_structs_cells_and_text(compressed: bool) -> None:
    people = np.zeros((3, 1), [("name", "O"), ("points", "O")])
    for i in range(3):
        people[i, 0] = (f"person {i} ü", np.arange(2.0 * i).reshape(i, 2))
    cells = np.array([["a", np.eye(2)], [np.array([["b"]], object), ""]], object)
    found = read_mat(saved(compressed, people=people, cells=cells), ["people", "cells"])
    assert [p["name"] for p in found["people"]] == ["person 0 ü", "person 1 ü", "person 2 ü"]
    assert [p["points"].shape for p in found["people"]] == [(0, 2), (1, 2), (2, 2)]
    assert found["people"][2]["points"].tolist() == [[0, 1], [2, 3]]
    a, b, eye, empty = found["cells"]  # column by column
    assert (a, b, empty) == ("a", ["b"], "")
    assert eye.tolist() == [[1, 0], [0, 1]]


def test_the_other_byte_order() -> None:
    value = array_head(6, b"x", (1, 2), ">") + element(9, struct.pack(">dd", 1.5, -2), ">")
    data = HEAD[:124] + struct.pack(">H", 0x100) + b"MI" + element(14, value, ">")
    assert read_mat(data, ["x"])["x"].tolist() == [[1.5, -2]]


@pytest.mark.parametrize("name", ["gnd_oxford5k", "gnd_paris6k"])
@pytest.mark.skipif(not PROTOCOLS.is_dir(), reason="the files of the protocols are not here")
def test_real_files_are_read_as_scipy_reads_them(name: str) -> None:
    path = PROTOCOLS / f"{name}.mat"
    mine, theirs = read_mat(path.read_bytes(), ["gnd", "imlist", "qidx"]), scipy.io.loadmat(path)
    assert mine["imlist"] == [str(cell[0]) for cell in theirs["imlist"].ravel("F")]
    assert np.array_equal(mine["qidx"], theirs["qidx"])
    for ours, other in zip(mine["gnd"], theirs["gnd"].ravel("F"), strict=True):
        assert all(np.array_equal(ours[field], other[field]) for field in ("ok", "junk", "bbx"))


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_within_arrays_without_end(compressed: bool) -> None:
    nested = b""
    for _ in range(40):
        nested = element(14, array_head(1, b"") + nested)
    deep = element(14, array_head(1, b"x") + nested)
    lying = element(14, array_head(1, b"x") + (struct.pack("<II", 14, 48) + array_head(1, b"")) * 100_000)
    for content in (deep, lying):
        file = HEAD + (element(15, zlib.compress(content)) if compressed else content)
        with pytest.raises(ValueError, match=r"nested too deep|cut short"):
            read_mat(file, ["x"])


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(x=np.zeros((1000, 100)))
    assert read_mat(data, ["x"], 900_000)["x"].shape == (1000, 100)
    with pytest.raises(ValueError, match="too large when decompressed"):
        read_mat(data, ["x"], 90_000)
    cells = saved(x=np.full((1, 50), None, object) == 0, y=np.array([[1, "a"]] * 50, object))
    monkeypatch.setattr(matfile, "MOST_ARRAYS", 50)
    with pytest.raises(ValueError, match="too many arrays"):
        read_mat(cells, ["y"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(200), "not a MATLAB 5 file but a 7.3 one"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM".ljust(400), "not a MATLAB 5 file but a 7.3 one"),
        (HEAD + b"\x0e", "cut short"),
        (HEAD + element(14, b"")[:8] + b"1234", "cut short"),
        (HEAD + element(14, array_head(6, b"x")), "cut short"),
        (HEAD + element(14, array_head(6, b"x", (2, 2)) + element(9, bytes(8))), "reshape"),
        (HEAD + element(14, array_head(6, b"x", (-1, 2)) + element(9, bytes(8))), "no shape"),
        (
            HEAD + element(14, array_head(6, b"x", (2**31 - 1,) * 4) + element(9, bytes(8))),
            "array is too big|reshape",
        ),
        (HEAD + element(14, array_head(0x806, b"x") + element(9, bytes(8))), "complex"),
        (HEAD + element(14, array_head(5, b"x") + element(9, bytes(8))), "class 5"),
        (HEAD + element(14, array_head(6, b"x") + element(77, bytes(8))), "type 77"),
        (
            HEAD + element(14, array_head(1, b"x", (2**31 - 1, 9)) + element(9, bytes(8))),
            "type 9 where an array",
        ),
        (HEAD + element(14, array_head(2, b"x") + element(5, bytes(4))), "cut short|without length"),
        (HEAD + element(14, array_head(4, b"x") + element(9, bytes(8))), "where text was"),
        (HEAD + element(15, b"no zlib at all"), "damaged"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mat(data, ["x"])


def test_damage_is_an_error_or_other_numbers_and_never_worse() -> None:
    rng = np.random.default_rng(3)
    table = np.zeros((4, 1), [("a", "O"), ("b", "O")])
    for i in range(4):
        table[i, 0] = (np.arange(6.0).reshape(3, 2), f"text {i}")
    outcomes = set()
    for compressed in (False, True):
        good = saved(compressed, x=table, y=np.array([["a", 1]], object))
        for _ in range(400):
            data = bytearray(good)
            for at in rng.integers(0, len(data), rng.integers(1, 9)):
                data[at] = rng.choice([0, 1, 14, 15, 255, rng.integers(256)])
            if rng.random() < 0.2:
                del data[rng.integers(len(data)) :]
            try:
                read_mat(bytes(data), ["x", "y"])
                outcomes.add("read")
            except ValueError:
                outcomes.add("told")
    assert outcomes == {"read", "told"}
