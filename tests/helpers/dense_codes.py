"""A collection's vectors as the searcher of dense codes has them, questions to it, and what plain loops find."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from instsearch_cli.data import Query, Vectors
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers.faiss_index import Faiss
from stored_codes import StoredCodes

Ranked = list[tuple[int, float, list[float]]]


class Codes(StoredCodes):
    """A collection's vectors, stored as f16."""

    def encoded(self, rows: np.ndarray, pointers: np.ndarray) -> dict[str, np.ndarray]:
        return {"indptr": pointers, "vectors": rows.astype(np.float16)}

    def best(self, q: np.ndarray, k: int, exclude: Collection[int] = ()) -> Ranked:
        """(image, score, box), by the plainest of loops: R-Match, which with one row is the best product."""
        found = []
        for image in self.images.tolist():
            i = image - self.start
            rows = self.rows[self.first[i] : self.first[i + 1]]
            products = [[float(np.float64(x) @ row) for row in q] for x in rows]
            if image in exclude or not products:
                continue
            score = sum(max(column) for column in zip(*products, strict=True))
            peaks = [max(row) for row in products]
            row = self.first[i] + peaks.index(max(peaks))
            found.append((-score, image, self.boxes[row].tolist()))
        return [(image, -score, box) for score, image, box in sorted(found)[:k]]

    def regions(self, q: np.ndarray, k: int, per_image: int, exclude: Collection[int] = ()) -> Ranked:
        """The best rows one by one, of each image as many as it may give."""
        products = self.rows.astype(np.float64) @ np.asarray(q[0], np.float64)
        owner = np.repeat(np.arange(len(self.counts)), self.counts) + self.start
        listed: Ranked = []
        given: dict[int, int] = {}
        for row in sorted(range(len(self.rows)), key=lambda r: (-products[r], r)):
            image = int(owner[row])
            given[image] = given.get(image, 0) + 1
            if image in self.images and image not in exclude and (not per_image or given[image] <= per_image):
                listed.append((image, float(products[row]), self.boxes[row].tolist()))
        return listed[:k]


def query(vectors: Any, exclude: Collection[int] = ()) -> Query:
    rows = torch.as_tensor(np.asarray(vectors, np.float32))
    nothing: Any = None
    return Query(
        "q", nothing, None, nothing, nothing, Vectors(rows, torch.zeros(len(rows), 4)), frozenset(exclude)
    )


def fitted(codes: Any, factory: str = "Flat", search: str = "") -> Faiss:
    searcher = Faiss(Faiss.Config(factory, search), torch.device("cpu"))
    searcher.load(searcher.fit(codes, Quiet()))
    return searcher


def found(searcher: Faiss, codes: Any, q: Query, k: int) -> Ranked:
    hits = searcher.search([q], codes, k)
    n = hits.valid(0)
    assert (hits.images[0, n:] == -1).all()
    assert np.isneginf(hits.scores[0, n:]).all()
    return [
        (int(i), float(s), b.tolist())
        for i, s, b in zip(hits.images[0, :n], hits.scores[0, :n], hits.boxes[0, :n], strict=True)
    ]


def clustered(n: int, D: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around a few centres, of a precision that half floats hold."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, D))[rng.integers(0, 8, n)] + 0.5 * rng.normal(size=(n, D))
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit.astype(np.float16).astype(np.float32)
