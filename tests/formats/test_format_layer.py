"""Layers: which rows there are, reading one or all of them, and bounded memory."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest

from instsearch_formats import FormatError, Index
from instsearch_formats import part as parts
from instsearch_formats.cache import PartCache


def write(layer, span, items):
    with layer.writer(span) as writer:
        for item in items:
            writer.append(item)


def test_nothing_is_on_disk_before_the_first_part(index, item_of):
    layer = index.layer("features", "net", "dense-map", {"a": 1})
    assert not layer.path.exists()
    assert layer.ranges() == []
    assert not layer.covers(0)
    assert not layer.has(range(8))
    assert layer.nbytes == 0
    assert list(layer.blocks()) == []
    write(layer, range(8), [item_of("dense-map", i) for i in range(8)])
    assert [path.name for path in layer.path.iterdir()] == ["part-0000000000-0000000008.h5"]
    assert layer.has(range(8))
    assert not layer.has(range(7))
    assert layer.covers(7)
    assert not layer.covers(8)
    assert layer.nbytes == sum(path.stat().st_size for path in layer.path.iterdir())


def test_the_folder_is_named_by_the_options(index):
    one = index.layer("features", "net", "dense-map", {"a": 1, "b": (2,)})
    same = index.layer("features", "net", "dense-map", {"b": [2], "a": 1})
    other = index.layer("features", "net", "dense-map", {"a": 1, "b": [3]})
    assert one.path == same.path != other.path
    assert one.identity == {"a": 1, "b": [2]}
    assert one.path.parent.name == "features"


def test_read(index, fill, encoding, item_of, same):
    layer = fill(index, encoding)
    assert layer.ranges() == [range(0, 8), range(8, 16), range(16, 20)]
    for row in range(20):
        same(layer.read(row), item_of(encoding, row))
    for row in (-1, 20, 10**6):
        with pytest.raises(FormatError, match=f"no row {row}"):
            layer.read(row)


POINTERS = {"csr": "rows"}


SINGLE = ("grid", "transform", "grids", "transforms", "logits", "classes")


def split(block: dict, encoding: str) -> list[dict]:
    """A block cut into items, by the pointers as SPEC.md describes them."""
    items = []
    outer = block[POINTERS.get(encoding, "indptr")]
    for i in range(block["stop"] - block["start"]):
        a, b = outer[i], outer[i + 1]
        item = {key: block[key][i] for key in SINGLE if key in block}
        if encoding == "csr":
            c, d = block["indptr"][a], block["indptr"][b]
            item |= {
                "indices": block["indices"][c:d],
                "data": block["data"][c:d],
                "boxes": block["boxes"][a:b],
            }
            item |= {"indptr": block["indptr"][a : b + 1] - c, "dim": block["dim"]}
        else:
            ragged = set(block) - {*SINGLE, "indptr", "start", "stop"}
            item |= {key: block[key][a:b] for key in ragged}
        items.append(item)
    return items


@pytest.mark.parametrize("span", [None, range(20), range(8, 16), range(3, 18), range(5, 6)])
@pytest.mark.parametrize("limit", [1, 150, parts.BLOCK])
def test_blocks(index, fill, encoding, item_of, same, span, limit, monkeypatch):
    layer = fill(index, encoding)
    cuts = parts.Part.cuts
    monkeypatch.setattr(parts.Part, "cuts", lambda self, a, b: cuts(self, a, b, limit))
    row = 0 if span is None else span.start
    for block in layer.blocks(span):
        assert block["start"] == row
        for item in split(block, encoding):
            same(item, item_of(encoding, row))
            row += 1
        assert block["stop"] == row
    assert row == (20 if span is None else span.stop)


def test_blocks_are_as_long_as_the_limit_allows(index, fill):
    layer = fill(index, "vectors")  # rows 0 and 5 are empty, the others have 6 x (8 + 4) x 4 = 288 bytes
    part = parts.Part(layer.path / "part-0000000000-0000000008.h5")
    assert list(part.cuts(0, 8, 600)) == [(0, 3), (3, 6), (6, 8)]
    assert list(part.cuts(0, 8, 1)) == [(i, i + 1) for i in range(8)]
    assert list(part.cuts(2, 5, 10**6)) == [(2, 5)]


def test_blocks_over_a_gap_are_an_error(index, item_of):
    layer = index.layer("features", "net", "dense-map", {})
    for span in (range(8), range(16, 20)):
        write(layer, span, [item_of("dense-map", i) for i in span])
    assert [(b["start"], b["stop"]) for b in layer.blocks()] == [(0, 8), (16, 20)]
    with pytest.raises(FormatError, match="has 12 of the 20 rows"):
        list(layer.blocks(range(20)))


def test_a_part_is_written_once(index, fill, item_of):
    layer = fill(index, "regions")
    before = {path: path.read_bytes() for path in layer.path.iterdir()}
    for span, reason in ((range(8), "never rewritten"), (range(4, 6), "overlap"), (range(19, 25), "overlap")):
        with pytest.raises(FormatError, match=reason):
            write(layer, span, [item_of("regions", i) for i in span])
    assert {path: path.read_bytes() for path in layer.path.iterdir()} == before


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_part_has_all_its_rows(index, item_of, count):
    layer = index.layer("features", "net", "dense-map", {})
    with pytest.raises(FormatError, match="rows"):
        write(layer, range(4), [item_of("dense-map", i) for i in range(count)])
    assert not list(layer.path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("mine"), OSError(28, "mine"), KeyboardInterrupt()])
def test_an_error_inside_passes_and_leaves_nothing(index, item_of, error):
    layer = index.layer("features", "net", "dense-map", {})

    def failing():
        yield item_of("dense-map", 1)
        raise error

    with pytest.raises(type(error)) as caught:
        write(layer, range(4), failing())
    assert caught.value is error
    assert not list(layer.path.iterdir())


@pytest.mark.parametrize(
    "span", [range(0), range(3, 2), range(0, 4, 2), range(-1, 3), range(10**10, 10**10 + 1)]
)
def test_ranges_that_are_none(index, span):
    with pytest.raises(FormatError, match="no range"):
        index.layer("features", "net", "dense-map", {}).writer(span)


def test_another_reader_sees_new_parts(index, item_of):
    writer = index.layer("features", "net", "dense-map", {})
    reader = Index.open(index.path).layer("features", "net", "dense-map", {})
    for start in range(0, 40, 4):
        span = range(start, start + 4)
        assert not reader.covers(start)
        write(writer, span, [item_of("dense-map", i) for i in span])
        assert reader.covers(start)
        assert reader.ranges()[-1] == span
        assert reader.read(start + 3)["transform"][3] == start + 3


def test_other_options_under_the_same_name_are_an_error(index, fill):
    layer = fill(index, "regions", option=1)
    other = index.layer("stuff", "thing", "regions", {"encoding": "regions", "option": 2})
    layer.path.rename(other.path)
    with pytest.raises(FormatError, match="other options"):
        other.read(0)
    same_options = index.layer("stuff", "thing", "vectors", {"encoding": "regions", "option": 1})
    other.path.rename(same_options.path)
    with pytest.raises(FormatError, match="other options"):
        same_options.read(0)


def test_long_identities(index, item_of):
    identity = {"classes": [f"class {i}" for i in range(20_000)]}
    layer = index.layer("features", "net", "dense-map", identity)
    write(layer, range(8), [item_of("dense-map", i) for i in range(8)])
    assert index.layers()[0].identity == identity
    assert index.verify() == []


@pytest.mark.parametrize("least", [4096, parts.MAPPED])
def test_long_arrays_are_mapped_and_short_ones_are_read(index, monkeypatch, least):
    monkeypatch.setattr(parts, "MAPPED", least)
    layer = index.layer("search", "faiss", "arrays", {})
    rng = np.random.default_rng(0)
    arrays = {
        "codes": rng.standard_normal((1000, 32)).astype(np.float32),
        "flags": rng.random(9000) > 0.5,
        "bytes": rng.integers(0, 256, 12_345, np.uint8),
        "lists": np.asfortranarray(rng.standard_normal((300, 40))),
        "strided": np.arange(20_000)[::3],
        "few": np.arange(5),
        "none": np.zeros((0, 3)),
        "scalar": np.array(3.5),
    }
    layer.write_arrays(range(20), arrays, {"metric": "ip", "n": 3})
    back = layer.arrays(range(20))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
        assert back[name].flags.aligned
        assert not back[name].flags.writeable
        assert isinstance(back[name], np.memmap) == (array.nbytes >= least), name
        if array.nbytes >= least:
            assert back[name].ctypes.data % 512 == 0
    assert layer.attrs(range(20)) == {"metric": "ip", "n": 3}


def test_segments_may_overlap_and_cover_picks_the_longest(index):
    layer = index.layer("search", "flat", "arrays", {})
    assert layer.cover(100) == []
    for start, stop in ((0, 8), (8, 16), (0, 16), (16, 20), (16, 24), (30, 40)):
        layer.write_arrays(range(start, stop), {"x": np.arange(start, stop)})
    assert layer.cover(40) == [range(0, 16), range(16, 24)]
    assert layer.cover(20) == [range(0, 16), range(16, 20)]
    assert layer.cover(15) == [range(0, 8)]
    assert layer.cover(5) == []
    assert layer.arrays(range(8, 16))["x"].tolist() == list(range(8, 16))


def test_each_encoding_has_its_own_way_in(index):
    arrays, items = index.layer("search", "flat", "arrays", {}), index.layer("codes", "flat", "vectors", {})
    for call in (lambda: arrays.writer(range(3)), lambda: arrays.read(0), lambda: list(arrays.blocks())):
        with pytest.raises(FormatError, match="write_arrays"):
            call()
    for call in (
        lambda: items.write_arrays(range(3), {}),
        lambda: items.arrays(range(3)),
        lambda: items.attrs(range(3)),
    ):
        with pytest.raises(FormatError, match="writer"):
            call()
    with pytest.raises(FormatError, match="no encoding 'dense'"):
        index.layer("codes", "flat", "dense", {})


def test_memory_is_bounded(index):
    layer = index.layer("features", "net", "dense-map", {})
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((30 * 40, 512)).astype(np.float16) for _ in range(4)]  # 1.2 MB each
    place = {"grid": [30, 40], "transform": [1, 1, 0, 0]}
    layer.path.parent.mkdir()
    tracemalloc.start()
    try:
        with layer.writer(range(64)) as writer:
            for i in range(64):
                writer.append({"values": values[i % 4], **place})
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        sizes = [block["values"].nbytes for block in layer.blocks()]
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 64 * values[0].nbytes
    assert len(sizes) == 3
    assert max(sizes) <= 2**25
    assert written < 2**22
    assert read < 2.5 * 2**25  # the block in hand and the next one


def test_reading_in_threads_while_writing(index, item_of, same, monkeypatch):
    monkeypatch.setattr(PartCache.__init__, "__defaults__", (4,))
    index = Index.open(index.path)
    layer = index.layer("features", "net", "dense-map", {})
    items = [item_of("dense-map", i) for i in range(160)]
    for start in range(0, 80, 4):
        write(layer, range(start, start + 4), items[start : start + 4])
    failures = []

    def reader(seed):
        rng = np.random.default_rng(seed)
        try:
            for row in rng.integers(0, 80, 150):
                same(layer.read(int(row)), items[row])
            for block in layer.blocks(range(80)):
                assert block["stop"] <= 80
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for start in range(80, 160, 4):
        write(layer, range(start, start + 4), items[start : start + 4])
    for thread in threads:
        thread.join()
    assert failures == []
    for row in range(160):
        same(layer.read(row), items[row])
    assert len(index._cache._open) <= 4
