from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs, WeightMap
from instsearch_plugins.encoders.pwa import PWA, part_pool, varied_channels
from instsearch_plugins.numeric.normalise import l2

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
X = torch.tensor([[[1.0, 0], [0, 0]], [[1, 2], [0, 1]]])
GRID = Grid.over(3, 4, (40, 30))


class Collection:
    def __init__(self, values, weights=None):
        self.values, self.weights = values, weights
        self.images = np.arange(len(values))
        self.asked = []

    def inputs(self, kinds, rows):
        self.asked.append(len(rows))
        for row in rows:
            features = FeatureMap(self.values[row], GRID)
            yield Inputs(size=(40, 30), row=int(row), features=features, weights=self.weights)


def collection(n=20, C=8, **more):
    values = torch.rand(n, C, 3, 4, generator=torch.Generator().manual_seed(0)).sub(0.4).clamp(min=0)
    scale = torch.tensor([0.1, 3, 0, 2, 0.2, 5, 0.3, 1])[:C, None, None]
    return Collection(values * scale, **more)


def fitted(data, **options):
    encoder = PWA(PWA.Config(**options), CPU)
    state = encoder.fit(data, QUIET)
    again = PWA(PWA.Config(**options), CPU)
    again.load({k: np.asarray(v) for k, v in state.items()})
    return again, state


def test_the_cards_example():
    psi = part_pool(X, torch.ones(1, 2, 2), torch.tensor([0, 1]))
    torch.testing.assert_close(psi, torch.tensor([[1, 1, 0.63894, 3.08509]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        l2(psi), torch.tensor([[0.28957, 0.28957, 0.18502, 0.89335]]), atol=1e-5, rtol=0
    )


@given(seed=st.integers(0, 99), h=st.integers(1, 4), w=st.integers(1, 4), M=st.integers(0, 3))
def test_against_slow_loops(seed, h, w, M):
    g = torch.Generator().manual_seed(seed)
    X = torch.rand(4, h, w, generator=g).sub(0.4).clamp(min=0)
    alpha = torch.rand(M, h, w, generator=g)
    alpha[alpha < 0.4] = 0
    X[2] = 0
    a, b, channels = 3, 1.5, [0, 2, 3]
    psi = part_pool(X, alpha, torch.tensor(channels), a, b)
    assert psi.shape == (M, 12)
    for m in range(M):
        cells = [(i, j) for i in range(h) for j in range(w) if alpha[m, i, j] > 0]
        for part, n in enumerate(channels):
            z = sum(X[n, i, j].item() ** a for i, j in cells) ** (1 / a)
            for c in range(4):
                slow = sum(
                    (alpha[m, i, j] * X[c, i, j]).item() * (X[n, i, j].item() / z) ** (1 / b)
                    for i, j in cells
                    if z > 0
                )
                assert psi[m, 4 * part + c].item() == pytest.approx(slow, rel=1e-4, abs=1e-6)


def test_parts_are_the_channels_of_largest_variance_in_ascending_order():
    psi = torch.tensor([[0.0, 9, 5, 1], [1, 0, 5, 3], [0, 9, 5, 5]])
    assert varied_channels(psi, 2).tolist() == [1, 3]
    assert varied_channels(psi, 3).tolist() == [0, 1, 3]
    assert varied_channels(psi, 25).tolist() == [0, 1, 2, 3]


def test_parts_are_chosen_by_the_sums_and_kept():
    data = collection()
    encoder, state = fitted(data, parts=3)
    sums = data.values.sum((2, 3)).numpy()
    expected = sorted(np.argsort(sums.var(0))[-3:].tolist())
    assert encoder.channels.tolist() == state["channels"].tolist() == expected == [1, 3, 5]
    assert state["projection"].shape == (24, 16)
    assert data.asked == [20, 20]


def test_parts_follow_the_weights():
    alpha = torch.zeros(1, 3, 4)
    alpha[0, 0, 0] = 1
    data = collection(weights=WeightMap(alpha, GRID))
    data.values[:, 5, 0, 0] = 1
    assert fitted(data, parts=2)[0].channels.tolist() == [1, 3]


def test_only_so_many_images_choose_the_parts():
    data = collection()
    _, state = fitted(data, part_images=7, fit_images=12)
    assert data.asked == [7, 12]
    assert state["images"] == 12


def test_unit_vectors_from_few_images_and_many_dimensions():
    data = collection(n=6, C=8)
    encoder, state = fitted(data, dims=4096)
    assert state["projection"].shape == (64, 5)  # as many as six images tell apart
    raw = l2(torch.cat([part_pool(v, torch.ones(1, 3, 4), torch.arange(8)) for v in data.values]))
    turned = (raw - raw.mean(0)) @ encoder.whitening[1]  # scaled too, they would all be equally far apart
    torch.testing.assert_close(turned.T.cov(), turned.var(0).diag(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(raw, raw), atol=1e-5, rtol=0)
    for v, y in zip(data.values, turned, strict=True):
        got = encoder.aggregate(FeatureMap(v, GRID), None, None).vectors[0]
        torch.testing.assert_close(got, l2(y), atol=1e-4, rtol=1e-4)


def test_options_that_make_no_sense():
    with pytest.raises(ValueError, match="parts and part_images are at least 1"):
        PWA.Config(parts=0)
    with pytest.raises(ValueError, match="a and b are above 0"):
        PWA.Config(b=0)
    with pytest.raises(ValueError, match="fit_images at least 1"):
        PWA.Config(fit_images=0)
