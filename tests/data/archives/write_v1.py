"""Wrote v1/: a tiny index with every encoding of format version 1.

It was run once, by the release that introduced the version, and its files are never made again: they are
there to show that later releases still read them. python write_v1.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instsearch_formats import ImageRecord, Index

HERE = Path(__file__).parent / "v1"


def main() -> None:
    if HERE.exists():
        raise SystemExit(f"{HERE} is there, and what a release wrote is not written again")
    index = Index.create(HERE)
    index.images.add_root("/collection")
    for rows in (range(0, 2), range(2, 3)):
        index.images.append(
            [
                ImageRecord(
                    b"caf\xe9/%d.jpg" % row,
                    0,
                    640 + row,
                    480,
                    1000 + row,
                    1_700_000_000_000_000_000 + row,
                    bytes([row]) * 32,
                )
                for row in rows
            ]
        )
    index.images.remove([1], "deleted")
    place = [{"grid": [h, 2], "transform": [16, 16, 0.5, row]} for row, h in enumerate((2, 0, 1))]
    cells = [4, 0, 2]
    boxes = [np.arange(4 * n, dtype=np.float32).reshape(n, 4) + row for row, n in enumerate(cells)]
    items = {
        "dense-map": [
            {"values": (np.arange(3 * n).reshape(n, 3) / 4 + row).astype(np.float16), **place[row]}
            for row, n in enumerate(cells)
        ],
        "keypoints": [
            {
                "values": (np.arange(3 * n).reshape(n, 3) + row).astype(np.uint8),
                "geometry": boxes[row],
                **place[row],
            }
            for row, n in enumerate(cells)
        ],
        "word-map": [
            {"words": np.array([7, 65535, 0, 9999][:n], np.uint16), **place[row]}
            for row, n in enumerate(cells)
        ],
        "weight-map": [
            {"values": (np.arange(2 * n).reshape(n, 2) / 8).astype(np.float16), **place[row]}
            for row, n in enumerate(cells)
        ],
        "regions": [
            {"boxes": boxes[row], "scores": np.arange(n, dtype=np.float32) / 2} for row, n in enumerate(cells)
        ],
        "vectors": [
            {"vectors": (np.arange(3 * n).reshape(n, 3) - 2.5).astype(np.float32), "boxes": boxes[row]}
            for row, n in enumerate(cells)
        ],
        "csr": [
            {
                "indices": np.tile([1, 70_000], n),
                "data": np.arange(2 * n, dtype=np.float32) + 0.5,
                "indptr": np.arange(n + 1) * 2,
                "boxes": boxes[row],
                "dim": 100_000,
            }
            for row, n in enumerate(cells)
        ],
    }
    for encoding, rows in items.items():
        layer = index.layer("archive", encoding, encoding, {"encoding": encoding, "encoding-version": 1})
        for span in index.images.ranges():
            with layer.writer(span) as writer:
                for row in span:
                    writer.append(rows[row])
    points = index.layer("archive", "points", "word-map", {"encoding": "word-map", "points": True})
    with points.writer(range(0, 2)) as writer:
        for row in range(2):
            writer.append(
                {"words": np.array([5, 70_000][:row], np.uint32), "geometry": boxes[2][:row], **place[row]}
            )
    arrays = {
        "axes": np.arange(1200.0).reshape(30, 40),
        "flags": np.array([True, False]),
        "n": np.array(3, np.int32),
    }
    index.write_model(
        "model", {"plugin": "pca", "k": 0.5, "é": [None, "x"]}, arrays, {"rows": 3, "note": "ä"}
    )
    index.layer("search", "flat", "arrays", {"metric": "ip"}).write_arrays(range(0, 3), arrays, {"n": 1})


if __name__ == "__main__":
    main()
