"""Excitation backprop on networks as they are traced: torchvision's, of any geometry, and of no known kind."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from instsearch_cli.errors import UsageError
from instsearch_plugins.numeric.excitation import AUTHORS, PAPER, _plan, maps, seeds
from instsearch_plugins.numeric.layers import record
from instsearch_plugins.numeric.tracing import trace
from module_chains import sequence


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
