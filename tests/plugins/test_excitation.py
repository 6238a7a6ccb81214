"""Excitation backprop: a network of every operation against plain loops, windows, memory and seeds at cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.excitation import AUTHORS, PAPER, Rules, maps, propagate, seeds
from instsearch_plugins.numeric.layers import record
from instsearch_plugins.numeric.tracing import trace


class Small(nn.Module):
    """Every operation once: strides, padding, groups, dilation, ceil mode, batch norms of either sign."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2)
        self.norm2 = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(4, 8, (1, 3), padding=(0, 1))
        self.norm_down = nn.BatchNorm2d(8)
        self.pool2 = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)
        self.left = nn.Conv2d(8, 3, 1)
        self.right = nn.Conv2d(8, 5, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.conv3 = nn.Conv2d(8, 6, 2, stride=(1, 2))

    def forward(self, x):
        x = self.pool1(self.relu(self.norm1(self.conv1(x))))
        y = self.norm2(self.conv2(x))
        y += self.norm_down(self.down(x))
        y = self.pool2(self.relu(y))
        y = torch.cat([F.relu(self.left(y)), self.right(y)], 1)
        return self.conv3(self.drop(self.norm(y).relu()))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(3)
    network = Small().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape) + 0.5)
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def picture():
    return torch.randn(3, 33, 42, generator=torch.Generator().manual_seed(1))


def plain_conv(A, conv, P, weight=None):
    """P_A of one convolution, one product after the other."""
    W = (conv.weight if weight is None else weight).detach().double().numpy()
    (sy, sx), (dy, dx), groups = conv.stride, conv.dilation, conv.groups
    py, px = (1, 1) if conv.padding == "same" else conv.padding
    A = A - min(A.min(), 0)
    below = np.zeros_like(A)
    for o, y, x in np.ndindex(P.shape):
        first = o // (len(W) // groups) * W.shape[1]
        terms = []
        for c, i, j in np.ndindex(W.shape[1:]):
            at = first + c, y * sy - py + i * dy, x * sx - px + j * dx
            if 0 <= at[1] < A.shape[1] and 0 <= at[2] < A.shape[2] and W[o, c, i, j] > 0:
                terms.append((at, W[o, c, i, j] * A[at]))
        N = sum(term for _, term in terms)
        for at, term in terms:
            below[at] += P[o, y, x] * term / N if N > 1e-12 else 0
    return below


def plain_pool(A, pool, P, argmax=False, gradient=False):
    """The same of a pooling; or its gradient, of an average that counts what it is padded with."""
    k, s, p = pool.kernel_size, pool.stride, pool.padding
    A = A if argmax else A - min(A.min(), 0)
    below = np.zeros_like(A)
    for c, y, x in np.ndindex(P.shape):
        seen = [
            (c, i, j)
            for i in range(max(y * s - p, 0), min(y * s - p + k, A.shape[1]))
            for j in range(max(x * s - p, 0), min(x * s - p + k, A.shape[2]))
        ]
        if argmax:
            below[max(seen, key=lambda at: A[at])] += P[c, y, x]
            continue
        if gradient:
            rows, columns = (
                min(i * s - p + k, n + p) - (i * s - p) for i, n in zip((y, x), A.shape[1:], strict=True)
            )
            for at in seen:
                below[at] += P[c, y, x] / (rows * columns)
            continue
        N = sum(A[at] for at in seen)
        for at in seen:
            below[at] += P[c, y, x] * A[at] / N if N > 1e-12 else 0
    return below


def plain_shares(b, s, residual):
    """Of one cell."""
    if residual == "ratio-pos":
        b, s = max(b, 0), max(s, 0)
        return (b / (b + s), s / (b + s)) if b + s > 0 else (0.5, 0.5)
    if residual == "ratio-signed":
        return (b / (b + s), s / (b + s)) if b + s > 1e-12 else (0, 0)
    return {"residual-only": (1, 0), "copy": (1, 1)}[residual]


def factor(norm):
    return (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()


def plain(network, picture, P, rules, fold):
    """P of :class:`Small`'s output at pool1's output and at the picture."""
    run = {}
    net, x = network, picture[None]
    run["a"] = F.relu(net.norm1(net.conv1(x)))
    run["pool1"] = net.pool1(run["a"])
    run["b"], run["s"] = net.norm2(net.conv2(run["pool1"])), net.norm_down(net.down(run["pool1"]))
    run["y"] = F.relu(run["b"] + run["s"])
    run["pool2"] = net.pool2(run["y"])
    run["cat"] = torch.cat([F.relu(net.left(run["pool2"])), net.right(run["pool2"])], 1)
    run["norm"] = F.relu(net.norm(run["cat"]))
    A = {name: value[0].detach().double().numpy() for name, value in run.items()}
    argmax = rules.max_pool == "argmax"

    def conv_norm(name, conv, norm, P):
        if fold:
            return plain_conv(A[name], conv, P, conv.weight * factor(norm)[:, None, None, None])
        return plain_conv(A[name], conv, P * factor(norm).double().numpy()[:, None, None])

    P = plain_conv(A["norm"], net.conv3, P)
    scale = factor(net.norm).double().numpy()[:, None, None]
    P = P * ((A["cat"] - min(A["cat"].min(), 0)) * scale > 1e-12) if fold else P * scale
    P = plain_conv(A["pool2"], net.left, P[:3]) + plain_conv(A["pool2"], net.right, P[3:])
    P = plain_pool(A["y"], net.pool2, P, gradient=rules.average_pool == "gradient")
    P_b, P_s = np.zeros_like(P), np.zeros_like(P)
    for at in np.ndindex(P.shape):
        b, s = plain_shares(A["b"][at], A["s"][at], rules.residual)
        P_b[at], P_s[at] = b * P[at], s * P[at]
    P = conv_norm("pool1", net.conv2, net.norm2, P_b) + conv_norm("pool1", net.down, net.norm_down, P_s)
    middle = P
    P = plain_pool(A["a"], net.pool1, P, argmax)
    A["x"] = picture.double().numpy()
    return middle, conv_norm("x", net.conv1, net.norm1, P)


def tops(recording, n, seed=0):
    """A distribution over few neighbouring cells, one over all, and on single cells."""
    shape = recording.output.shape
    P = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(n, 1, *shape[1:])
    for k in range(n):
        y, x = k % shape[1], (2 * k + 1) % shape[2]
        mask[k, :, y : y + 1 + k % 2, x : x + 1] = 1
    P = P * mask
    return P / P.sum((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    "rules",
    [
        PAPER,
        AUTHORS,
        AUTHORS._replace(average_pool="excitation"),
        Rules("all-one", "ratio-signed"),
        Rules("argmax", "residual-only"),
    ],
)
def test_every_operation_as_in_a_plain_loop(small, picture, rules, fold):
    recording = record(trace(small, "conv3", fold), picture)
    assert torch.allclose(recording.output, small(picture[None])[0], atol=1e-5)
    P = tops(recording, 2)
    P[1] = torch.rand(P[1].shape)
    middle, bottom = propagate(recording, P, to="pool1", rules=rules), propagate(recording, P, rules=rules)
    for k in range(2):
        expected = plain(small, picture, P[k].double().numpy(), rules, fold)
        for found, value in zip((middle[k], bottom[k]), expected, strict=True):
            assert np.abs(value).max() > 0
            np.testing.assert_allclose(found, value, atol=2e-5 * np.abs(value).max())


def test_all_at_once_is_one_by_one_in_windows_or_not(small, picture):
    recording = record(trace(small, "conv3"), picture)
    P = tops(recording, 8)
    for to in ("pool1", "conv1", "input"):
        together = propagate(recording, P, to=to)
        fresh = record(trace(small, "conv3"), picture)
        one_by_one = torch.cat([propagate(fresh, P[k : k + 1], to=to, windows=False) for k in range(8)])
        assert (together - one_by_one).abs().max() <= 5e-7
        assert torch.equal(maps(recording, P, to=to), together.sum(1)) or torch.allclose(
            maps(recording, P, to=to), together.sum(1), atol=5e-7
        )


def test_it_is_linear_and_leaves_what_it_is_given(small, picture):
    recording = record(trace(small, "conv3"), picture)
    P = tops(recording, 3)
    before, kept = P.clone(), {name: value.clone() for name, value in recording.values.items()}
    each = maps(recording, P)
    mixed = maps(recording, (0.25 * P[0] + 2 * P[1] - P[2])[None])[0]
    assert torch.allclose(mixed, 0.25 * each[0] + 2 * each[1] - each[2], atol=1e-6)
    assert torch.equal(P, before)
    assert all(torch.equal(recording.values[name], value) for name, value in kept.items())
    assert torch.equal(maps(recording, P), each)


def test_memory_only_divides_the_work(small, picture):
    recording = record(trace(small, "conv3"), picture)
    P = tops(recording, 9)
    whole = propagate(recording, P)
    with pytest.raises(UsageError, match="MiB for one peak, and 0 MiB are allowed"):
        propagate(recording, P, memory=1000)
    for memory in range(20_000, 400_000, 20_000):
        try:
            assert (propagate(recording, P, memory=memory) - whole).abs().max() <= 5e-7
        except UsageError:
            continue
        break
    else:
        pytest.fail("never enough")


def test_seeds_at_cells_are_the_same_map(small, picture):
    recording = record(trace(small, "conv3"), picture)
    cells = [(0, 0), (2, 1), (3, 0)]
    P = seeds(recording.output, cells)
    dense = torch.zeros(3, *recording.output.shape)
    for k, (y, x) in enumerate(cells):
        dense[k, :, y, x] = P[k, :, 0, 0]
    assert torch.allclose(maps(recording, P, cells), maps(recording, dense), atol=5e-7)
    assert maps(recording, P[:0], []).shape == (0, 33, 42)
    assert maps(recording, dense[:0]).shape == (0, 33, 42)


def test_pictures_too_small_and_layers_aside(small):
    for size, layer in (((2, 2), "pool1"), ((3, 9), "conv3"), ((9, 1), "pool1")):
        with pytest.raises(InstsearchError, match=f"too small for layer '{layer}'"):
            record(trace(small, "conv3"), torch.rand(3, *size))
    recording = record(trace(small, "conv3"), torch.rand(3, 30, 30))
    P = tops(recording, 1)
    with pytest.raises(UsageError, match="Not all of 'conv3' comes through 'down'"):
        maps(recording, P, to="down")
    with pytest.raises(UsageError, match="no layer 'pool'"):
        maps(recording, P, to="pool")
    for cells in ([(7, 0)], [(-1, 0)]):
        with pytest.raises(ValueError, match="no cells"):
            maps(recording, P[:, :, :1, :1], cells)
    with pytest.raises(ValueError, match="6 channels"):
        maps(recording, P[:, :1])
