"""Approximate max-pooling localisation: sums against plain loops, a planted object found where it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.data import FeatureMap, Grid, Hits, Inputs, Keypoints, Query, Regions, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.pooling import max_pool, region_masks
from instsearch_plugins.rerankers.aml import AML, Integral, coarse, localised

NOTHING: Any = None
SIZE = (320, 240)


def test_card_power_mean():
    X = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_allclose(Integral(X).pooled(np.array([[0, 0, 2, 2]])), [[4.022346]], atol=1e-6)


def test_windows_equal_the_plain_loop():
    X = np.random.default_rng(0).exponential(size=(6, 5, 7)) - 0.2
    cells = np.array(
        [(a, c, b, d) for a in range(7) for b in range(a + 1, 8) for c in range(5) for d in range(c + 1, 6)]
    )
    a = np.random.default_rng(1).random(6)
    integral = Integral(X)
    psi, cosines = integral.pooled(cells), integral.cosines(cells, a)
    for (x0, y0, x1, y1), row, cosine in zip(cells, psi, cosines, strict=True):
        window = np.maximum(X[:, y0:y1, x0:x1], 0).reshape(6, -1)
        expected = (window**10).sum(1) ** 0.1
        expected[row == 0] *= expected[row == 0] > 0.06 * X.max((1, 2))[row == 0]  # lost to rounding
        np.testing.assert_allclose(row, expected, rtol=0.01)
        length = np.linalg.norm(expected) * np.linalg.norm(a)
        assert cosine == pytest.approx(expected @ a / length if length else 0.0, abs=0.01)


def test_large_and_empty_maps_are_finite():
    X = np.zeros((3, 4, 4), np.float32)
    X[1] = 6e4
    cells = np.array([[0, 0, 4, 4], [1, 1, 2, 2]])
    np.testing.assert_allclose(Integral(X).pooled(cells)[:, 1], [6e4 * 16**0.1, 6e4], rtol=1e-6)
    np.testing.assert_array_equal(Integral(np.zeros((3, 4, 4))).cosines(cells, np.ones(3)), [0, 0])


def test_coarse_windows():
    cells = {tuple(c) for c in coarse(2, 5).tolist()}
    assert cells == {(x0, 0, x1, 1) for x0, x1 in [(0, 1), (0, 4), (3, 4)]}
    assert coarse(7, 7).shape == ((3 + 2 + 1) ** 2, 4)
    assert coarse(1, 1).tolist() == [[0, 0, 1, 1]]


def planted(h: int, w: int, at: tuple[int, int], seed: int, size=(5, 4)) -> FeatureMap:
    """Noise, and an object of size[0] x size[1] cells, the same in every map, whose upper left cell is ``at``."""
    rng = np.random.default_rng(seed)
    X = 0.5 * rng.random((64, h, w))
    thing = 4 * np.random.default_rng(99).random((64, *size)) ** 4
    X[:, at[0] : at[0] + size[0], at[1] : at[1] + size[1]] = thing
    return FeatureMap(torch.from_numpy(X.astype(np.float32)), Grid.over(h, w, SIZE))


@pytest.mark.parametrize("at", [(0, 0), (3, 6), (7, 11), (6, 1)])
def test_a_planted_object_is_found(at):
    X = planted(12, 16, at, 1).values.numpy()
    a = X[:, at[0] : at[0] + 5, at[1] : at[1] + 4].max((1, 2)).astype(np.float64)
    x0, y0, x1, y1 = localised(Integral(X), a, 5 / 4).tolist()
    across, down = min(x1, at[1] + 4) - max(x0, at[1]), min(y1, at[0] + 5) - max(y0, at[0])
    assert across > 0
    assert down > 0
    union = (x1 - x0) * (y1 - y0) + 20 - across * down
    assert across * down / union > 0.6


def test_no_window_of_that_shape_starts_from_the_whole_map():
    X = np.ones((2, 6, 8))
    a = np.array([1.0, 1.0])
    assert localised(Integral(X), a, 100.0).tolist() == [0, 0, 8, 6]


class Maxima:
    """An encoder: MAC."""

    local = None

    def aggregate(self, local, weights, regions):
        masks, boxes = region_masks(local, regions)
        return Vectors(torch.nn.functional.normalize(max_pool(local.values, masks), dim=1), boxes)


class Collection:
    encoder = Maxima()

    def __init__(self, items: dict[int, Any]) -> None:
        self.items = items

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("features",)
        for row in sorted(map(int, rows)):
            yield Inputs(size=SIZE, row=row, features=self.items[row])


def query(features: Any, box) -> Query:
    codes = Vectors(torch.ones(1, 64) / 8, torch.zeros(1, 4))
    if isinstance(features, FeatureMap):
        masks = torch.from_numpy(features.grid.mask(box))[None]
        codes = Vectors(
            torch.nn.functional.normalize(max_pool(features.values, masks), dim=1), torch.tensor([box])
        )
    return Query("q", SimpleNamespace(size=SIZE), box, features, features, codes)


def test_hits_with_the_object_lead_and_get_its_box():
    q = query(planted(12, 16, (2, 3), 0), (60.0, 40.0, 140.0, 140.0))
    items = {
        5: FeatureMap(
            torch.rand(64, 12, 16, generator=torch.Generator().manual_seed(0)), Grid.over(12, 16, SIZE)
        ),
        6: planted(12, 16, (6, 9), 2),
        7: planted(12, 16, (0, 1), 3),
        8: planted(12, 16, (0, 1), 4),
    }
    hits = Hits.stack([(np.array([5, 6, 7, 8]), np.array([0.9, 0.8, 0.7, 0.6]), None)], 5)
    got = AML(AML.Config(depth=3), torch.device("cpu")).rerank([q], hits, Collection(items), NOTHING)
    assert got.images[0].tolist()[2:] == [5, 8, -1]
    assert set(got.images[0, :2].tolist()) == {6, 7}
    assert (np.diff(got.scores[0, :4]) <= 0).all()
    assert got.scores[0, 3] == np.float32(0.6)
    assert np.isnan(got.boxes[0, 3]).all()
    for image, (top, left) in {6: (6, 9), 7: (0, 1)}.items():
        box = got.boxes[0, got.images[0].tolist().index(image)]
        np.testing.assert_allclose(box, np.array([left, top, left + 4, top + 5]) * 20.0, atol=20.1)
        code = Maxima().aggregate(items[image], None, Regions(torch.from_numpy(box)[None], torch.ones(1)))
        likeness = float((code.vectors @ q.codes.vectors.T).max())
        assert got.scores[0, got.images[0].tolist().index(image)] == pytest.approx(0.6 + likeness, abs=1e-5)


def test_keypoints_are_an_error():
    points = Keypoints(torch.zeros(1, 64), torch.zeros(1, 4), Grid.nominal(SIZE))
    hits = Hits.stack([(np.array([1]), np.array([1.0]), None)], 1)
    with pytest.raises(InstsearchError, match="geometric"):
        AML(AML.Config(), torch.device("cpu")).rerank([query(points, None)], hits, Collection({}), NOTHING)
