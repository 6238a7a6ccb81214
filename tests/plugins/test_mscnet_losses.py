"""MSCNet's weights of channels and losses: the card's numbers, plain loops, hard cases, gradients."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.encoders.mscnet_network import drawn
from instsearch_plugins.numeric.mscnet import (
    gram_channel_weights,
    hardest,
    mask_cosine,
    ngd_loss,
    trihard_loss,
    triplet_terms,
    weighted_sum,
)
from instsearch_plugins.numeric.normalise import l2

X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
MASK = torch.tensor([[[1, 0.5], [0, 1]]])


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=1e-5)


def maps(seed, *shape, dead=0.4):
    """Non-negative activations, many of them 0."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).sub(dead).clamp(min=0)


# -- the card's numbers -------------------------------------------------------------------------------


def test_channel_weights_and_sums_of_the_card():
    W = gram_channel_weights(X)
    close(W, [2.58400, 0.07847])
    close(weighted_sum(X, MASK, W), [[2.58400, 0.23542]])


def test_gram_difference_of_the_card():
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 1]])[:, None]
    close(ngd_loss(rows), 0.20711)
    assert ngd_loss(rows, form="mean") == 0
    for n, paper in ((5, 0.75), (10, 0.61111)):
        close(ngd_loss(torch.full((n, 3, 3), 0.5)), paper)
        close(ngd_loss(torch.full((n, 3, 3), 0.5), form="mean"), 0.5)
    assert ngd_loss(torch.rand(1, 3, 3)) == mask_cosine(torch.rand(1, 3, 3)) == 0


def test_trihard_of_the_card():
    z, labels = torch.tensor([[0.0, 0], [3, 4], [1, 0], [0, 2]]), torch.tensor([0, 0, 1, 1])
    p, n = hardest(z, labels)
    assert (p.tolist(), n.tolist()) == ([1, 0, 3, 2], [2, 3, 0, 0])
    close(triplet_terms(z, z[p], z[n]), [4.1, 1.49445, 1.33607, 0.33607])
    close(trihard_loss(z, labels), 1.81665)


# -- against plain loops ------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), C=st.integers(1, 5), h=st.integers(1, 3), w=st.integers(1, 3))
def test_channel_weights_against_the_whole_gram_matrix(seed, C, h, w):
    X, M = maps(seed, 2, C, h, w), maps(seed + 1, 2, 3, h, w)
    gamma, eps = 1.5, 1e-3
    W = gram_channel_weights(X, gamma, eps)
    psi = weighted_sum(X, M, W)
    assert (W.shape, psi.shape) == ((2, C), (2, 3, C))
    for b in range(2):
        F = X[b].flatten(1).tolist()
        G = [[sum(F[i][p] * F[j][p] for p in range(h * w)) for j in range(C)] for i in range(C)]
        v = [sum(G[i][j] for j in range(C)) / C for i in range(C)]
        total = sum(x**gamma for x in v)
        for i in range(C):
            slow = math.log((C * eps + total) / (eps + v[i] ** gamma))
            assert W[b, i].item() == pytest.approx(slow, rel=1e-4, abs=1e-5)
            for k in range(3):
                m = M[b, k].flatten().tolist()
                summed = slow * sum(F[i][p] * m[p] for p in range(h * w))
                assert psi[b, k, i].item() == pytest.approx(summed, rel=1e-4, abs=1e-5)


@given(seed=st.integers(0, 99), n=st.integers(1, 4))
def test_gram_difference_against_slow_loops(seed, n):
    M = torch.rand(2, n, 2, 3, generator=torch.Generator().manual_seed(seed))
    pictures = {"paper": 0.0, "mean": 0.0}
    for masks in M.flatten(2).tolist():
        total = 0.0
        for a, b in permutations(masks, 2):
            total += sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        pictures["paper"] += max(total / max(n - 1, 1) ** 2 - 0.6, 0) / 2
        pictures["mean"] += max(total / max(n * (n - 1), 1) - 0.6, 0) / 2
    for form, slow in pictures.items():
        assert ngd_loss(M, 0.6, form).item() == pytest.approx(slow, abs=1e-5)


@given(seed=st.integers(0, 99), classes=st.integers(2, 4), images=st.integers(1, 4))
def test_trihard_against_slow_loops(seed, classes, images):
    z = l2(torch.randn(classes * images, 3, generator=torch.Generator().manual_seed(seed)))
    labels = torch.arange(classes).repeat(images)
    rows, total = z.tolist(), 0.0
    for a, label in zip(rows, labels.tolist(), strict=True):
        far = max(math.dist(a, b) for b, other in zip(rows, labels.tolist(), strict=True) if other == label)
        near = min(math.dist(a, b) for b, other in zip(rows, labels.tolist(), strict=True) if other != label)
        total += max(far - near + 0.2, 0)
    assert trihard_loss(z, labels, 0.2).item() == pytest.approx(total / len(rows), abs=1e-5)


def test_one_class_has_no_triplets():
    with pytest.raises(ValueError, match="two classes"):
        trihard_loss(torch.rand(3, 2), torch.zeros(3, dtype=torch.long))


# -- hard cases ---------------------------------------------------------------------------------------


def test_a_black_picture_and_dead_channels():
    black = torch.zeros(7, 2, 3)
    close(gram_channel_weights(black), [math.log(7)] * 7)
    assert not weighted_sum(black, torch.rand(5, 2, 3), gram_channel_weights(black)).any()
    X = maps(0, 4, 2, 3)
    X[2] = 0
    W = gram_channel_weights(X)
    assert 10 < W[2] < 35
    assert weighted_sum(X, torch.ones(1, 2, 3), W)[0, 2] == 0


def test_weights_heed_no_scale():
    X = maps(1, 16, 4, 4)
    close(gram_channel_weights(X), gram_channel_weights(100 * X), atol=1e-3)


def test_halves_and_autocast_are_computed_in_float32():
    X = 60 * maps(2, 8, 30, 30, dead=0)
    W = gram_channel_weights(X.half())  # v^2 is far beyond float16
    assert W.dtype == torch.float32
    close(W, gram_channel_weights(X), atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gram_channel_weights(X), gram_channel_weights(X.clone()))
        assert weighted_sum(X, X, W).dtype == mask_cosine(X).dtype == torch.float32
        inside = gram_channel_weights(X)
    close(inside, gram_channel_weights(X))


def test_a_mask_leaves_the_cells_out_of_the_gram_matrix():
    X = maps(3, 5, 3, 4)
    mask = torch.zeros(3, 3, 4, dtype=torch.bool)
    mask[0, 1:, :2] = mask[1] = True
    W = gram_channel_weights(X, mask=mask)
    close(W[0], gram_channel_weights(X[:, 1:, :2]))
    close(W[1], gram_channel_weights(X))
    close(W[2], [math.log(5)] * 5)
    assert gram_channel_weights(X, mask=mask[:0]).shape == (0, 5)


# -- gradients ----------------------------------------------------------------------------------------


def numerical(f, x, step=1e-2):
    """Central differences of a scalar function of x."""
    slopes = torch.zeros_like(x)
    for i in range(x.numel()):
        there = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved.view(-1)[i] += sign * step
            there.append(f(moved).item())
        slopes.view(-1)[i] = (there[0] - there[1]) / (2 * step)
    return slopes


@pytest.mark.parametrize(
    "f",
    [
        lambda x: gram_channel_weights(x).mul(torch.arange(4.0)).sum(),
        lambda x: weighted_sum(x, x[:, :2] ** 2, gram_channel_weights(x)).sum() / 10,
        lambda x: ngd_loss(x, 0.2),
        lambda x: ngd_loss(x, 0.2, "mean"),
        lambda x: trihard_loss(x.flatten(1), torch.tensor([0, 1, 0]), 2),
    ],
)
def test_gradients_against_differences(f):
    x = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(5)).add(0.3).requires_grad_()
    (slopes,) = torch.autograd.grad(f(x), x)
    assert slopes.any()
    torch.testing.assert_close(slopes, numerical(f, x), atol=5e-3, rtol=2e-2)


def test_gradients_are_finite_where_nothing_responds():
    x = torch.zeros(2, 4, 3, 3, requires_grad=True)
    net = drawn(4, 2, 8, 0)
    z, M = net(x)
    (z.sum() + ngd_loss(M) + ngd_loss(x) + trihard_loss(z, torch.tensor([0, 1]))).backward()
    for slopes in (x.grad, *(p.grad for p in net.parameters())):
        assert torch.isfinite(slopes).all()
