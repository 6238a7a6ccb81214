import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_plugins.numeric.normalise import l2, stretched, unit_peak
from instsearch_plugins.numeric.whitening import (
    mean_and_covariance,
    pca_whitening,
    pca_whitening_of_few,
    whiten,
)

ROWS = torch.tensor([[2.0, 0], [0, 1], [-2, 0], [0, -1]])


def test_covariance_of_the_card():
    n, mean, covariance = mean_and_covariance([ROWS])
    assert n == 4
    assert mean.tolist() == [0, 0]
    torch.testing.assert_close(covariance, torch.diag(torch.tensor([8 / 3, 2 / 3], dtype=torch.float64)))


def test_whitening_of_the_card():
    mean, P = pca_whitening([ROWS])
    y = whiten(ROWS, mean, P).abs()
    expected = [[1.22474, 0], [0, 1.22474], [1.22474, 0], [0, 1.22474]]
    torch.testing.assert_close(y, torch.tensor(expected), atol=1e-5, rtol=0)


@given(cuts=st.lists(st.integers(1, 59), max_size=6, unique=True), seed=st.integers(0, 50))
def test_batches_do_not_matter(cuts, seed):
    x = np.random.default_rng(seed).normal(3, 2, (60, 4)).astype(np.float32)
    bounds = [0, *sorted(cuts), 60]
    parts = [torch.from_numpy(x[a:b]) for a, b in itertools.pairwise(bounds)]
    n, mean, covariance = mean_and_covariance(parts)
    assert n == 60
    np.testing.assert_allclose(mean.numpy(), x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


def test_a_far_mean_does_not_cancel():
    x = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, _, near = mean_and_covariance(torch.split(x, 33))
    _, _, far = mean_and_covariance(torch.split(x + 1e7, 33))
    torch.testing.assert_close(near, far, rtol=1e-6, atol=1e-8)


def test_whitened_components_are_uncorrelated_and_of_unit_variance():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g) @ torch.randn(6, 6, generator=g) + 5
    for dims in (0, 3):
        mean, P = pca_whitening(torch.split(x, 64), dims)
        y = whiten(x, mean, P)
        assert y.shape == (400, dims or 6)
        torch.testing.assert_close(y.T.cov(), torch.eye(dims or 6), atol=1e-3, rtol=0)
    full, _ = pca_whitening([x]), None
    torch.testing.assert_close(full[1][:, :3].abs(), pca_whitening([x], 3)[1].abs())  # the largest come first


def test_dead_channels_are_dropped():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0.125
    mean, P = pca_whitening([x])
    assert P.shape == (4, 3)
    assert P[2].abs().max() < 1e-3
    assert whiten(x, mean, P).abs().max() < 10


def test_fewer_rows_than_dimensions():
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    mean, P = pca_whitening([x])
    assert P.shape == (32, 4)
    assert pca_whitening([x], 2)[1].shape == (32, 2)
    torch.testing.assert_close(whiten(x, mean, P).T.cov(), torch.eye(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [0, 3])
@pytest.mark.parametrize(("n", "D"), [(2, 5), (9, 10), (9, 64), (12, 5)])
def test_both_ways_to_whiten_agree(n, D, dims):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(n)) * torch.logspace(0, 2, D) + 50
    (mean, P), (mean2, P2) = pca_whitening([x], dims), pca_whitening_of_few(x, dims)
    assert P2.shape == P.shape == (D, min(dims or D, n - 1, D))
    torch.testing.assert_close(mean2, mean)
    torch.testing.assert_close(P2 @ P2.T, P @ P.T, atol=1e-5, rtol=1e-4)  # but for the signs of the axes


def test_few_rows_twice_over_have_no_more_directions():
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    assert pca_whitening_of_few(x)[1].shape == (32, 3)


@pytest.mark.parametrize("x", [torch.ones(1, 3), torch.ones(7, 3)])
def test_without_variance_nothing_changes(x):
    mean, P = pca_whitening([x])
    assert torch.equal(whiten(x, mean, P), x)


def test_no_rows_at_all():
    with pytest.raises(ValueError, match="no vectors"):
        pca_whitening([])


def test_l2():
    x = torch.tensor([[3.0, 4], [0, 0], [0, -2]])
    torch.testing.assert_close(l2(x), torch.tensor([[0.6, 0.8], [0, 0], [0, -1]]))
    torch.testing.assert_close(l2(x, dim=0)[:, 0], torch.tensor([1.0, 0, 0]))


def test_maps_peak_at_one():
    alpha = torch.tensor([[1.0, 3], [2, 5]])
    torch.testing.assert_close(unit_peak(alpha), alpha / 5)
    torch.testing.assert_close(stretched(alpha), (alpha - 1) / 4)
    assert torch.equal(unit_peak(torch.zeros(2, 2)), torch.ones(2, 2))
    assert torch.equal(stretched(torch.full((2, 2), 3.0)), torch.ones(2, 2))
