"""Collections of vectors in memory, and what diffusion on them finds for a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from instsearch_cli.data import Query, Vectors
from instsearch_plugins.searchers.diffusion import Diffusion

V = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0]], np.float32)
CPU = torch.device("cpu")


class Codes:
    """A collection's vectors f32[R, D], and how many of them each image owns."""

    def __init__(self, rows, counts=None, folder: Path | None = None, start=0, removed=(), part=3) -> None:
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
            indptr = self.first[a : b + 1] - self.first[a]
            yield {
                "start": self.start + a,
                "stop": self.start + b,
                "indptr": indptr,
                "vectors": self.rows[rows],
                "boxes": self.boxes[rows],
            }


class Silent:
    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


def query(rows, exclude=()) -> Query:
    rows = torch.as_tensor(np.atleast_2d(np.asarray(rows, np.float32)))
    nothing: Any = None
    return Query(
        "q", nothing, None, nothing, nothing, Vectors(rows, torch.zeros(len(rows), 4)), frozenset(exclude)
    )


def fitted(codes: Codes, kind: Any = Diffusion, **options) -> Any:
    searcher = kind(kind.Config(**options), CPU)
    searcher.load(searcher.fit(codes, Silent()))
    return searcher


def found(searcher, codes: Codes, q: Query, k: int = 100):
    hits = searcher.search([q], codes, k)
    n = hits.valid(0)
    assert (hits.images[0, n:] == -1).all()
    assert (np.diff(hits.scores[0, :n]) <= 0).all()
    return hits.images[0, :n].tolist(), hits.scores[0, :n], hits.boxes[0, :n]


def unit(n: int, D: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clustered(n: int, D: int = 8, clusters: int = 6, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = unit(clusters, D, seed)[rng.integers(0, clusters, n)] + spread * rng.normal(size=(n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
