import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.excitation import AUTHORS, PAPER, Rules, _plan, maps, propagate, seeds
from instsearch_plugins.numeric.excitation_rules import shares
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


def plain_pool(A, pool, P, argmax=False):
    """The same of a pooling."""
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
    P = plain_pool(A["y"], net.pool2, P)
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
    "rules", [PAPER, AUTHORS, Rules("all-one", "ratio-signed"), Rules("argmax", "residual-only")]
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


def sequence(*modules, weights=()):
    """A chain of modules, its convolutions with given weights."""
    network = nn.Sequential(*modules).eval()
    convolutions = (module for module in modules if isinstance(module, nn.Conv2d))
    for module, weight in zip(convolutions, weights, strict=True):
        module.weight.data = torch.tensor(weight, dtype=torch.float32).reshape(module.weight.shape)
    return network


@pytest.mark.parametrize(
    ("weight", "expected"), [((1, -1), (0.25, 0.75, 0)), ((1, 2), (0.05, 0.3875, 0.5625))]
)
def test_convolution_by_hand(weight, expected):
    network = sequence(nn.Conv2d(1, 1, (1, 2)), weights=[weight])
    network[0].bias.data.fill_(100)  # of no consequence
    recording = record(trace(network, "0"), torch.tensor([[[1.0, 2, 3]]]).expand(3, 1, 3)[:1])
    P = propagate(recording, torch.tensor([0.25, 0.75]).reshape(1, 1, 1, 2))
    assert P.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("pool", "rules", "expected"),
    [
        (nn.MaxPool2d((1, 2)), PAPER, (0.125, 0.375, 0, 0.5)),
        (nn.MaxPool2d((1, 2)), AUTHORS, (0, 0.5, 0, 0.5)),
        (nn.AvgPool2d((1, 2)), AUTHORS, (0.125, 0.375, 0, 0.5)),
        (nn.AdaptiveAvgPool2d((1, 2)), PAPER, (0.125, 0.375, 0, 0.5)),
        (nn.AdaptiveAvgPool2d(1), PAPER, (0.125, 0.375, 0, 0.5)),
        (nn.AdaptiveAvgPool2d((1, 4)), PAPER, (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_pooling_by_hand(pool, rules, expected):
    network = sequence(nn.Conv2d(1, 1, 1, bias=False), pool, weights=[[1]])
    recording = record(trace(network, "1"), torch.tensor([[[1.0, 3, 0, 4]]]))
    w = recording.output.shape[2]
    P = {1: torch.ones(1), 2: torch.full((2,), 0.5), 4: torch.tensor([0.1, 0.2, 0.3, 0.4])}[w]
    P = propagate(recording, P.reshape(1, 1, 1, w), to="0", rules=rules)
    assert P.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("residual", "first", "second"),
    [("ratio-pos", (0, 0.5, 0.5), (1, 0.5, 0.5)), ("ratio-signed", (-0.5, 0.5, 0), (1.5, 0.5, 0))],
)
def test_addition_by_hand(residual, first, second):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.s = nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
            self.b.weight.data = torch.tensor([1.0, 0]).reshape(1, 2, 1, 1)
            self.s.weight.data = torch.tensor([0, 1.0]).reshape(1, 2, 1, 1)
            self.all = nn.Identity()

        def forward(self, x):
            return self.all(self.b(x) + self.s(x))

    circuit = trace(Sum(), "all")
    recording = record(circuit, torch.tensor([[[-1.0, 2, 0]], [[3, 2, 0]]]))
    (layer,) = (layer for layer in circuit.layers.values() if len(layer.inputs) == 2)
    b, s = shares(recording, layer, residual)
    assert b.flatten().tolist() == pytest.approx(first)
    assert s.flatten().tolist() == pytest.approx(second)


def test_the_shorter_way_is_the_one_left_out():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.stem(x)
            return self.relu(operator.add(x, self.conv(x)))  # the other way round than torchvision's

    circuit = trace(Block(), "relu")
    add = next(layer for layer in circuit.layers.values() if len(layer.inputs) == 2)
    assert add.inputs == ("conv", "stem")


def test_a_negative_batch_norm_turns_the_weights_around():
    network = sequence(nn.Conv2d(2, 1, 1, bias=False), nn.BatchNorm2d(1), weights=[(1, -1)])
    network[1].weight.data.fill_(-3)
    recording = record(trace(network, "1"), torch.ones(2, 1, 1))
    assert propagate(recording, torch.ones(1, 1, 1, 1)).flatten().tolist() == [0, 1]


def test_the_picture_counts_from_its_smallest_value():
    network = sequence(nn.Conv2d(1, 1, (1, 3), bias=False), weights=[(1, 1, 1)])
    recording = record(trace(network, "0"), torch.tensor([[[-1.0, 0, 2]]]))
    assert propagate(recording, torch.ones(1, 1, 1, 1)).flatten().tolist() == pytest.approx([0, 0.25, 0.75])


def test_seeds():
    X = torch.tensor([[[1.0, 0], [2, 0]], [[3, 0], [-1, 0]]])
    assert seeds(X, [(0, 0), (1, 0), (0, 1)])[:, :, 0, 0].tolist() == [[0.25, 0.75], [1, 0], [0.5, 0.5]]
    assert seeds(X, [(0, 0)], "uniform").flatten().tolist() == [0.5, 0.5]
    assert seeds(X, []).shape == (0, 2, 1, 1)


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


def meta(name):
    """One of torchvision's networks with He's random weights, none for what follows its features."""
    from torchvision.models import get_model

    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        network = get_model(name, weights=None, **options).eval()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in network.state_dict().items():
        if tensor.ndim == 4:
            state[key] = torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        elif not key.startswith(("classifier", "fc", "aux")):
            state[key] = torch.ones(tensor.shape) * float(key.endswith(("weight", "var")))
    network.load_state_dict(state, strict=False, assign=True)
    return network


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("vgg16", "features.30", (64, 96)),
        ("resnet50", "layer4", (64, 96)),
        ("resnext50_32x4d", "layer3", (64, 64)),
        ("squeezenet1_0", "features.12", (224, 160)),
        ("densenet161", "features", (64, 64)),
        ("googlenet", "inception5b", (64, 96)),
        ("mobilenet_v2", "features", (64, 96)),
    ],
)
def test_torchvisions_networks_keep_the_sum(name, layer, size):
    network = meta(name)
    recording = record(
        trace(network, layer), torch.randn(3, *size, generator=torch.Generator().manual_seed(2))
    )
    seen = []
    module = network.get_submodule(layer)
    module.register_forward_hook(lambda *args: seen.append(args[2]))
    _, h, w = recording.output.shape
    cells = [(0, 0), (h // 2, w // 2), (h - 1, w - 1)]
    P = seeds(recording.output, cells)
    way = list(recording.circuit.bottlenecks())
    stops = {way[0], way[len(way) // 2], recording.at(8), recording.at(4), "input"}
    for to in stops:
        M = maps(recording, P, cells, to=to)
        assert M.shape[1:] == recording.shapes[to][1:]
        assert M.min() >= 0
        assert M.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-3), to
    apart = maps(recording, P, cells, windows=False)
    assert (maps(recording, P, cells) - apart).abs().max() <= 5e-7
    assert recording.stride(recording.at(8)) == 8


def test_windows_are_as_large_as_the_receptive_field():
    recording = record(trace(meta("squeezenet1_0"), "features.12"), torch.randn(3, 336, 320))
    P = seeds(recording.output, [(10, 9)])
    M = maps(recording, P, [(10, 9)])[0]
    ys, xs = (M > 0).nonzero().T
    # y -> y - 1 (fire9), 2 y - 2 (pool), - 4 (fire8 to fire5), 4 y - 12, - 3, 8 y - 30, 16 y - 60
    assert (int(ys.min()), int(xs.min())) == (16 * 10 - 60, 16 * 9 - 60)
    assert (int(ys.max() - ys.min()), int(xs.max() - xs.min())) == (154, 154)
    windows = _plan(recording, "input", (1, 1), True).windows
    assert [(window.y.size, window.x.size) for window in windows.values() if window.fixed] == []
    assert windows["features_0"].area == 75 * 75
    assert windows["input"].area == 155 * 155
    fixed = _plan(recording, "input", (1, 1), False)
    assert all(window.fixed for window in fixed.windows.values())
    assert fixed.bytes > 3 * _plan(recording, "input", (1, 1), True).bytes


def test_the_recorded_map_is_the_networks_own():
    network = meta("resnet50")
    x = torch.randn(1, 3, 64, 64)
    recording = record(trace(network, "layer2"), x)
    with torch.no_grad():
        y = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        y = network.layer2(network.layer1(y))[0]
    assert torch.allclose(recording.output, y, atol=1e-4 * float(y.abs().max()))


def test_hooks_are_not_run():
    def stop(*_):
        raise RuntimeError("a hook")

    network = sequence(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU()), weights=[[1]])
    network[1].register_forward_hook(stop)
    assert trace(network, "1").top == trace(network, "1.0").top


def test_other_threads_go_on_while_a_network_is_traced():
    from concurrent.futures import ThreadPoolExecutor

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU())

        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:
                self.seen = pool.submit(lambda: self.relu(self.conv(torch.ones(1, 1, 2, 2)))).result(
                    timeout=30
                )
            return self.relu(self.conv(x))

    network = Slow().eval()
    assert list(trace(network, "relu").layers) == ["conv", "relu_0"]
    assert torch.equal(network.seen, F.relu(network.conv(torch.ones(1, 1, 2, 2))))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(*[st.integers(0, 2)] * 2),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_windows_of_any_geometry_are_whole_maps(numbers, padding, extra, shallow, seed):
    torch.manual_seed(seed)
    ky, kx, sy, sx, dy, dx = numbers
    wide = {} if shallow else {"dilation": (dy, dx)}
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 3, (ky, kx), stride=(sy, sx), padding=padding, **wide),
        nn.ReLU(),
        nn.MaxPool2d(2, 2, ceil_mode=True),
    )
    y, x = (n + 2 * 7 for n in extra)
    recording = record(trace(network, "4"), torch.rand(2, 2 * y, 2 * x))
    _, h, w = recording.output.shape
    cells = [(0, 0), (h - 1, w - 1), (h // 2, w // 3)]
    P = seeds(recording.output, cells)
    for rules in (PAPER, AUTHORS):
        found, expected = (maps(recording, P, cells, rules=rules, windows=flag) for flag in (True, False))
        assert (found - expected).abs().max() <= 5e-7


def error_of(network, layer, match):
    with pytest.raises(UsageError, match=match) as caught:
        trace(network, layer)
    return str(caught.value)


def test_what_is_of_no_known_kind_is_named():
    class Gate(nn.Module):
        def __init__(self, gate):
            super().__init__()
            self.conv, self.end, self.gate = nn.Conv2d(1, 1, 1), nn.Identity(), gate

        def forward(self, x):
            return self.end(self.gate(self.conv(x)))

    conv = nn.Conv2d(1, 1, 1)
    message = error_of(nn.Sequential(conv, nn.Sigmoid(), nn.ReLU()), "2", "layer '1', which is a Sigmoid")
    assert "It knows convolution, batch norm" in message
    error_of(Gate(torch.sigmoid), "end", "sigmoid")
    error_of(Gate(lambda x: x + 1), "end", "which is a add")
    error_of(Gate(lambda x: x * x), "end", "which is a mul")
    error_of(Gate(lambda x: torch.cat([x, x], 2)), "end", "which is a cat")
    error_of(nn.Sequential(conv, nn.Flatten(), nn.Linear(1, 1)), "2", "layer '1', which is a Flatten")
    error_of(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "0", "Conv2d")
    error_of(nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), "0", "one-sided")
    trace(nn.Sequential(conv, nn.ReLU(), nn.Sigmoid()), "1")  # what follows is never reached


def test_what_else_is_wrong_is_said():
    error_of(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), "1", "no convolution below layer '1'")
    error_of(nn.Sequential(nn.Conv2d(1, 1, 1)), "conv", "no layer 'conv'")
    relu, conv = nn.ReLU(), nn.Conv2d(1, 1, 1)
    error_of(nn.Sequential(conv, relu, relu), "1", "several times")

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    error_of(Branching(), "a", "cannot be traced")


def test_uneven_averages_are_said():
    network = sequence(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(3), weights=[[1]])
    recording = record(trace(network, "1"), torch.rand(1, 4, 4))
    with pytest.raises(UsageError, match="unequal size"):
        maps(recording, torch.ones(1, 1, 3, 3))


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
