"""Regions merged two by two, against a plain loop, and the box of a hit out of all of its regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Hits, Inputs, Query, Vectors
from instsearch_plugins.numeric.dasr import merged
from instsearch_plugins.rerankers.region_box import RegionBox, moments_box

NOTHING: Any = None


def plain_merged(boxes, X, size, a):
    """The groups in the order in which they are made, by all distances between their members."""
    unit = [x / (np.linalg.norm(x) or 1) for x in X]
    mean = sum(unit) / len(unit)
    off = [u - mean for u in unit]
    off = [x / (np.linalg.norm(x) or 1) for x in off]
    centre = [np.array([x0 + x1, y0 + y1]) / 2 / max(size) for x0, y0, x1, y1 in boxes]

    def apart(i, j):
        return np.sqrt(((centre[i] - centre[j]) ** 2).sum() + a**2 * ((off[i] - off[j]) ** 2).sum())

    groups, made = [[i] for i in range(len(boxes))], []
    while len(groups) > 1:
        pairs = [(p, q) for p in range(len(groups)) for q in range(p)]
        p, q = min(pairs, key=lambda g: np.mean([apart(i, j) for i in groups[g[0]] for j in groups[g[1]]]))
        joined = groups[p] + groups[q]
        groups = [g for n, g in enumerate(groups) if n not in (p, q)] + [joined]
        made.append(joined)
    return made


@given(n=st.integers(1, 8), a=st.sampled_from([0.0, 0.5, 2.0]), seed=st.integers(0, 999))
def test_merging_against_a_plain_loop(n, a, seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (n, 2))
    boxes = np.c_[low, low + rng.uniform(1, 20, (n, 2))].astype(np.float32)
    scores, X = rng.uniform(0, 5, n).astype(np.float32), rng.uniform(0, 1, (n, 4)).astype(np.float32)
    around, means = merged(*map(torch.from_numpy, (boxes, scores, X)), size=(100, 90), appearance=a)
    groups = plain_merged(boxes.astype(float), X.astype(float), (100, 90), a)
    assert len(around) == len(means) == len(groups) == n - 1
    for box, mean, group in zip(around, means, groups, strict=True):
        assert box.tolist() == [*boxes[group, :2].min(0), *boxes[group, 2:].max(0)]
        assert float(mean) == pytest.approx(scores[group].mean(), rel=1e-5)


def test_what_is_alike_is_merged_before_what_is_near():
    """Regions 0 and 2 look alike, 0 and 1 are neighbours: appearance decides which pair comes first."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [60, 0, 70, 10]])
    X = torch.tensor([[1.0, 0], [0, 1], [1, 0.1]])
    near, _ = merged(boxes, torch.ones(3), X, (100, 100), 0.0)
    alike, _ = merged(boxes, torch.ones(3), X, (100, 100), 1.0)
    assert near.tolist() == [[0, 0, 20, 10], [0, 0, 70, 10]]
    assert alike.tolist() == [[0, 0, 70, 10], [0, 0, 70, 10]]


def test_the_box_of_moments_by_hand():
    """Power 4, so weights 16/17 and 1/17: mu_x = 5 + 10/17, sigma_x^2 = 6.25 + 100 * 16/289."""
    boxes, scores = np.float32([[0.0, 0, 10, 10], [10, 0, 20, 10]]), np.float32([1.0, 0.5])
    half = 1.75 * np.sqrt(6.25 + 1600 / 289)
    mu = 5 + 10 / 17
    box = moments_box(boxes, scores, (50, 9), power=4).tolist()
    assert box == pytest.approx([max(mu - half, 0), 5 - 1.75 * 2.5, mu + half, 9], rel=1e-6)
    same = moments_box(boxes[:1], scores[:1], (50, 50), scale=2.0)
    assert same.tolist() == pytest.approx([0, 0, 10, 10], abs=1e-6)
    with_nothing = np.concatenate([boxes, np.float32([[40.0, 40, 50, 50]])])
    unlike = moments_box(with_nothing, np.float32([1.0, 0.5, -0.9]), (50, 9), power=4)
    assert unlike.tolist() == pytest.approx(box, rel=1e-6)
    with pytest.raises(ValueError, match="no region"):
        moments_box(boxes, np.float32([-1.0, 0]), (50, 50))


class Collection:
    def __init__(self, items):
        self.items = items

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("codes",)
        for row in rows.tolist():
            yield Inputs(size=(100, 100), row=row, codes=self.items[row])


def test_only_boxes_change():
    boxes = torch.tensor([[10.0, 10, 30, 30], [30.0, 10, 50, 30]])
    items = {
        4: Vectors(torch.tensor([[1.0, 0], [0.8, 0.6]]), boxes),
        7: Vectors(torch.tensor([[1.0, 0]]), boxes[:1]),  # one region
        2: Vectors(torch.tensor([[-1.0, 0], [0, 1]]), boxes),  # none is like the query
        5: Vectors(torch.tensor([[1.0, 0], [1, 0]]), boxes),  # beyond the depth
    }
    before = np.tile(np.float32([1, 2, 3, 4]), (4, 1))
    hits = Hits.stack([(np.array([4, 7, 2, 5]), np.float32([4, 3, 2, 1]), before)], 5)
    query = Query("q", NOTHING, None, NOTHING, NOTHING, Vectors(torch.tensor([[1.0, 0]]), boxes[:1]))
    reranker = RegionBox(RegionBox.Config(depth=3), torch.device("cpu"))
    after = reranker.rerank([query], hits, Collection(items), NOTHING)
    np.testing.assert_array_equal(after.images, hits.images)
    np.testing.assert_array_equal(after.scores, hits.scores)
    np.testing.assert_array_equal(after.boxes[0, 1:4], before[1:])
    expected = moments_box(boxes.numpy(), np.float32([1.0, 0.8]), (100, 100))
    np.testing.assert_allclose(after.boxes[0, 0], expected, rtol=1e-6)
    unboxed = Hits.stack([(np.array([4]), np.float32([4]), np.full((1, 4), np.nan))], 1)
    assert np.isnan(reranker.rerank([query], unboxed, Collection(items), NOTHING).boxes).all()


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"power": -1}, {"scale": 0}])
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match="depth is at least 1"):
        RegionBox.Config(**wrong)
