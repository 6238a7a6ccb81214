"""The rules of excitation backprop by hand: convolution, pooling, addition, batch norm, the picture and seeds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instsearch_plugins.numeric.excitation import AUTHORS, PAPER, propagate, seeds
from instsearch_plugins.numeric.excitation_rules import shares
from instsearch_plugins.numeric.layers import record
from instsearch_plugins.numeric.tracing import trace
from module_chains import sequence


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
        (nn.AvgPool2d((1, 2)), PAPER, (0.125, 0.375, 0, 0.5)),
        (nn.AvgPool2d((1, 2)), AUTHORS, (0.25, 0.25, 0.25, 0.25)),
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
