"""What the papers leave open and their authors did another way: small options, by hand."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_cli.measure.saliency_metrics import sim
from instsearch_cli.options import late, make_config
from instsearch_plugins.encoders.cam import CAM
from instsearch_plugins.encoders.crow import CroW

CPU = torch.device("cpu")


def test_similarity_by_hand() -> None:
    """Stretched 0 1 / 3 2 is 0 1/3 1 2/3, over its sum 0 1/6 1/2 1/3; the other 1/2 0 1/2 0 of its sum."""
    P, Q = np.array([[0, 1], [3, 2]]), np.array([[5.0, 1], [5, 1]])
    assert sim(P, Q) == pytest.approx(0 + 0 + 0.5 + 0)
    assert sim(P, P) == pytest.approx(1)
    assert sim(2 * P + 7, P) == pytest.approx(1)
    assert np.isnan(sim(np.ones((2, 2)), P))
    with pytest.raises(ValueError, match="one shape"):
        sim(P, np.ones((3, 2)))


@pytest.mark.parametrize("pool", ["sum", "max"])
def test_class_vectors_by_the_plain_loop(pool: Literal["sum", "max"]) -> None:
    """Three channels, two classes, CW_k = log(sum Q / Q_k); of the first no cell counts in a corner's box."""
    X = np.array([[[1, 0], [0, 0]], [[1, 2], [0, 1]], [[0, 3], [1, 1.0]]])
    maps = np.array([[[1, 0.5], [0, 0]], [[0, 0.2], [1, 0.7]]])
    Q = [np.count_nonzero(x) for x in X]
    wanted = []
    for a in maps:
        every = [[X[k, i, j] * a[i, j] for i in range(2) for j in range(2)] for k in range(3)]
        f = [
            np.log(sum(Q) / Q[k]) * (sum(cells) if pool == "sum" else max(cells))
            for k, cells in enumerate(every)
        ]
        wanted.append(f / np.linalg.norm(f))
    encoder = CAM(CAM.Config(pool=pool, whiten=False), CPU)
    encoder.load({})
    grid = Grid(2, 2, (16, 16, 0, 0))
    features = FeatureMap(torch.from_numpy(X).float(), grid)
    weights = WeightMap(torch.from_numpy(maps).float(), grid, torch.arange(2))
    found = encoder.class_vectors(features, weights)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    total = np.sum(wanted, 0)
    code = encoder.aggregate(features, weights, None).vectors[0]
    np.testing.assert_allclose(code, total / np.linalg.norm(total), atol=1e-6)
    assert not encoder.class_vectors(features, BoxWeight((0, 16, 16, 32), weights))[0].any()
    assert ("pool" in late(encoder.config)) == (pool == "max")


def test_pooled_vectors_may_stay_as_they_are() -> None:
    nothing: Any = None
    encoder = CroW(CroW.Config(whiten=False), CPU)
    assert encoder.fit(nothing, nothing) == {}
    encoder.load({})
    assert encoder.whitening is None
    with pytest.raises(UsageError, match="leave whiten on"):
        make_config(CroW, {"whiten": "false", "pairs": "p.csv"}, "encoder")
