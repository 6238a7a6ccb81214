import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs, Keypoints
from instsearch_cli.errors import UsageError
from instsearch_plugins.weighters.gaussian import Gaussian, centre_prior, spoc_prior
from instsearch_plugins.weighters.l2norm import L2Norm, feature_norm
from instsearch_plugins.weighters.none import NoWeighting

CPU = torch.device("cpu")
GRID = Grid.over(3, 5, (80, 48))


def inputs(grid=GRID, features=None):
    return Inputs(size=(80, 48), grid=grid, features=features)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=atol, rtol=0)


def test_none_is_one_on_every_cell():
    weights = NoWeighting(NoWeighting.Config(), CPU).weigh(inputs())
    assert weights.grid is GRID
    assert torch.equal(weights.values, torch.ones(1, 3, 5))


def test_centre_prior_odd_sides():
    close(
        centre_prior(3, 5),
        [
            [0, 0.31135, 0.57134, 0.31135, 0],
            [0.05801, 0.57134, 1, 0.57134, 0.05801],
            [0, 0.31135, 0.57134, 0.31135, 0],
        ],
    )


def test_centre_prior_even_sides():
    g = centre_prior(4, 4)
    close(g[0], [0, 0.26894, 0.26894, 0])
    close(g[1], [0.26894, 1, 1, 0.26894])
    assert torch.equal(g, g.flip(0))
    assert torch.equal(g, g.T)


def test_spoc_prior_is_half_as_wide_and_nowhere_zero():
    close(spoc_prior(3, 5)[1], [0.00034, 0.13534, 1, 0.13534, 0.00034])
    g = spoc_prior(4, 6)
    for i in range(4):
        for j in range(6):  # relative to one of the four central cells, half a step off the centre
            d = (i - 1.5) ** 2 + (j - 2.5) ** 2 - 0.5
            assert g[i, j].item() == pytest.approx(math.exp(-d / (2 * (4 / 6) ** 2)), rel=1e-5)


@pytest.mark.parametrize("prior", [centre_prior, spoc_prior])
def test_single_cell_gives_one(prior):
    assert prior(1, 1).tolist() == [[1.0]]


@given(h=st.integers(1, 40), w=st.integers(1, 40), sigma=st.floats(0.05, 5))
def test_priors_are_symmetric_with_peak_one(h, w, sigma):
    for prior in (centre_prior, spoc_prior):
        g = prior(h, w, sigma)
        assert g.shape == (h, w)
        assert g.dtype == torch.float32
        assert g.max() == 1
        assert g.min() >= 0
        torch.testing.assert_close(g, g.flip(0, 1), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("form", "prior"), [("salbow", centre_prior), ("spoc", spoc_prior)])
def test_gaussian_component(form, prior):
    weights = Gaussian(Gaussian.Config(sigma=0.4, form=form), CPU).weigh(inputs())
    assert weights.grid is GRID
    assert torch.equal(weights.values, prior(3, 5, 0.4)[None])


def test_gaussian_without_width_is_refused():
    with pytest.raises(ValueError, match="sigma is above 0"):
        Gaussian.Config(sigma=0)


X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])


def test_feature_norm_of_the_card():
    close(feature_norm(X, stretch=False), [[0.70711, 1], [0, 0.5]])


def test_feature_norm_stretched():
    Y = torch.tensor([[[3.0, 1], [2, 5]]])
    close(feature_norm(Y), [[0.5, 0], [0.25, 1]])
    close(feature_norm(Y, stretch=False), [[0.6, 0.2], [0.4, 1]])


@pytest.mark.parametrize("stretch", [False, True])
def test_features_without_contrast_count_alike(stretch):
    assert torch.equal(feature_norm(torch.zeros(4, 2, 3), stretch), torch.ones(2, 3))
    torch.testing.assert_close(feature_norm(torch.full((4, 2, 3), 0.7), stretch), torch.ones(2, 3))


def test_l2norm_component_lies_on_the_features_grid():
    grid = Grid(2, 2, (16.0, 16.0, 1.0, 1.0))
    weights = L2Norm(L2Norm.Config(), CPU).weigh(inputs(features=FeatureMap(X, grid)))
    assert weights.grid is grid
    assert torch.equal(weights.values, feature_norm(X)[None])
    far = inputs(features=FeatureMap(X + 1, grid))
    assert L2Norm(L2Norm.Config(), CPU).weigh(far).values.min() == 0
    assert L2Norm(L2Norm.Config(stretch=False), CPU).weigh(far).values.min() > 0


def test_l2norm_of_keypoints_says_what_to_do():
    points = Keypoints(torch.rand(7, 128), torch.rand(7, 4), GRID)
    with pytest.raises(UsageError, match=r"needs a feature map.*use another weighting"):
        L2Norm(L2Norm.Config(), CPU).weigh(inputs(features=points))
