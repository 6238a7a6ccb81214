"""Vectors in clusters, and what diffusion on a collection of them finds for a query."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from instsearch_cli.data import Query, Vectors
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers.diffusion import Diffusion
from stored_codes import StoredCodes

V = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0]], np.float32)
CPU = torch.device("cpu")


def query(rows, exclude=()) -> Query:
    rows = torch.as_tensor(np.atleast_2d(np.asarray(rows, np.float32)))
    nothing: Any = None
    return Query(
        "q", nothing, None, nothing, nothing, Vectors(rows, torch.zeros(len(rows), 4)), frozenset(exclude)
    )


def fitted(codes: StoredCodes, kind: Any = Diffusion, **options) -> Any:
    searcher = kind(kind.Config(**options), CPU)
    searcher.load(searcher.fit(codes, Quiet()))
    return searcher


def found(searcher, codes: StoredCodes, q: Query, k: int = 100):
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
