"""Selective convolutional descriptor aggregation: mask, component, mean and maximum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs, Keypoints, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.encoders import scda
from instsearch_plugins.weighters.scda import SCDA, largest

CPU = torch.device("cpu")


def inputs_of(X: np.ndarray) -> Inputs:
    h, w = X.shape[1:]
    grid = Grid(h, w, (16, 16, 0, 0))
    features = FeatureMap(torch.from_numpy(X.astype(np.float32)), grid)
    return Inputs(size=(16 * w, 16 * h), features=features, grid=grid)


def plain_component(mask: np.ndarray) -> set[tuple[int, int]]:
    """The largest set of cells that touch, corners among them, by flooding."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    best: set[tuple[int, int]] = set()
    while left:
        todo, seen = [min(left)], set()
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                seen.add((y, x))
                todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        if len(seen) > len(best):
            best = seen
    return best


@given(h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_largest_component(h: int, w: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.4
    found = {(int(y), int(x)) for y, x in np.argwhere(largest(mask))}
    assert len(found) == len(plain_component(mask))
    assert found <= {(int(y), int(x)) for y, x in np.argwhere(mask)}


def test_mask_by_hand() -> None:
    """Sums 9 5 / 0 0 0 6: above the mean of 2.5 are three cells, of which two touch."""
    X = np.array([[[9, 5, 0, 0], [0, 0, 0, 6]], [[0.0] * 4] * 2])
    values = SCDA(SCDA.Config(), CPU).weigh(inputs_of(X)).values
    assert values[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    every = SCDA(SCDA.Config(component=False), CPU).weigh(inputs_of(X)).values
    assert every[0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert SCDA(SCDA.Config(), CPU).weigh(inputs_of(np.ones((2, 3, 3)))).values.min() == 1


def test_mean_and_maximum_of_the_selected() -> None:
    X = np.array([[[3.0, 5, 7]], [[4, 0, 100]]])
    inputs = inputs_of(X)
    encoder = scda.SCDA(scda.SCDA.Config(), CPU)
    encoder.load(encoder.fit(None, None))
    selected = WeightMap(torch.tensor([[[1.0, 1, 0]]]), inputs.features.grid)
    (code,) = encoder.aggregate(inputs.features, selected, None).vectors
    mean, most = np.array([4.0, 2]), np.array([5.0, 4])
    wanted = np.concatenate([mean / np.linalg.norm(mean), most / np.linalg.norm(most)]) / np.sqrt(2)
    assert code.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_keypoints_are_refused() -> None:
    points = Keypoints(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), Grid(1, 1, (1, 1, 0, 0)))
    with pytest.raises(UsageError, match="scda"):
        SCDA(SCDA.Config(), CPU).weigh(Inputs(size=(4, 4), features=points))


class TestContract(WeighterContract):
    component = SCDA
