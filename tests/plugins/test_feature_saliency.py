"""Feature saliency: the card's numbers, a plain loop, and maps with nothing salient in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Inputs, Keypoints
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.numeric.saliency import feature_saliency
from instsearch_plugins.weighters.feature_saliency import FeatureSaliency
from instsearch_plugins.weighters.object_saliency import ObjectSaliency
from saliency_scenes import CPU, SCENES, SIZE, fitted, inputs_of, plain_feature_saliency

CARD = torch.tensor([[[1.0, 2], [0, 1]], [[0, 4], [0, 0]], [[0, 0], [0, 0]]])


def test_the_cards_feature_saliency():
    expected = torch.tensor([[0.216563, 0.998898], [0, 0.216563]])
    torch.testing.assert_close(feature_saliency(CARD), expected, atol=1e-4, rtol=0)
    got = FeatureSaliency(FeatureSaliency.Config(), CPU).weigh(inputs_of(CARD))
    torch.testing.assert_close(got.values[0], expected, atol=1e-4, rtol=0)


@given(
    C=st.integers(1, 5),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    epsilon=st.sampled_from([1e-6, 0.1]),
    seed=st.integers(0, 999),
)
def test_feature_saliency_against_a_plain_loop(C, h, w, epsilon, seed):
    A = (torch.rand(C, h, w, generator=torch.Generator().manual_seed(seed)) - 0.5).clamp(min=0) * 50
    got = feature_saliency(A, epsilon)
    torch.testing.assert_close(got, plain_feature_saliency(A, epsilon), atol=1e-4, rtol=1e-3)


def test_nothing_salient_weighs_all_alike():
    weigh = FeatureSaliency(FeatureSaliency.Config(), CPU).weigh
    assert torch.equal(weigh(inputs_of(torch.zeros(4, 2, 3))).values, torch.ones(1, 2, 3))
    assert torch.equal(weigh(inputs_of(torch.rand(1, 2, 3))).values, torch.ones(1, 2, 3))  # b = log 1
    lone = torch.zeros(4, 2, 3)
    lone[2, 1, 1] = 7
    assert weigh(inputs_of(lone)).values[0].tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("cls", [FeatureSaliency, ObjectSaliency])
def test_keypoints_say_what_to_do(cls, tmp_path):
    component = cls(cls.Config(), CPU) if cls is FeatureSaliency else fitted(SCENES, tmp_path)
    points = Keypoints(torch.rand(7, 128), torch.rand(7, 4), Grid.over(2, 2, SIZE))
    with pytest.raises(UsageError, match=r"needs a feature map.*use another weighting"):
        component.weigh(Inputs(size=SIZE, grid=points.grid, features=points))


def test_epsilon_is_above_zero():
    with pytest.raises(UsageError, match="epsilon is above 0"):
        make_config(FeatureSaliency, {"epsilon": "0"}, "weighting")


class TestFeatureSaliencyContract(WeighterContract):
    component = FeatureSaliency
