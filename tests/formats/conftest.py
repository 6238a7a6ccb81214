"""Small items of every encoding, and an index to put them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from instsearch_formats import ImageRecord, Index


def make_record(i: int, root: int = 0) -> ImageRecord:
    return ImageRecord(
        b"caf\xe9/%d.jpg" % i, root, 640 + i, 480, 10_000 + i, 17 * 10**17 + i, bytes([i % 256]) * 32
    )


def make_item(encoding: str, i: int, n: int = 6) -> dict:
    """The item of row ``i``: n cells on a 2 x n/2 grid, or n entries; rows 0, 5, 10 ... are empty.

    ``encoding`` may be followed by what of its optional fields the item has.
    """
    rng = np.random.default_rng(i)
    n = 0 if i % 5 == 0 else n
    place = {"grid": np.array([2, n // 2]), "transform": np.array([8.0, 8.0, 0.0, i])}
    boxes = rng.uniform(0, 100, (n, 4)).astype(np.float32)
    items: dict[str, Any] = {
        "dense-map": {"values": rng.standard_normal((n, 8)).astype(np.float16), **place},
        "dense-map with all": {
            "values": rng.standard_normal((n, 8)).astype(np.float16),
            "logits": rng.standard_normal(5).astype(np.float32),
            "cam": rng.standard_normal((n, 3)).astype(np.float16),
            **place,
        },
        "pyramid": {
            "values": rng.standard_normal((2 * n, 8)).astype(np.float16),
            "grids": np.array([[2, n // 2], [1, n]]),
            "transforms": rng.uniform(1, 9, (2, 4)),
        },
        "keypoints": {"values": rng.integers(0, 256, (n, 8), np.uint8), "geometry": boxes, **place},
        "word-map": {"words": rng.integers(0, 65536, n, np.uint16), **place},
        "weight-map": {"values": rng.random((n, 2)).astype(np.float16), **place},
        "weight-map of classes": {
            "values": rng.random((n, 2)).astype(np.float16),
            "classes": rng.integers(0, 1000, 2, np.int32),
            **place,
        },
        "regions": {"boxes": boxes, "scores": rng.random(n).astype(np.float32)},
        "vectors": {"vectors": rng.standard_normal((n, 8)).astype(np.float32), "boxes": boxes},
        "csr": {
            "indices": np.tile(np.array([1, 5, 9]), n),
            "data": rng.random(3 * n).astype(np.float32),
            "indptr": np.arange(n + 1) * 3,
            "boxes": boxes,
            "dim": 10,
        },
    }
    return items[encoding]


OPTIONAL = ["dense-map with all", "weight-map of classes"]
ROW_ENCODINGS = ["dense-map", "pyramid", "keypoints", "word-map", "weight-map", "regions", "vectors", "csr"]


@pytest.fixture(params=[*ROW_ENCODINGS, *OPTIONAL])
def encoding(request):
    return request.param


@pytest.fixture
def item_of():
    return make_item


@pytest.fixture
def record_of():
    return make_record


@pytest.fixture
def same():
    """Whether two items are equal, bit for bit and in dtype where both are arrays of floats."""

    def compare(a: dict, b: dict) -> None:
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(np.asarray(a[key]), np.asarray(b[key]), err_msg=key)

    return compare


@pytest.fixture
def index(tmp_path):
    """An index of 20 images in ranges of 8, 8 and 4."""
    index = Index.create(tmp_path / "index")
    index.images.add_root(tmp_path)
    for start, stop in ((0, 8), (8, 16), (16, 20)):
        index.images.append([make_record(i) for i in range(start, stop)])
    return index


@pytest.fixture
def fill():
    """Write a layer over all ranges of an index."""

    def write(index: Index, encoding: str, kind: str = "stuff", n: int = 6, **identity):
        layer = index.layer(kind, "thing", encoding.split()[0], {"encoding": encoding, **identity})
        for span in index.images.ranges():
            with layer.writer(span) as writer:
                for row in span:
                    writer.append(make_item(encoding, row, n))
        return layer

    return write
