"""Pickles from outside: what is plain comes back equal, everything else is refused by name."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  (the other side: files as others write them)
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.pickles import Array
from instsearch_plugins.datasets.plain_pickle import LIMIT, load_plain

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=9),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_containers_numbers_and_text_come_back(tmp_path: Path, value: Any, protocol: int) -> None:
    assert load_plain(write(tmp_path / "a.pkl", pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(300, dtype=np.uint8),
        np.arange(12, dtype=np.int64).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.arange(5, dtype=">u2"),
        np.array([], np.int64),
        np.array(7),
        np.array([True, False]),
        np.array(["all_souls_000013", "é"]),
        np.array([1 + 2j]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_come_back(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    loaded = load_plain(write(tmp_path / "a.pkl", pickle.dumps({"easy": [array, array]}, protocol)))
    first, second = loaded["easy"]
    assert first is second
    assert isinstance(first, Array)
    got = np.asarray(first)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("scalar", [np.int64(-7), np.float32(0.5), np.bool_(True), np.str_("é")])
def test_numpys_scalars_become_pythons(tmp_path: Path, scalar: Any, protocol: int) -> None:
    loaded = load_plain(write(tmp_path / "a.pkl", pickle.dumps([scalar], protocol)))
    assert loaded == [scalar.item()]
    assert type(loaded[0]) is type(scalar.item())


def test_an_array_as_python_2_wrote_it(tmp_path: Path) -> None:
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87Rq\x02"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08\xff\x00\x00\x00\x80\x01\x00\x00tb."
    )
    assert np.asarray(load_plain(write(tmp_path / "a.pkl", content))).tolist() == [255, 384]


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_refused_and_not_made(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"gnd": [Evil(os.mkdir, str(trace))]}, protocol)
    with pytest.raises(InstsearchError, match=rf"refused: it asks for {os.name}\.mkdir"):
        load_plain(write(tmp_path / "a.pkl", content))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"(S'1'\nibuiltins\neval\n.", "builtins.eval"),
        (b"cnumpy.lib.npyio\nload\n.", "numpy.lib.npyio.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x13core.multiarray.fft\x93.", "numpy.core.multiarray.fft"),
        (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps(np.array([{}], object)), "type 'O8'"),
        (pickle.dumps(np.zeros(2, [("a", "i4"), ("b", "O")])), "type 'V12'"),
        (pickle.dumps(np.zeros(2, "M8[s]")), "type 'M8'"),
        (pickle.dumps(np.zeros(3, np.uint8), 2).replace(b"K\x03\x85", b"K\x7f\x85"), r"shape \(127,\)"),
        (b"cnumpy\ndtype\n}S'function'\nI1\nsb.", "attributes of"),
        (b"cnumpy\ndtype\n(S'i4'\nI0\nI1\ntR(I3\nS'<'\nNS'a'\nNI-1\nI-1\nI0\ntb.", "structured"),
        (b"cnumpy\nndarray\n(I99\ntR.", "not written as numpy"),
        (b"cnumpy.core.multiarray\nscalar\n(S'i4'\nS'abcd'\ntR.", "not written as numpy"),
        (b"c__builtin__\nbytes\n(I99\ntR.", "bytes of something"),
        (b"c_codecs\nencode\n(VYQ==\nVbase64\ntR.", "encoding 'base64'"),
        (b"\x80\x02\x82\x01.", "extension 1"),
    ],
)
def test_what_is_not_plain_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InstsearchError, match=f"refused: it asks for .*{message}"):
        load_plain(write(tmp_path / "a.pkl", content))


@pytest.mark.parametrize("content", [b"", b"x", b"not a pickle", pickle.dumps([1, 2])[:-3], b"]" * 9])
def test_what_is_no_pickle_is_said_so(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InstsearchError, match="is not a pickle"):
        load_plain(write(tmp_path / "a.pkl", content))


def test_a_file_cannot_ask_for_memory(tmp_path: Path) -> None:
    assert load_plain(write(tmp_path / "a.pkl", b"\x80\x02]r\xff\xff\xff\xff.")) == []  # memo entry 2^32 - 1
    with pytest.raises(InstsearchError, match="not a pickle"):
        load_plain(write(tmp_path / "b.pkl", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f."))  # 10^18 bytes
    with (tmp_path / "c.pkl").open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(InstsearchError, match="larger than 16 MB"):
        load_plain(tmp_path / "c.pkl")
    with pytest.raises(InstsearchError, match="cannot read"):
        load_plain(tmp_path / "d.pkl")
