"""CroW's spatial weights: the card's example, a plain loop, invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs, Keypoints
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.numeric.pooling import spatial_weights
from instsearch_plugins.weighters.crow import CroW

CPU = torch.device("cpu")
X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
GRID = Grid(2, 2, (16.0, 16.0, 1.0, 1.0))


class TestContract(WeighterContract):
    component = CroW


class TestContractWithoutPeak(WeighterContract):
    component = CroW
    options = {"peak": "false", "a": "1", "b": "3"}  # noqa: RUF012


def weigh(features, **options):
    config = make_config(CroW, options, "weighting")
    return CroW(config, CPU).weigh(Inputs(size=(34, 34), grid=GRID, features=features))


def test_the_cards_case():
    expected = torch.tensor([[0.81650, 0.81650], [0, 0.57735]])
    torch.testing.assert_close(spatial_weights(X), expected, atol=1e-5, rtol=0)


@given(
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    a=st.floats(0.5, 6),
    b=st.floats(0.5, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_plain_loop(h, w, a, b, seed):
    X = torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed)) * 40
    S = [[sum(float(X[c, i, j]) for c in range(3)) for j in range(w)] for i in range(h)]
    z = sum(S[i][j] ** a for i in range(h) for j in range(w)) ** (1 / a)
    expected = torch.tensor([[(S[i][j] / z) ** (1 / b) for j in range(w)] for i in range(h)])
    torch.testing.assert_close(spatial_weights(X, a, b), expected, rtol=1e-4, atol=1e-6)


@given(scale=st.floats(1e-20, 1e20))
def test_scale_of_the_features_does_not_matter(scale):
    torch.testing.assert_close(spatial_weights(X * scale), spatial_weights(X), rtol=1e-4, atol=1e-6)


def test_negative_sums_count_as_zero():
    Y = torch.tensor([[[1.0, -3]], [[2, 1]]])
    assert spatial_weights(Y).tolist() == [[1, 0]]
    assert spatial_weights(-Y.abs()).tolist() == [[0, 0]]


def test_nothing_active_weighs_all_alike():
    nothing = FeatureMap(torch.zeros(4, 2, 2), GRID)
    for peak in (True, False):
        assert torch.equal(weigh(nothing, peak=peak).values, torch.ones(1, 2, 2))


def test_component_divides_by_the_largest_unless_told_not_to():
    weights = weigh(FeatureMap(X, GRID))
    assert weights.grid is GRID
    expected = torch.tensor([[[1, 1], [0, 0.5**0.5]]])
    torch.testing.assert_close(weights.values, expected)
    plain = weigh(FeatureMap(X, GRID), peak=False, a=3, b=1)
    assert torch.equal(plain.values[0], spatial_weights(X, 3, 1))


def test_keypoints_say_what_to_do():
    with pytest.raises(UsageError, match=r"needs a feature map.*use another weighting"):
        weigh(Keypoints(torch.rand(7, 128), torch.rand(7, 4), GRID))


@pytest.mark.parametrize("options", [{"a": 0}, {"b": -1}, {"a": "nan"}])
def test_exponents_are_above_zero(options):
    with pytest.raises(UsageError, match=r"a and b are above 0|weighting\.a is a finite number"):
        weigh(FeatureMap(X, GRID), **options)
