"""A collection's codes in memory, given block by block as an index does."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class StoredCodes:
    """Rows f32[R, D], how many of them each image owns (one, where it is not said), and images that are removed."""

    def __init__(self, rows, counts=None, start=0, removed=(), part=3, folder: Path | None = None) -> None:
        self.rows = np.asarray(rows, np.float32)
        self.counts = [1] * len(self.rows) if counts is None else counts
        self.folder, self.start, self.part = folder, start, part
        self.span = range(start, start + len(self.counts))
        self.images = np.array([i for i in self.span if i not in set(removed)], np.int64)
        self.first = np.cumsum([0, *self.counts])
        self.boxes = np.arange(4 * len(self.rows), dtype=np.float32).reshape(-1, 4)

    def scratch(self) -> Path:
        assert self.folder is not None
        return self.folder

    def blocks(self, kind: str):
        assert kind == "codes"
        for a in range(0, len(self.counts), self.part):
            b = min(a + self.part, len(self.counts))
            rows = slice(self.first[a], self.first[b])
            yield {
                "start": self.start + a,
                "stop": self.start + b,
                "boxes": self.boxes[rows],
                **self.encoded(self.rows[rows], self.first[a : b + 1] - self.first[a]),
            }

    def encoded(self, rows: np.ndarray, pointers: np.ndarray) -> dict[str, np.ndarray]:
        """Image i of a block owns rows pointers[i]:pointers[i + 1]."""
        return {"indptr": pointers, "vectors": rows}
