"""Soft proposals against plain loops: transitions, the walk, boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs
from instsearch_cli.testing import DetectorContract, WeighterContract
from instsearch_plugins.detectors import spn as detectors
from instsearch_plugins.numeric import soft_proposals
from instsearch_plugins.numeric.soft_proposals import objectness, transitions
from instsearch_plugins.weighters import spn as weighters

CPU = torch.device("cpu")


def inputs_of(X: torch.Tensor) -> Inputs:
    h, w = X.shape[1:]
    grid = Grid(h, w, (16, 16, 0, 0))
    return Inputs(size=(16 * w, 16 * h), features=FeatureMap(X, grid), grid=grid)


@settings(max_examples=25, deadline=None)
@given(h=st.integers(1, 5), w=st.integers(1, 5), seed=st.integers(0, 99), factor=st.floats(0.1, 1))
def test_equals_the_plain_loops(h: int, w: int, seed: int, factor: float) -> None:
    U = torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed)).double()
    cells = [(y, x) for y in range(h) for x in range(w)]
    n, eps = len(cells), factor * max(h, w)
    D = [
        [
            float((U[:, a, b] - U[:, c, d]).norm()) * math.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * eps**2))
            for c, d in cells
        ]
        for a, b in cells
    ]
    totals = [sum(D[i][j] for i in range(n)) for j in range(n)]
    E = [[D[i][j] / totals[j] if totals[j] > 0 else 1 / n for j in range(n)] for i in range(n)]
    np.testing.assert_allclose(transitions(U, factor).numpy(), E, atol=1e-6)
    M = [1 / n] * n
    for _ in range(5):
        M = [sum(E[i][j] * M[j] for j in range(n)) for i in range(n)]
    walked = objectness(U, factor, tolerance=0, iterations=5)
    np.testing.assert_allclose(walked.reshape(-1).numpy(), M, atol=1e-4)
    assert float(walked.sum()) == pytest.approx(1, abs=1e-5)


def test_what_differs_from_its_surroundings_is_an_object() -> None:
    X = torch.zeros(4, 12, 16)
    X[:, 4:8, 9:13] = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1)) + 1
    weights = weighters.SPN(weighters.SPN.Config(), CPU).weigh(inputs_of(X)).values[0]
    assert weights.max() == 1
    assert weights[4:8, 9:13].mean() > 3 * weights[:, :4].mean()
    regions = detectors.SPN(detectors.SPN.Config(thresholds=(0.3,)), CPU).detect(inputs_of(X))
    x0, y0, x1, y1 = (regions.boxes[0] / 16).tolist()
    assert 8 <= x0 < x1 <= 14
    assert 3 <= y0 < y1 <= 9
    assert len(detectors.SPN(detectors.SPN.Config(), CPU).explain(inputs_of(X))) == 1


def test_a_flat_map_is_the_whole_picture() -> None:
    flat = inputs_of(torch.ones(2, 3, 5))
    regions = detectors.SPN(detectors.SPN.Config(), CPU).detect(flat)
    assert regions.boxes.tolist() == [[0, 0, 80, 48]]
    assert weighters.SPN(weighters.SPN.Config(), CPU).weigh(flat).values.min() == 1


def test_large_maps_are_averaged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    X = torch.rand(2, 9, 14, generator=torch.Generator().manual_seed(3))
    exact = objectness(X)
    monkeypatch.setattr(soft_proposals, "MOST", 40)
    assert objectness(X).shape == exact.shape
    assert float(objectness(X).sum()) == pytest.approx(1, abs=1e-5)
    assert torch.corrcoef(torch.stack([exact.flatten(), objectness(X).flatten()]))[0, 1] > 0.2


class TestWeighter(WeighterContract):
    component = weighters.SPN


class TestDetector(DetectorContract):
    component = detectors.SPN
