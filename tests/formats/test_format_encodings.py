"""Whatever fits an encoding comes back from disk bit for bit; whatever does not is refused with a reason."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instsearch_formats import FormatError, ImageRecord, Index
from instsearch_formats import writer as writing

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sides = st.integers(0, 4)
SMALL_CHUNK = 64


def bits(draw, dtype, *shape):
    """Any bit pattern of a finite number: subnormals and both zeros as well."""
    n = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    seed = draw(st.integers(0, 2**32 - 1))
    array = np.frombuffer(np.random.default_rng(seed).bytes(n), dtype).reshape(shape)
    return np.where(np.isfinite(array), array, array.dtype.type(1))


def place(draw):
    h, w = draw(sides), draw(sides)
    return h * w, {"grid": np.array([h, w], np.int32), "transform": bits(draw, "f8", 4)}


@st.composite
def dense_maps(draw):
    dtype, d = draw(st.sampled_from(["f2", "f4", "u1"])), draw(st.integers(1, 5))
    items = []
    for _ in range(draw(st.integers(1, 6))):
        n, where = place(draw)
        items.append({"values": bits(draw, dtype, n, d), **where})
    return items


@st.composite
def dense_maps_with_all(draw):
    d, dtype = draw(st.integers(1, 5)), draw(st.sampled_from(["f2", "f4"]))
    which = draw(st.sets(st.sampled_from(["logits", "cam"]), min_size=1))
    items = draw(dense_maps())
    more = [
        {"logits": bits(draw, "f4", d), "cam": bits(draw, dtype, len(item["values"]), d)} for item in items
    ]
    return [item | {name: extra[name] for name in which} for item, extra in zip(items, more, strict=True)]


@st.composite
def weight_maps_of_classes(draw):
    return [item | {"classes": bits(draw, "i4", item["values"].shape[1])} for item in draw(dense_maps())]


@st.composite
def pyramids(draw):
    dtype, d, levels = (
        draw(st.sampled_from(["f2", "f4", "u1"])),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
    )
    items = []
    for _ in range(draw(st.integers(1, 6))):
        cells, where = zip(*(place(draw) for _ in range(levels)), strict=True)
        grids, transforms = (np.stack([w[name] for w in where]) for name in ("grid", "transform"))
        items.append({"values": bits(draw, dtype, sum(cells), d), "grids": grids, "transforms": transforms})
    return items


@st.composite
def keypoint_lists(draw):
    dtype, d = draw(st.sampled_from(["u1", "f2", "f4"])), draw(st.integers(1, 5))
    items = []
    for _ in range(draw(st.integers(1, 6))):
        n = draw(st.integers(0, 9))
        where = place(draw)[1]
        items.append({"values": bits(draw, dtype, n, d), "geometry": bits(draw, "f4", n, 4), **where})
    return items


@st.composite
def word_maps(draw):
    dtype, points = draw(st.sampled_from(["u2", "u4"])), draw(st.booleans())
    items = []
    for _ in range(draw(st.integers(1, 6))):
        n, where = place(draw)
        n = draw(st.integers(0, 9)) if points else n
        item = {"words": bits(draw, dtype, n), **where}
        items.append({**item, "geometry": bits(draw, "f4", n, 4)} if points else item)
    return items


@st.composite
def region_lists(draw):
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    return [{"boxes": bits(draw, "f4", n, 4), "scores": bits(draw, "f4", n)} for n in counts]


@st.composite
def vector_lists(draw):
    dtype, d = draw(st.sampled_from(["f2", "f4", "u1", "i1"])), draw(st.integers(1, 40))
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    return [{"vectors": bits(draw, dtype, n, d), "boxes": bits(draw, "f4", n, 4)} for n in counts]


@st.composite
def sparse_lists(draw):
    dim = draw(st.sampled_from([1, 7, 65536, 65537, 2**32]))
    dtype = draw(st.sampled_from(["f2", "f4", "u1", "u2"]))
    row = st.sets(st.integers(0, dim - 1), max_size=5).map(sorted)
    items = []
    for _ in range(draw(st.integers(1, 6))):
        rows = draw(st.lists(row, max_size=4))
        indices = np.array([i for r in rows for i in r], np.int64)
        indptr = np.cumsum([0, *map(len, rows)])
        boxes, data = bits(draw, "f4", len(rows), 4), bits(draw, dtype, len(indices))
        items.append({"indices": indices, "data": data, "indptr": indptr, "boxes": boxes, "dim": dim})
    return items


STRATEGIES = {
    "dense-map": dense_maps(),
    "dense-map with all": dense_maps_with_all(),
    "pyramid": pyramids(),
    "keypoints": keypoint_lists(),
    "word-map": word_maps(),
    "weight-map": dense_maps(),
    "weight-map of classes": weight_maps_of_classes(),
    "regions": region_lists(),
    "vectors": vector_lists(),
    "csr": sparse_lists(),
}


def identical(a, b, key):
    a, b = np.asarray(a), np.asarray(b)
    if key == "indices":  # narrowed on disk
        assert a.tolist() == b.tolist()
        return
    assert a.dtype == b.dtype, key
    assert a.shape == b.shape, key
    assert a.tobytes() == b.tobytes(), key


@pytest.mark.parametrize("chunk", [SMALL_CHUNK, writing.CHUNK])
def test_round_trip(encoding, chunk, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", chunk)  # small: many chunks in a part; large: one

    @few
    @given(STRATEGIES[encoding])
    def check(items):
        with tempfile.TemporaryDirectory() as folder:
            layer = Index.create(Path(folder) / "i").layer("stuff", "x", encoding.split()[0], {})
            with layer.writer(range(3, 3 + len(items))) as writer:
                for item in items:
                    writer.append(item)
            for row, item in enumerate(items, 3):
                back = layer.read(row)
                assert set(back) == set(item)
                for key in item:
                    identical(back[key], item[key], key)
            (block,) = layer.blocks()
            assert (block["start"], block["stop"]) == (3, 3 + len(items))
            single = {"grid", "transform", "grids", "transforms", "logits", "classes"} & set(items[0])
            for key in set(items[0]) - {"indptr", "dim"}:
                join = np.stack if key in single else np.concatenate
                whole = join([item[key] for item in items])
                identical(block[key], whole, key)

    check()


names = st.binary(min_size=1, max_size=20).filter(
    lambda b: b"\0" not in b and not b.startswith(b"/") and b".." not in b.split(b"/")
)
big = st.integers(0, 2**63 - 1)
small = st.integers(0, 2**32 - 1)
records = st.builds(
    ImageRecord, names, st.integers(0, 2), small, small, big, big, st.binary(min_size=32, max_size=32)
)


@few
@given(st.lists(records, min_size=1, max_size=8))
def test_round_trip_images(rows):
    with tempfile.TemporaryDirectory() as folder:
        table = Index.create(Path(folder) / "i").images
        for name in "abc":
            table.add_root(Path(folder) / name)
        assert table.append(rows) == range(len(rows))
        assert [record for _, record in table.records()] == rows
        assert [table.record(i) for i in range(len(rows))] == rows


array_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
array_shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(["?", "u1", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8", ">f4", ">i8"])


@st.composite
def array_sets(draw):
    out = {}
    for name in draw(st.sets(array_names, max_size=5)):
        dtype = draw(dtypes)
        raw = bits(draw, "u1" if dtype == "?" else dtype, *draw(array_shapes))
        out[name] = raw > 99 if dtype == "?" else raw
    return out


@few
@given(array_sets(), st.dictionaries(st.text(), st.integers() | st.text(), max_size=3))
def test_round_trip_arrays(arrays, attrs):
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "i")
        index.write_model("m", {}, arrays, attrs)
        layer = index.layer("search", "s", "arrays", {})
        layer.write_arrays(range(5), arrays, attrs)
        for back, said in (index.read_model("m", {}), (layer.arrays(range(5)), layer.attrs(range(5)))):
            assert said == attrs
            assert set(back) == set(arrays)
            for name, array in arrays.items():
                identical(back[name], array.astype(array.dtype.newbyteorder("<")), name)


def test_csr_indices_take_two_bytes_where_they_can(index):
    for dim, dtype in ((65536, np.uint16), (65537, np.uint32)):
        layer = index.layer("codes", "x", "csr", {"dim": dim})
        item = {
            "indices": [dim - 1],
            "data": np.ones(1, "f4"),
            "indptr": [0, 1],
            "boxes": np.ones((1, 4)),
            "dim": dim,
        }
        with layer.writer(range(1)) as writer:
            writer.append(item)
        assert layer.read(0)["indices"].dtype == dtype
        (block,) = layer.blocks()
        assert block["shape"].tolist() == [1, dim]


GRID = {"grid": [1, 2], "transform": [1, 1, 0, 0]}
LEVELS = {"grids": [[1, 2], [1, 1]], "transforms": np.ones((2, 4))}
SPARSE = {"data": np.ones(2, "f4"), "indptr": [0, 2], "boxes": np.zeros((1, 4)), "dim": 4}


@pytest.mark.parametrize(
    ("encoding", "item", "reason"),
    [
        ("dense-map", {"values": np.zeros((2, 3)), **GRID}, "values is float64"),
        ("dense-map", {"values": np.zeros((2, 3), "f4")}, "wants grid"),
        ("dense-map", {"values": np.zeros((3, 3), "f4"), **GRID}, r"\[1, 2\] does not have 3 cells"),
        ("dense-map", {"values": np.zeros((2, 0), "f4"), **GRID}, "shape"),
        ("dense-map", {"values": np.zeros(2, "f4"), **GRID}, "shape"),
        ("dense-map", {"values": np.zeros((2, 3), "f4"), **GRID, "words": 1}, "no words"),
        (
            "dense-map",
            {"values": np.zeros((2, 3), "f4"), **GRID, "logits": np.float32(1)},
            "logits has shape",
        ),
        ("dense-map", {"values": np.zeros((2, 3), "f4"), **GRID, "cam": np.zeros((3, 3), "f4")}, "3 entries"),
        (
            "dense-map",
            {"values": np.zeros((2, 3), "f4"), **GRID, "cam": np.zeros((2, 3), "u1")},
            "cam is uint8",
        ),
        (
            "weight-map",
            {"values": np.zeros((2, 3), "f4"), **GRID, "classes": [1, 2]},
            "of 2 where values is of 3",
        ),
        ("weight-map", {"values": np.zeros((2, 1), "f4"), **GRID, "classes": [2**31]}, "classes is int64"),
        ("pyramid", {"values": np.zeros((2, 3), "f4"), **GRID}, "no grid, transform"),
        ("pyramid", {"values": np.zeros((2, 3), "f4"), **LEVELS}, r"\[1, 1\]\] does not have 2 cells"),
        (
            "pyramid",
            {"values": np.zeros((3, 3), "f4"), **LEVELS, "transforms": np.ones((1, 4))},
            "of 1 where",
        ),
        ("pyramid", {"values": np.zeros((0, 3), "f4"), "grids": [[-1, 0]], "transforms": [[1] * 4]}, "none"),
        ("weight-map", {"values": np.zeros((2, 3), "f4"), "grid": [-1, -2], "transform": [0] * 4}, "none"),
        ("word-map", {"words": np.zeros(2, "i8"), **GRID}, "words is int64"),
        ("word-map", {"words": np.zeros(3, "u2"), **GRID}, "3 cells"),
        ("keypoints", {"values": np.zeros((2, 3), "u1"), "geometry": np.zeros((3, 4)), **GRID}, "3 entries"),
        ("regions", {"boxes": np.zeros((2, 5)), "scores": np.zeros(2)}, "shape"),
        ("regions", {"boxes": np.zeros((2, 4)), "scores": np.array(["a", "b"])}, "scores is"),
        ("vectors", {"vectors": np.zeros((1, 2), "i8"), "boxes": np.zeros((1, 4))}, "vectors is int64"),
        ("csr", {**SPARSE, "indices": [1, 4]}, "out of 0 to 3"),
        ("csr", {**SPARSE, "indices": [-1, 3]}, "out of 0 to 3"),
        ("csr", {**SPARSE, "indices": [2, 2]}, "ascend"),
        ("csr", {**SPARSE, "indices": [1.0, 2.0]}, "integers"),
        ("csr", {**SPARSE, "indices": [1, 2], "indptr": [0, 1]}, "indptr"),
        ("csr", {**SPARSE, "indices": [1, 2], "indptr": [0, 1, 2]}, "indptr has 3"),
        ("csr", {**SPARSE, "indices": [1, 2], "indptr": [0, 3, 2]}, "indptr"),
        ("csr", {**SPARSE, "indices": [1, 2], "dim": 0}, "dim"),
        ("csr", {"indices": [1, 2]}, "wants dim"),
    ],
)
def test_what_does_not_fit_is_refused(index, encoding, item, reason):
    layer = index.layer("stuff", "x", encoding, {})
    with pytest.raises(FormatError, match=reason), layer.writer(range(1)) as writer:
        writer.append(item)
    assert not layer.ranges()
    assert not list(layer.path.iterdir())


def write(layer, items):
    with layer.writer(range(len(items))) as writer:
        for item in items:
            writer.append(item)


@pytest.mark.parametrize("second", [np.zeros((1, 4), "f4"), np.zeros((1, 3), "f2")])
def test_items_of_a_part_agree(index, second):
    layer = index.layer("codes", "x", "vectors", {})
    items = [{"vectors": v, "boxes": np.zeros((1, 4))} for v in (np.zeros((1, 3), "f4"), second)]
    with pytest.raises(FormatError, match="after items of"):
        write(layer, items)


def test_optional_fields_are_in_all_items_or_in_none(index, item_of):
    layer = index.layer("local", "x", "word-map", {})
    items = [item_of("word-map", 1), {**item_of("word-map", 2), "geometry": np.zeros((6, 4))}]
    for order in (items, items[::-1]):
        with pytest.raises(FormatError, match="geometry is in some"):
            write(layer, order)


def test_csr_items_agree_in_dim(index, item_of):
    layer = index.layer("codes", "x", "csr", {})
    with pytest.raises(FormatError, match="dim 11 after"):
        write(layer, [item_of("csr", 1), {**item_of("csr", 2), "dim": 11}])


def test_an_item_may_be_changed_after_append(index):
    layer = index.layer("codes", "x", "vectors", {})
    vectors = np.zeros((1, 3), np.float32)
    with layer.writer(range(3)) as writer:
        for i in range(3):
            vectors[:] = i
            writer.append({"vectors": vectors, "boxes": np.zeros((1, 4))})
    assert [layer.read(i)["vectors"][0, 0] for i in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "é", "a b", "-x"])
def test_names_of_arrays(index, name):
    with pytest.raises(FormatError, match="cannot be named"):
        index.write_model("m", {}, {name: np.zeros(3)}, {})


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.zeros(2, "c16"), np.zeros(2, "M8[s]")]
)
def test_dtypes_of_arrays(index, array):
    with pytest.raises(FormatError, match="can be kept"):
        index.write_model("m", {}, {"a": array}, {})
    assert index.models() == []
