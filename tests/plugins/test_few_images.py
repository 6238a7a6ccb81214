"""Collections of a few images: vectors are centred and turned to their axes, which only enough images scale."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instsearch_cli.data import FeatureMap, Grid, Inputs, Regions
from instsearch_cli.options import make_config
from instsearch_plugins.encoders.regions_sum import RegionsSum
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.numeric import whitening
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.whitening import pca_whitening_of_few, turned_if_few, whiten

CPU = torch.device("cpu")
GRID = Grid.over(3, 4, (64, 48))
HALVES = Regions(torch.tensor([[0.0, 0, 32, 48], [32, 0, 64, 48]]), torch.ones(2))


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "ENOUGH", 24)


class Pairs:
    """Feature maps of n images, each two of which are one and its copy, all on one strong mean."""

    def __init__(self, n: int, C: int = 64) -> None:
        random = torch.Generator().manual_seed(n)
        first = torch.rand(n // 2, C, 3, 4, generator=random) + torch.rand(C, 1, 1, generator=random) * 3
        copies = first * 0.8 + torch.rand(n // 2, C, 3, 4, generator=random) * 0.2
        self.maps = [FeatureMap(x, GRID) for pair in zip(first, copies, strict=True) for x in pair]
        self.images = np.arange(n)

    def inputs(self, kinds, rows=None):
        for row in self.images if rows is None else rows:
            yield Inputs(row=int(row), size=(64, 48), features=self.maps[row], regions=HALVES)


def codes(cls, data, **options):
    encoder = cls(make_config(cls, options, "encoder"), CPU)
    state = encoder.fit(data, SimpleNamespace(start=lambda *a: None, advance=lambda *a: None))
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    return torch.cat([encoder.aggregate(features, None, HALVES).vectors[:1] for features in data.maps]), state


def copies_first(vectors: torch.Tensor) -> float:
    """The share of images whose nearest other one is their copy."""
    similar = (vectors @ vectors.T).fill_diagonal_(-9)
    return float((similar.argmax(1) == torch.arange(len(vectors)) ^ 1).float().mean())


@pytest.mark.parametrize("cls", [SumPooling, RegionsSum])
@pytest.mark.parametrize("n", [4, 6, 12, 16, 22])
def test_a_copy_is_nearest_however_few_the_images(cls, n: int) -> None:
    vectors, _ = codes(cls, Pairs(n))
    assert copies_first(vectors) == 1


@pytest.mark.parametrize("n", [6, 12, 17])
def test_scaled_axes_leave_few_images_equally_far_apart(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = l2(torch.stack([f.values.sum((1, 2)) for f in Pairs(n + n % 2).maps[:n]]))
    mean, P = pca_whitening_of_few(x)
    scaled = whiten(x, mean, P)
    apart = torch.cdist(scaled, scaled)[~torch.eye(n, dtype=torch.bool)]
    torch.testing.assert_close(apart, apart.mean().expand(len(apart)), rtol=1e-3, atol=0)
    monkeypatch.setattr(whitening, "ENOUGH", 0)  # as many axes as images have are never scaled
    torch.testing.assert_close(
        torch.cdist(whiten(x, mean, turned_if_few(P, n, n)), x.new_zeros(1, n - 1)),
        (x - x.mean(0)).norm(dim=1, keepdim=True),
    )


@pytest.mark.parametrize("cls", [SumPooling, RegionsSum])
def test_enough_images_are_whitened_to_the_last_bit_as_ever(cls, monkeypatch: pytest.MonkeyPatch) -> None:
    few, enough = (codes(cls, Pairs(n))[1]["projection"] for n in (22, 24))
    monkeypatch.setattr(whitening, "ENOUGH", 0)
    assert torch.equal(enough, codes(cls, Pairs(24))[1]["projection"])
    torch.testing.assert_close(few, l2(codes(cls, Pairs(22))[1]["projection"], dim=0))
    torch.testing.assert_close(few.norm(dim=0), torch.ones(few.shape[1]))
    assert enough.norm(dim=0).min() > 2
