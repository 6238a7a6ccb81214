"""k-reciprocal re-ranking against the paper's sets and sums, in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_plugins.numeric.reciprocal import distances, expanded, jaccard


def plain(X: np.ndarray, k1: int, k2: int, lam: float) -> list[float]:
    """d* of row 0 and every other, set by set."""
    n = len(X)
    d = [[float(((a - b) ** 2).sum()) for b in X] for a in X]
    order = [[i, *sorted((j for j in range(n) if j != i), key=lambda j, i=i: (d[i][j], j))] for i in range(n)]

    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in order[p][:k] if p in order[g][:k]}

    V = []
    for p in range(n):
        grown = set(reciprocal(p, k1))
        for c in reciprocal(p, k1):
            half = reciprocal(c, round(k1 / 2))
            if len(reciprocal(p, k1) & half) >= 2 / 3 * len(half):
                grown |= half
        row = [math.exp(-d[p][g]) if g in grown else 0.0 for g in range(n)]
        V.append([v / sum(row) for v in row])
    mean = [[sum(V[j][g] for j in order[p][:k2]) / len(order[p][:k2]) for g in range(n)] for p in range(n)]
    found = []
    for i in range(1, n):
        low = sum(min(a, b) for a, b in zip(mean[0], mean[i], strict=True))
        high = sum(max(a, b) for a, b in zip(mean[0], mean[i], strict=True))
        found.append((1 - lam) * (1 - low / high) + lam * d[0][i])
    return found


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 14),
    k1=st.integers(1, 8),
    k2=st.integers(1, 4),
    lam=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_equals_the_plain_loops(n: int, k1: int, k2: int, lam: float, seed: int) -> None:
    X = np.random.default_rng(seed).normal(size=(n, 4))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = distances(torch.from_numpy(X), k1, k2, lam)
    assert found.tolist() == pytest.approx(plain(X, k1, k2, lam), abs=1e-9)


def test_mutual_neighbours_by_hand() -> None:
    """On a line 0, 1, 3, 3.5 the nearest of 1 is 0, and of 3 it is 3.5: with k = 2 there are two mutual pairs."""
    at = np.array([0, 1, 3, 3.5])
    near = torch.from_numpy(np.argsort(abs(at[:, None] - at), axis=1, kind="stable"))
    pairs = [[True, True, False, False], [True, True, False, False]]
    assert expanded(near, 2)[:2].tolist() == pairs
    V = torch.tensor([[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0, 1]])
    assert jaccard(V).tolist() == pytest.approx([1 - 0.75 / 1.25, 1])
