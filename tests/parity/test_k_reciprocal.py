"""k-reciprocal re-ranking against the paper's sets and sums, in plain loops."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.numeric.reciprocal import distances, expanded, jaccard, reciprocal


def plain(X: np.ndarray, k1: int, k2: int, lam: float, form: str = "paper") -> list[float]:
    """d* of row 0 and every other, set by set, of exact fractions of two thirds."""
    n = len(X)
    d = [[float(((a - b) ** 2).sum()) for b in X] for a in X]
    order = [[i, *sorted((j for j in range(n) if j != i), key=lambda j, i=i: (d[i][j], j))] for i in range(n)]

    if form == "code":
        d = [[value / max(row) for value in row] for row in d]

    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in order[p][: k + 1] if p in order[g][: k + 1]}

    V = []
    for p in range(n):
        grown = set(reciprocal(p, k1))
        for c in reciprocal(p, k1):
            half = reciprocal(c, round(k1 / 2))
            share = Fraction(len(reciprocal(p, k1) & half), len(half))
            if share > Fraction(2, 3) or (form == "paper" and share == Fraction(2, 3)):
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


@given(
    n=st.integers(2, 14),
    k1=st.integers(1, 8),
    k2=st.integers(1, 4),
    lam=st.floats(0, 1),
    seed=st.integers(0, 99),
    form=st.sampled_from(["paper", "code"]),
)
def test_equals_the_plain_loops(n: int, k1: int, k2: int, lam: float, seed: int, form: str) -> None:
    X = np.random.default_rng(seed).normal(size=(n, 4))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found = distances(torch.from_numpy(X), k1, k2, lam, form)
    assert found.tolist() == pytest.approx(plain(X, k1, k2, lam, form), abs=1e-9)


def test_mutual_neighbours_by_hand() -> None:
    """On a line 0, 1, 3, 3.5 the nearest of 1 is 0, and of 3 it is 3.5: with k = 1 there are two mutual pairs."""
    at = np.array([0, 1, 3, 3.5])
    near = torch.from_numpy(np.argsort(abs(at[:, None] - at), axis=1, kind="stable"))
    pairs = [[True, True, False, False], [True, True, False, False]]
    assert expanded(near, 1)[:2].tolist() == pairs
    line = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    assert reciprocal(line, 1).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    V = torch.tensor([[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0, 1]])
    assert jaccard(V).tolist() == pytest.approx([1 - 0.75 / 1.25, 1])
