from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Hits, Image, Inputs, Keypoints, Query
from instsearch_cli.errors import UsageError
from instsearch_plugins.numeric.geometry import Transform, box_under, places, ratio_matches
from instsearch_plugins.rerankers.geometric import Geometric

SIZE = (640, 480)


def turned(degrees: float, scale: float = 1.0, mirror: bool = False) -> np.ndarray:
    """A f32[2, 2]: a turn, clockwise on the screen, and a change of scale."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    A = scale * np.array([[c, -s], [s, c]])
    return (A @ np.diag([-1, 1]) if mirror else A).astype(np.float32)


def keypoints(n: int, box=(100, 80, 260, 220), seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(box[0], box[2], n), rng.uniform(box[1], box[3], n)
    return np.stack([x, y, rng.uniform(2, 12, n), rng.uniform(0, 360, n)], 1).astype(np.float32)


def moved(p: np.ndarray, A: np.ndarray, t) -> np.ndarray:
    """Keypoints as a similarity A, t makes them."""
    T = Transform(A, np.float32(t))
    s, angle = np.hypot(A[0, 0], A[1, 0]), np.degrees(np.arctan2(A[1, 0], A[0, 0]))
    return np.concatenate([T(p[:, :2]), p[:, 2:3] * s, (p[:, 3:] + angle) % 360], 1).astype(np.float32)


# -- formulas -----------------------------------------------------------------------------------------


@given(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3), st.floats(0.3, 1.0), st.integers(0, 1000))
def test_ratio_test_equals_the_plain_loop(n, sizes, ratio, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 5)).astype(np.float32)
    pictures = [rng.normal(size=(m, 5)).astype(np.float32) for m in sizes]
    expected = []
    for b in pictures:
        expected.append([])
        for i in range(n):
            distances = sorted((float(np.linalg.norm(a[i] - b[j])), j) for j in range(len(b)))
            if len(b) >= 2 and distances[0][0] < ratio * distances[1][0]:
                squared = (distances[0][0] / distances[1][0]) ** 2
                expected[-1].append((i, distances[0][1], pytest.approx(1 - squared, abs=1e-3)))
    got = ratio_matches(a, pictures, ratio)
    assert [list(zip(*(side.tolist() for side in match), strict=True)) for match in got] == expected


def test_places_merge_the_angles_of_one_point():
    number = places(np.float32([[1, 2], [3, 2], [1, 2], [2, 1]]))
    assert number[0] == number[2]
    assert len(set(number.tolist())) == 3


def test_box_under_a_quarter_turn_is_clipped():
    """x' = (100 - y, x): (10, 20, 40, 120) gives x' in [-20, 80] and y' in [10, 40]."""
    T = Transform(turned(90), np.float32([100, 0]))
    np.testing.assert_allclose(box_under(T, (10, 20, 40, 120), (70, 35)), [0, 10, 70, 35], atol=1e-4)


def test_box_under_half_a_quarter_turn_bounds_the_ellipse():
    """A circle of radius 10 turned by any angle is as wide as before; its box's corners would reach 14.1."""
    T = Transform(turned(45), np.float32([50, 50]))
    np.testing.assert_allclose(box_under(T, (-10, -10, 10, 10), (100, 100)), [40, 40, 60, 60], atol=1e-4)
    half = np.sqrt((20**2 + 10**2) / 2)  # (20 cos u, 10 sin u) turned: x = (20 cos u - 10 sin u) / sqrt 2
    np.testing.assert_allclose(
        box_under(T, (-20, -10, 20, 10), (100, 100)), [50 - half, 50 - half, 50 + half, 50 + half], atol=1e-4
    )


def test_box_under_several_transforms_is_that_of_each():
    A = np.stack([turned(10 * i, 1 + i) for i in range(3)])
    several = Transform(A, np.float32([[0, 5], [30, 10], [9, 9]]))
    sizes = np.array([[640, 480], [300, 200], [50, 900]])
    each = [box_under(several.at(i), (10, 20, 40, 120), tuple(sizes[i])) for i in range(3)]
    np.testing.assert_allclose(box_under(several, (10, 20, 40, 120), sizes), each, rtol=1e-6)


# -- the component ------------------------------------------------------------------------------------


class Collection:
    """Keypoints of pictures of 640 x 480; ``broken`` rows no longer decode and are left out of the stream."""

    def __init__(self, items: dict[int, Any], broken=()) -> None:
        self.items, self.broken, self.asked = items, broken, []

    def inputs(self, kinds, rows):
        assert kinds == ("features",)
        for row in rows:
            self.asked.append(row)
            if row not in self.broken:
                yield Inputs(size=SIZE, row=row, features=self.items[row])


def features(descriptors: np.ndarray, geometry: np.ndarray) -> Keypoints:
    return Keypoints(torch.from_numpy(descriptors), torch.from_numpy(geometry), Grid.nominal(SIZE))


def described(n: int, seed: int) -> np.ndarray:
    d = np.abs(np.random.default_rng(seed).normal(size=(n, 128))).astype(np.float32)
    return d / np.linalg.norm(d, axis=1, keepdims=True)


OBJECT, BOX = keypoints(60), (100.0, 80.0, 260.0, 220.0)
CLUTTER = keypoints(80, (300, 0, *SIZE), seed=5)


def scene(A, t, visible: int, seed: int) -> Keypoints:
    """A picture with the first ``visible`` points of the object under A, t, among clutter of its own."""
    there = moved(OBJECT[:visible], A, t)
    d = described(60, 0)[:visible] + 0.02 * described(visible, seed + 50)
    return features(
        np.concatenate([described(70, seed), d]),
        np.concatenate([keypoints(70, (0, 0, *SIZE), seed=seed), there]),
    )


def query(box=BOX) -> Query:
    nothing: Any = None
    picture = Image(np.zeros((480, 640, 3), np.uint8), SIZE)
    both = features(np.concatenate([described(60, 0), described(80, 9)]), np.concatenate([OBJECT, CLUTTER]))
    return Query("q", picture, box, both, nothing, nothing)


def never(codes, k):
    raise AssertionError("geometric does not search again")


def reranked(hits: Hits, data: Collection, queries=None, **options) -> Hits:
    reranker = Geometric(Geometric.Config(**options), torch.device("cpu"))
    return reranker.rerank(queries or [query()], hits, data, never)


def ranked(*images, k=None) -> Hits:
    n = len(images)
    return Hits.stack([(np.array(images), np.linspace(0.9, 0.5, n), None)], k or n)


def empty() -> Keypoints:
    return features(np.zeros((0, 128), np.float32), np.zeros((0, 4), np.float32))


def test_verified_hits_come_first_with_their_boxes():
    """50 points beat 20, both beat what is not there; the rest keep order and score; boxes within 2 px."""
    A, t = turned(30, 0.8), np.float32([150, 20])
    B, u = turned(-10, 1.5), np.float32([-20, -40])
    data = Collection(
        {
            4: empty(),
            7: features(described(90, 3), keypoints(90, seed=3)),
            2: scene(A, t, 20, 1),
            9: scene(B, u, 50, 2),
        }
    )
    before = ranked(4, 7, 2, 9, k=6)
    after = reranked(before, data)
    assert after.images.tolist() == [[9, 2, 4, 7, -1, -1]]
    np.testing.assert_allclose(after.scores[0, 2:4], before.scores[0, :2])
    np.testing.assert_allclose(after.scores[0, :2] - before.scores[0, [3, 2]], [50, 20], atol=2.001)
    for rank, T in ((0, Transform(B, u)), (1, Transform(A, t))):
        np.testing.assert_allclose(after.boxes[0, rank], box_under(T, BOX, SIZE), atol=2)
    assert np.isnan(after.boxes[0, 2:]).all()


def test_the_box_is_that_of_the_query_and_the_points_those_in_it():
    """Without a box the whole picture is the query, clutter and all, and goes with its corners."""
    T = Transform(turned(0, 0.5), np.float32([40, 60]))
    there = moved(np.concatenate([OBJECT, CLUTTER]), T.A, T.t)
    both = features(np.concatenate([described(60, 0), described(80, 9)]), there)
    whole = reranked(ranked(0), Collection({0: both}), [query(None)])
    np.testing.assert_allclose(whole.boxes[0, 0], [40, 60, 360, 300], atol=2)
    assert whole.scores[0, 0] == pytest.approx(140.9)
    part = reranked(ranked(0), Collection({0: both}))
    np.testing.assert_allclose(part.boxes[0, 0], [90, 100, 170, 170], atol=2)
    assert part.scores[0, 0] == pytest.approx(60.9)


def test_groups_change_nothing(monkeypatch):
    data = Collection({i: scene(turned(10 * i), np.zeros(2), 20 + i, i) for i in range(5)})
    data.items[3] = empty()
    together = reranked(ranked(*range(5)), data)
    monkeypatch.setattr("instsearch_plugins.rerankers.geometric.PRODUCTS", 1)
    alone = reranked(ranked(*range(5)), data)
    np.testing.assert_array_equal(alone.images, together.images)
    np.testing.assert_array_equal(alone.scores, together.scores)
    np.testing.assert_allclose(alone.boxes, together.boxes, atol=1e-3)


def test_depth_bounds_what_is_read():
    data = Collection({i: scene(turned(0), np.zeros(2), 30, i) for i in range(4)})
    data.items[0] = empty()
    after = reranked(ranked(0, 1, 2, 3), data, depth=2)
    assert data.asked == [0, 1]
    assert after.images.tolist() == [[1, 0, 2, 3]]


def test_a_picture_that_no_longer_decodes_keeps_its_place():
    data = Collection({1: scene(turned(0), np.zeros(2), 30, 1), 2: empty()}, broken={0})
    assert reranked(ranked(0, 2, 1), data).images.tolist() == [[1, 0, 2]]


def test_too_few_inliers_verify_nothing():
    data = Collection({0: empty(), 1: scene(turned(0), np.zeros(2), 12, 1)})
    assert reranked(ranked(0, 1), data, min_inliers=10).images.tolist() == [[1, 0]]
    assert reranked(ranked(0, 1), data, min_inliers=20).images.tolist() == [[0, 1]]


def test_no_hits_and_no_keypoints_in_the_box():
    assert reranked(ranked(k=3), Collection({})).images.tolist() == [[-1, -1, -1]]
    data = Collection({0: scene(turned(0), np.zeros(2), 30, 1)})
    assert reranked(ranked(0), data, [query((0.0, 0.0, 5.0, 5.0))]).scores.tolist() == [[pytest.approx(0.9)]]


def test_maps_are_a_usage_error():
    grid = Grid.nominal(SIZE)
    data = Collection({0: FeatureMap(torch.zeros(8, *grid.shape), grid)})
    with pytest.raises(UsageError, match="keypoints"):
        reranked(ranked(0), data)
