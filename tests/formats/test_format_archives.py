"""Files that earlier releases wrote are read as they were written (tests/data/archives/write_v1.py)."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsearch_formats import ImageRecord, Index, fingerprint

ARCHIVES = Path(__file__).parents[1] / "data/archives"


@pytest.fixture
def v1(tmp_path):
    shutil.copytree(ARCHIVES / "v1", tmp_path / "v1")
    return Index.open(tmp_path / "v1")


def layer(index, encoding, identity=None, kind="archive", name=None):
    return index.layer(
        kind, name or encoding, encoding, identity or {"encoding": encoding, "encoding-version": 1}
    )


def test_the_archive_is_sound(v1):
    assert v1.verify() == []
    assert json.loads(v1.read_text("format.json")) == {
        "format": "instsearch",
        "version": 1,
        "created-by": "0.1.0",
    }
    assert len(v1.layers()) == 9
    assert {(info.encoding, info.rows) for info in v1.layers()} == {
        ("dense-map", 3),
        ("keypoints", 3),
        ("word-map", 3),
        ("word-map", 2),
        ("weight-map", 3),
        ("regions", 3),
        ("vectors", 3),
        ("csr", 3),
        ("arrays", 3),
    }


def test_images(v1):
    table = v1.images
    assert table.ranges() == [range(0, 2), range(2, 3)]
    assert table.roots == ["/collection"]
    assert table.removed() == {1: "deleted"}
    assert table.alive().tolist() == [True, False, True]
    digest = bytes([2]) * 32
    assert table.record(2) == ImageRecord(
        b"caf\xe9/2.jpg", 0, 642, 480, 1002, 1_700_000_000_000_000_002, digest
    )
    assert [record.name for _, record in table.records()] == [
        b"caf\xe9/0.jpg",
        b"caf\xe9/1.jpg",
        b"caf\xe9/2.jpg",
    ]


BOXES_0 = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
BOXES_2 = [[2, 3, 4, 5], [6, 7, 8, 9]]

VALUES: dict[str, Any] = {  # encoding: field: dtype, row 0, row 2
    "dense-map": {
        "values": (
            "f2",
            [[0, 0.25, 0.5], [0.75, 1, 1.25], [1.5, 1.75, 2], [2.25, 2.5, 2.75]],
            [[2, 2.25, 2.5], [2.75, 3, 3.25]],
        )
    },
    "keypoints": {
        "values": ("u1", [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]], [[2, 3, 4], [5, 6, 7]]),
        "geometry": ("f4", BOXES_0, BOXES_2),
    },
    "word-map": {"words": ("u2", [7, 65535, 0, 9999], [7, 65535])},
    "weight-map": {
        "values": (
            "f2",
            [[0, 0.125], [0.25, 0.375], [0.5, 0.625], [0.75, 0.875]],
            [[0, 0.125], [0.25, 0.375]],
        )
    },
    "regions": {"boxes": ("f4", BOXES_0, BOXES_2), "scores": ("f4", [0, 0.5, 1, 1.5], [0, 0.5])},
    "vectors": {
        "vectors": (
            "f4",
            [[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5], [3.5, 4.5, 5.5], [6.5, 7.5, 8.5]],
            [[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5]],
        ),
        "boxes": ("f4", BOXES_0, BOXES_2),
    },
    "csr": {
        "indices": ("u4", [1, 70_000] * 4, [1, 70_000] * 2),
        "data": ("f4", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5], [0.5, 1.5, 2.5, 3.5]),
        "indptr": ("i8", [0, 2, 4, 6, 8], [0, 2, 4]),
        "boxes": ("f4", BOXES_0, BOXES_2),
        "dim": ("i8", 100_000, 100_000),
    },
}
GRIDDED = {"dense-map", "keypoints", "word-map", "weight-map"}


@pytest.mark.parametrize("encoding", VALUES)
def test_items(v1, encoding):
    stored = layer(v1, encoding)
    for row, column in ((0, 1), (2, 2)):
        item = stored.read(row)
        head = stored.head(row)
        assert set(head) == ({"grid", "transform"} if encoding in GRIDDED else set())
        for name, value in head.items():
            np.testing.assert_array_equal(value, item[name])
        if encoding in GRIDDED:
            np.testing.assert_array_equal(item.pop("grid"), [2, 2] if row == 0 else [1, 2])
            np.testing.assert_array_equal(item.pop("transform"), [16, 16, 0.5, row])
        assert set(item) == set(VALUES[encoding])
        for name, expected in VALUES[encoding].items():
            assert np.asarray(item[name]).dtype == expected[0]
            np.testing.assert_array_equal(item[name], expected[column])
    empty = stored.read(1)
    assert all(len(empty[name]) == (name == "indptr") for name in VALUES[encoding] if name != "dim")


def test_words_at_points(v1):
    points = layer(v1, "word-map", {"encoding": "word-map", "points": True}, name="points")
    assert len(points.read(0)["words"]) == 0
    assert points.read(1)["words"].tolist() == [5]
    assert points.read(1)["words"].dtype == np.uint32
    assert points.read(1)["geometry"].tolist() == [[2, 3, 4, 5]]


def check_arrays(arrays):
    assert set(arrays) == {"axes", "flags", "n"}
    np.testing.assert_array_equal(arrays["axes"], np.arange(1200.0).reshape(30, 40))
    assert arrays["flags"].tolist() == [True, False]
    assert arrays["flags"].dtype == bool
    assert arrays["n"] == 3
    assert arrays["n"].dtype == np.int32


def test_model(v1):
    identity = {"plugin": "pca", "k": 0.5, "é": [None, "x"]}
    assert fingerprint(identity) == "b3b669c01598c595e3d013358e0e5c2fd851c2e4a2c59bec01f6215fc3489c7b"
    arrays, attrs = v1.read_model("model", identity)
    check_arrays(arrays)
    assert attrs == {"rows": 3, "note": "ä"}


def test_search(v1):
    search = layer(v1, "arrays", {"metric": "ip"}, "search", "flat")
    assert search.cover(3) == [range(0, 3)]
    check_arrays(search.arrays(range(0, 3)))
    assert not search.arrays(range(0, 3))["axes"].flags.writeable
    assert search.attrs(range(0, 3)) == {"n": 1}


def test_the_reader_in_the_specification(v1):
    text = resources.files("instsearch_formats").joinpath("SPEC.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    values = namespace["read_dense_map"](layer(v1, "dense-map").path / "part-0000000000-0000000002.h5", 0)
    assert values.shape == (2, 2, 3)
    np.testing.assert_array_equal(values.reshape(4, 3), VALUES["dense-map"]["values"][1])


def test_the_specification_has_every_field():
    from instsearch_formats.encodings import ENCODINGS

    text = resources.files("instsearch_formats").joinpath("SPEC.md").read_text(encoding="utf-8")
    table = text[text.index("## 4. Encodings") : text.index("## 5. Images")]
    for encoding in ENCODINGS.values():
        rows = re.search(rf"^\| {encoding.name} \|.*?(?=^\| [a-z]|^$)", table, flags=re.DOTALL | re.MULTILINE)
        for name in (*encoding.pointers, *(field.name for field in encoding.fields)):
            assert f"`{name}[" in rows[0], (encoding.name, name)
