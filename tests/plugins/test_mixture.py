"""Gaussian mixtures against a plain loop, and clusters that were planted."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.numeric.mixture import FLOOR, ITERATIONS, boxes_of, farthest_points, gaussian_mixture
from instsearch_plugins.numeric.normalise import l2


def plain(x, k):
    """Expectation-maximisation written out, number by number."""
    x = [[float(v) for v in row] for row in x]
    n, D = len(x), len(x[0])

    def square(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    chosen = [0]
    while len(chosen) < k:
        gaps = [min(square(row, x[c]) for c in chosen) for row in x]
        chosen.append(gaps.index(max(gaps)))
    mu, pi = [x[c] for c in chosen], [1 / k] * k
    variance = max(sum(min(square(row, m) for m in mu) for row in x) / (n * D), FLOOR)
    for _ in range(ITERATIONS):
        r = []
        for row in x:
            logs = [math.log(p) - square(row, m) / (2 * variance) for p, m in zip(pi, mu, strict=True)]
            e = [math.exp(v - max(logs)) for v in logs]
            r.append([v / sum(e) for v in e])
        size = [sum(row[j] for row in r) for j in range(k)]
        for j in range(k):
            if size[j] > FLOOR:
                mu[j] = [sum(r[i][j] * x[i][d] for i in range(n)) / size[j] for d in range(D)]
        pi = [max(s / n, FLOOR) for s in size]
        total = sum(r[i][j] * square(x[i], mu[j]) for i in range(n) for j in range(k))
        variance = max(total / (n * D), FLOOR)
    return torch.tensor(mu, dtype=torch.float64), torch.tensor(r, dtype=torch.float64)


@given(seed=st.integers(0, 999), n=st.integers(1, 12), D=st.integers(1, 4), data=st.data())
def test_equals_the_plain_loop(seed, n, D, data):
    x = l2(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)))
    k = data.draw(st.integers(1, n))
    mu, r = gaussian_mixture(x, k)
    expected, parts = plain(x.tolist(), k)
    torch.testing.assert_close(mu, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(r, parts, atol=1e-3, rtol=0)


@pytest.mark.parametrize("K", [2, 5, 10])
def test_planted_clusters_are_found(K):
    """Of 512 dimensions and 30 vectors: each group is a component, its mean the mean."""
    g = torch.Generator().manual_seed(K)
    centres = l2(torch.randn(K, 512, generator=g))
    label = torch.cat([torch.arange(K), torch.randint(K, (30 - K,), generator=g)])
    x = l2(centres[label] + 0.01 * torch.randn(30, 512, generator=g))
    mu, r = gaussian_mixture(x, K)
    same = r.argmax(1)[:, None] == r.argmax(1)
    assert torch.equal(same, label[:, None] == label)
    for j in range(K):
        torch.testing.assert_close(mu[j], x[r.argmax(1) == j].double().mean(0))
    again = gaussian_mixture(x, K)
    assert torch.equal(mu, again[0])
    assert torch.equal(r, again[1])


def test_by_hand():
    """0, 0.2 and 4, 4.2 on a line, from 0 and 4.2: sigma^2 is 0.01, and what the other component takes is nothing."""
    x = torch.tensor([[0.0], [0.2], [4.0], [4.2]])
    assert farthest_points(x, 3).tolist() == [0, 3, 1]
    mu, r = gaussian_mixture(x, 2)
    torch.testing.assert_close(mu, torch.tensor([[0.1], [4.1]], dtype=torch.float64))
    torch.testing.assert_close(r, torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64))


def test_as_many_components_as_vectors_and_equal_vectors():
    x = l2(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    mu, r = gaussian_mixture(x, 4)
    torch.testing.assert_close(r.T @ mu, x.double(), atol=1e-6, rtol=0)
    mu, r = gaussian_mixture(x[:1].expand(5, 8), 3)
    torch.testing.assert_close(mu, x[:1].double().expand(3, 8))
    assert r.isfinite().all()


def test_a_mean_and_a_box():
    boxes = torch.tensor([[0, 0, 2, 2], [1, 1, 5, 3], [7, 7, 8, 8]], dtype=torch.float32)
    r = torch.tensor([[0.9, 0.1, 0], [0.6, 0.3, 0.1], [0, 0.4, 0.6]])
    assert boxes_of(boxes, r).tolist() == [[0, 0, 5, 3], [7, 7, 8, 8], [7, 7, 8, 8]]
