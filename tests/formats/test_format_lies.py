"""Files whose seals fit and whose insides lie: refused before HDF5, its filters or numpy believe them."""

from __future__ import annotations

import io
import shutil
import struct

import h5py
import hdf5plugin
import numpy as np
import pytest

from instsearch_formats import Array, FormatError, Index, sums
from instsearch_formats import part as parts
from instsearch_formats.datasets import finite, frame_content
from instsearch_formats.declared import check
from resealed import rewrite

ZSTD = dict(hdf5plugin.Zstd())


def frame(claimed: int, blocks: bytes = b"\x01\x00\x00") -> bytes:
    """A frame of zstd that claims to hold so many bytes."""
    return b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", claimed) + blocks


def direct(name, stored, n=36, mask=0, dtype="f4", **how):
    """A data set of one chunk whose stored bytes are given."""

    def change(file):
        tail = file[name].shape[1:]
        del file[name]
        data = file.create_dataset(name, (n, *tail), dtype, chunks=(n, *tail), **how)
        data.id.write_direct_chunk((0,) * (1 + len(tail)), stored, filter_mask=mask)

    return change


def recreated(name, **how):
    """The same numbers, stored in another way."""

    def change(file):
        data = file[name][()]
        del file[name]
        file.create_dataset(name, data=data, **{"chunks": data.shape, "fletcher32": True, **how})

    return change


def valued(name, value):
    def change(file):
        data = file[name][()]
        data.reshape(-1)[-1] = value
        file[name][...] = data

    return change


LIES = {
    "a chunk shorter than it claims": ("scores", direct("scores", b"\0" * 8, fletcher32=True)),
    "a chunk longer than it claims": ("scores", direct("scores", b"\0" * 400, fletcher32=True)),
    "a chunk of one byte": ("scores", direct("scores", b"x", fletcher32=True)),
    "a chunk without its filter": ("scores", direct("scores", b"\0" * 148, mask=1, fletcher32=True)),
    "no filter": ("scores", recreated("scores", fletcher32=False)),
    "gzip": ("scores", recreated("scores", compression="gzip")),
    "lzf": ("scores", recreated("scores", compression="lzf")),
    "shuffle alone": ("scores", recreated("scores", shuffle=True)),
    "zstd where there is none": ("boxes", recreated("boxes", **ZSTD)),
    "blosc": ("scores", recreated("scores", **hdf5plugin.Blosc())),
    "scale and offset": ("scores", recreated("scores", fletcher32=False, scaleoffset=3)),
    "not finite": ("scores", valued("scores", np.nan)),
    "infinite": ("boxes", valued("boxes", np.inf)),
    "the other byte order": ("scores", recreated("scores", dtype=">f4")),
    "a pointer in compressed chunks": ("indptr", recreated("indptr", **ZSTD)),
}


@pytest.mark.parametrize(("name", "change"), LIES.values(), ids=LIES.keys())
def test_regions_that_lie(index, fill, name, change):
    layer = fill(index, "regions")
    path = layer.path / "part-0000000008-0000000016.h5"
    rewrite(path, change)
    with pytest.raises(FormatError, match=path.name):
        layer.read(14)
    assert path in {problem.path for problem in index.verify()}


@pytest.mark.parametrize(
    "stored",
    [
        frame(3 << 30),
        frame(7),
        b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00",  # does not say how much it holds
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + frame(36 * 3 * 2),  # a frame to be skipped comes first
        b"not a frame at all, but long enough to look like one",
    ],
)
def test_frames_that_lie(index, fill, stored):
    layer = fill(index, "dense-map")
    path = layer.path / "part-0000000008-0000000016.h5"

    def change(file):
        shape, dtype = file["values"].shape, file["values"].dtype
        del file["values"]
        data = file.create_dataset("values", shape, dtype, chunks=shape, fletcher32=True, **ZSTD)
        data.id.write_direct_chunk((0, 0), stored + b"\0\0\0\0")

    rewrite(path, change)
    with pytest.raises(FormatError, match="a chunk of values holds"):
        layer.read(14)


def test_what_a_frame_says_it_holds():
    for n in (1, 250, 255, 256, 257, 70_000, 300_000):
        whole = io.BytesIO()
        with h5py.File(whole, "w") as file:
            data = file.create_dataset("x", data=np.arange(n) % 7, dtype="u1", chunks=(n,), **ZSTD)
            _, stored = data.id.read_direct_chunk((0,))
        assert frame_content(stored[:18]) == n
    assert frame_content(b"") is None
    assert frame_content(frame(5)[:9]) is None


def test_one_image_has_no_more_than_an_item_may(index, fill, monkeypatch):
    layer = fill(index, "vectors")
    monkeypatch.setattr(parts, "ITEM", 100)
    with pytest.raises(FormatError, match="100 are the most"):
        layer.read(3)


def test_arrays_that_lie_in_one_place(index):
    index.write_model("m", {}, {"a": np.arange(3000.0), "b": np.arange(3000.0)}, {})
    path = next((index.path / "models").glob("*.h5"))

    def alias(file):
        del file["b"]
        for i in range(200):
            file[f"b{i}"] = file["a"]

    rewrite(path, alias)
    with pytest.raises(FormatError, match="lie in the same place"):
        index.read_model("m", {})


def test_finite():
    for dtype in ("f2", "f4", "f8"):
        good = np.array(
            [0, -0.0, 1, -1, np.finfo(dtype).max, np.finfo(dtype).min, np.finfo(dtype).tiny], dtype
        )
        assert finite(good)
        for bad in (np.nan, np.inf, -np.inf, -np.nan):
            assert not finite(np.append(good, np.array(bad, dtype)))
    assert finite(np.empty(0, "f2"))
    assert not finite(np.full((3, 4), np.inf, "f2")[:, ::2])


WANTED = {
    "rows": Array("i4", ("P",), below="n"),
    "pointers": Array("i8", ("K+1",), climbs="P"),
    "start": Array("i8", (1,), equals="start"),
    "shared": Array("i8", ("K",), spans=("pointers", "n")),
    "more": Array("f2 f4", ("P", 2), group="more"),
    "still": Array("f4", (), group="more"),
}


def good_arrays():
    return {
        "rows": np.array([0, 2, 1], np.int32),
        "pointers": np.array([0, 1, 1, 3]),
        "start": np.array([4]),
        "shared": np.array([2, 3, 1]),
        "more": np.ones((3, 2), np.float16),
        "still": np.float32(1),
        "others": np.array([np.nan]),
    }


def test_declared_arrays():
    good = good_arrays()
    check(good, WANTED, n=3, start=4)
    check({k: v for k, v in good.items() if k not in ("more", "still")}, WANTED, n=3, start=4)
    for change in (
        {"rows": np.array([0, 3, 1], np.int32)},
        {"rows": np.array([0, -1, 1], np.int32)},
        {"rows": np.array([0, 2, 1])},
        {"rows": np.array([0, 2], np.int32)},
        {"rows": np.array([[0, 2, 1]], np.int32)},
        {"pointers": np.array([0, 2, 1, 3])},
        {"pointers": np.array([1, 1, 1, 3])},
        {"pointers": np.array([0, 1, 1, 4])},
        {"pointers": np.empty(0, np.int64)},
        {"start": np.array([5])},
        {"shared": np.array([2, 3, 2])},
        {"shared": np.array([2, -1, 1])},
        {"shared": np.array([2**63 - 1, 3, 1])},
        {"more": np.full((3, 2), np.inf, np.float16)},
        {"more": np.ones((3, 1), np.float16)},
        {"still": np.float32(np.nan)},
    ):
        with pytest.raises(ValueError, match=r"wanted|runs|falling|finite|not 4|reaches"):
            check(good | change, WANTED, n=3, start=4)
    for name in good.keys() - {"others"}:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            check({k: v for k, v in good.items() if k != name}, WANTED, n=3, start=4)


@pytest.mark.parametrize("mapped", [4096, parts.MAPPED])
def test_a_changed_bit_of_a_segment_is_noticed(index, monkeypatch, mapped):
    """Small arrays and large ones, those of one page and of several, and those checked page by page."""
    rng = np.random.default_rng(0)
    arrays = {"small": rng.random(5), "large": rng.random((3000, 3)), "odd": np.arange(4999, dtype="u1")}
    monkeypatch.setattr(sums, "PAGE", 8192)
    monkeypatch.setattr(parts, "MAPPED", mapped)
    layer = index.layer("search", "x", "arrays", {})
    layer.write_arrays(range(20), arrays)
    path = layer.path / "part-0000000000-0000000020.h5"
    whole = path.read_bytes()
    for name, array in arrays.items():
        at = whole.index(array.tobytes()) + array.nbytes - 1
        for limit in (2**30, 0):
            monkeypatch.setattr(sums, "WHOLE", limit)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            with pytest.raises((FormatError, ValueError), match="not those that were written"):
                Index.open(index.path).layer("search", "x", "arrays", {}).arrays(range(20))[name][
                    len(array) - 1 :
                ]
            path.write_bytes(whole)
            found = Index.open(index.path).layer("search", "x", "arrays", {}).arrays(range(20))[name]
            np.testing.assert_array_equal(found[:], array)


def test_pages_are_summed_as_they_are_used(monkeypatch):
    monkeypatch.setattr(sums, "PAGE", 64)
    monkeypatch.setattr(sums, "WHOLE", 0)
    array = np.arange(100, dtype="<i4").reshape(50, 2)
    kept = sums.page_sums(array)
    assert len(kept) == 7
    changed = array.copy()
    changed[20] += 1  # the third page, of rows 16 to 23
    paged = sums.checked(changed, kept)
    for key in (slice(0, 16), slice(24, None), np.array([3, 40, 3]), 5, (slice(0, 8), 1), slice(7, 7), -1):
        assert type(paged[key]) is not type(paged)
        np.testing.assert_array_equal(paged[key], array[key])
    for key in (slice(None), slice(15, 17), np.array([3, 23]), 20, slice(0, 50, 2)):
        with pytest.raises(ValueError, match="not those that were written"):
            paged[key]
    assert paged.shape == (50, 2)


def twin(index, tmp_path):
    """An index of other pictures, made with equal options."""
    other = Index.create(tmp_path / "other")
    other.images.add_root(tmp_path)
    for span in index.images.ranges():
        records = [
            record._replace(digest=record.digest[::-1][:31] + b"\7")
            for _, record in index.images.records(span)
        ]
        other.images.append(records)
    return other


def test_files_of_another_index_are_taken_for_none_of_this_one(index, fill, tmp_path):
    other = twin(index, tmp_path)
    for each in (index, other):
        fill(each, "regions")
        each.layer("search", "x", "arrays", {}).write_arrays(range(20), {"a": np.arange(3)})
        each.write_model("m", {}, {"a": np.arange(3)}, {})
    span = range(8, 16)
    calls = {
        "stuff/thing-*/part-0000000008*": lambda i: i.layer(
            "stuff", "thing", "regions", {"encoding": "regions"}
        ).read(9),
        "search/*/*.h5": lambda i: i.layer("search", "x", "arrays", {}).arrays(range(20)),
        "models/*.h5": lambda i: i.read_model("m", {}),
        "images/part-0000000008*": lambda i: i.layer(
            "stuff", "thing", "regions", {"encoding": "regions"}
        ).read(span[1]),
    }
    for pattern, read in calls.items():
        path = next(index.path.glob(pattern))
        whole = path.read_bytes()
        read(Index.open(index.path))
        shutil.copy(next(other.path.glob(pattern)), path)
        with pytest.raises(FormatError, match="other pictures"):
            read(Index.open(index.path))
        assert Index.open(index.path).verify()
        path.write_bytes(whole)
    assert Index.open(index.path).verify() == []


def test_a_file_cut_short_while_it_is_mapped(index):
    layer = index.layer("search", "x", "arrays", {})
    layer.write_arrays(range(20), {"a": np.arange(30_000)})
    layer.arrays(range(20))
    layer.check_length(range(20))
    path = layer.path / "part-0000000000-0000000020.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:9000])
    with pytest.raises(FormatError, match="cut short"):
        layer.check_length(range(20))
    path.unlink()
    layer.check_length(range(20))


def test_parts_of_a_layer_have_one_width(index, fill):
    layer = fill(index, "vectors")
    path = layer.path / "part-0000000008-0000000016.h5"

    def change(file):
        data = file["vectors"][()]
        del file["vectors"]
        data = np.concatenate([data, data], axis=1)
        file.create_dataset("vectors", data=data, chunks=data.shape, fletcher32=True)

    rewrite(path, change)
    layer.read(3)
    with pytest.raises(FormatError, match="other parts'"):
        layer.read(12)


def test_numbers_of_changes_have_no_end(index):
    index.images.remove([3], "x")
    first = index.images._layer.path / "removed-0000000000.h5"
    shutil.copy(first, first.with_name("removed-9999999999.h5"))
    assert len([p for p in index.verify() if "missing" in p.what]) == 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("replacing.json", '{"rows": [[-1, 10]]}'),
        ("replacing.json", '{"rows": [[1, 1000000000]]}'),
        ("replacing.json", '{"rows": [[1180591620717411303424, 1]]}'),
        ("replacing.json", '{"rows": [], "id": "x", "since": -4}'),
        ("roots.json", '{"roots": ["/etc\\u0000x"]}'),
        ("roots.json", '{"roots": ["/etc\\ud800x"]}'),
        ("roots.json", '{"roots": [3]}'),
    ],
)
def test_texts_that_lie(index, name, text):
    (index.path / name).write_text(text)
    with pytest.raises(FormatError, match=name):
        index.images.replacing() if name == "replacing.json" else index.images.roots
