"""Boxes on class maps: the card's numbers, plain loops over components, boxes, scores and the search after them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Hits, Inputs, Query, Vectors, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_plugins.encoders.cam import CAM
from instsearch_plugins.encoders.sum_pooling import SumPooling
from instsearch_plugins.numeric.cam_boxes import threshold_boxes
from instsearch_plugins.rerankers.aqe import AverageQueryExpansion
from instsearch_plugins.rerankers.cam_boxes import CAMBoxes, expanded, replaced
from instsearch_plugins.rerankers.hit_by_hit import Look
from instsearch_plugins.weighters import cam as weighting
from instsearch_plugins.weighters.none import NoWeighting

NOTHING: Any = None
CPU = torch.device("cpu")
SIZE = (160, 120)
BOX = (20.0, 20.0, 90.0, 80.0)
D, C, K = 8, 12, 10  # channels of the features, classes, channels of the class maps
SHARES = (0.01, 0.1, 0.2, 0.3, 0.4)
CARD = np.array(
    [
        [0, 0.05, 0.2, 0, 0, 0],
        [0, 0.3, 1, 0.9, 0, 0],
        [0, 0.2, 0.8, 0.7, 0, 0.35],
        [0, 0, 0.1, 0, 0, 0.3],
        [0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)


@pytest.mark.parametrize("area", ["cells", "contour"])
@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-6])
def test_the_boxes_of_the_card(area, scale):
    boxes = threshold_boxes(np.float32(scale) * CARD, SHARES, area)
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    assert sizes == [[1, 0, 3, 4], [1, 0, 3, 3], [1, 1, 3, 2], [2, 1, 2, 2], [2, 1, 2, 2]]


def test_a_thin_part_loses_by_its_contour():
    heat = np.zeros((7, 12), np.float32)
    heat[0, :9] = 1  # nine cells in a row enclose nothing
    heat[3:6, 9:12] = [[1, 1, 0], [1, 0, 1], [0, 1, 1]]  # seven cells round a hole
    assert threshold_boxes(heat, (0.5,)).tolist() == [[0, 0, 9, 1]]
    assert threshold_boxes(heat, (0.5,), "contour").tolist() == [[9, 3, 12, 6]]


@pytest.mark.parametrize("area", ["cells", "contour"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_heat_gives_the_whole_of_it(area, value):
    assert threshold_boxes(np.full((3, 4), value, np.float32), SHARES, area).tolist() == [[0, 0, 4, 3]] * 5


def by_hand(heat: np.ndarray, share: float) -> list[int]:
    """The box of the largest 8-connected part, the upper left of equals, by flooding."""
    inside = heat > np.float32(share) * heat.max()
    seen, parts = np.zeros_like(inside), []
    for start in zip(*np.nonzero(inside), strict=True):
        todo, part = [start], []
        while todo:
            y, x = todo.pop()
            if not (0 <= y < heat.shape[0] and 0 <= x < heat.shape[1]) or seen[y, x] or not inside[y, x]:
                continue
            seen[y, x] = True
            part.append((y, x))
            todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        if part:
            ys, xs = np.array(part).T
            parts.append((-len(part), ys.min(), xs.min(), ys.max() + 1, xs.max() + 1))
    _, y0, x0, y1, x1 = min(parts)
    return [x0, y0, x1, y1]


@given(
    heat=arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(-2, 9)),
    shares=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]), min_size=1, max_size=4),
)
def test_boxes_equal_the_plain_flood(heat, shares):
    heat.flat[0] = 10
    found = threshold_boxes(heat, shares)
    assert found.tolist() == [by_hand(heat, share) for share in shares]


# -- re-ranking ------------------------------------------------------------------------------------------------


def picture(seed: int, h: int = 9, w: int = 12) -> FeatureMap:
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(np.maximum(rng.standard_normal((D, h, w)), 0).astype(np.float32))
    A = torch.nn.functional.interpolate(
        torch.from_numpy(rng.standard_normal((1, K, 3, 4)).astype(np.float32)), (h, w), mode="bilinear"
    )[0]
    return FeatureMap(X, Grid.over(h, w, SIZE), cam=A)


W = torch.from_numpy(np.random.default_rng(5).standard_normal((C, K)).astype(np.float32))


def encoder() -> CAM:
    made = CAM(CAM.Config(), CPU)
    rng = np.random.default_rng(7)
    made.load(
        {
            "mean": rng.standard_normal(D).astype(np.float32) / 10,
            "projection": rng.standard_normal((D, 6)).astype(np.float32),
        }
    )
    return made


def maps_of(features: FeatureMap, classes: list[int]) -> np.ndarray:
    """Class maps over their maximum, without what is below zero, by plain loops."""
    A = features.cam.numpy() if features.cam is not None else features.values.numpy()
    found = []
    for c in classes:
        raw = sum(float(W[c, k]) * A[k] for k in range(len(A)))
        found.append(np.maximum(raw / raw.max(), 0) if raw.max() > 0 else np.zeros_like(raw))
    return np.stack(found).astype(np.float32)


def code_of(made: CAM, X: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """sum_c w(F^c) to unit length, of a map and class maps that are cut out already; plain loops."""

    def unit(v: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(v)
        return v / length if length else v

    Q = (X > 0).mean((1, 2))
    CW = np.array([np.log(Q.sum() / q) if q else 0.0 for q in Q])
    mean, projection = (t.numpy() for t in made.whitening)
    total = np.zeros(projection.shape[1])
    for one in maps:
        f = CW * np.array([(x * one).sum() for x in X])
        if f.any():
            total = total + unit((unit(f) - mean) @ projection)
    return unit(total)


def weighter() -> weighting.CAM:
    made = weighting.CAM(weighting.CAM.Config(network="of-the-test"), CPU)
    made.__dict__ |= {
        "_read_class_weights": W,
        "_network": SimpleNamespace(cam="top"),
    }  # in place of a network's file
    return made


class Collection:
    encoder: Any

    def __init__(self, items: dict[int, FeatureMap]) -> None:
        self.items, self.encoder, self.weighter = items, encoder(), weighter()

    def inputs(self, kinds, rows):
        assert tuple(kinds) == ("features",)
        for row in map(int, rows):
            yield Inputs(size=SIZE, row=row, features=self.items[row])


CLASSES = [4, 9, 1, 0, 7, 11, 2, 5]  # of which six are used


def query(box: Any = BOX, seed: int = 0) -> Query:
    features = picture(seed)
    weights = WeightMap(torch.from_numpy(maps_of(features, CLASSES)), features.grid, torch.tensor(CLASSES))
    codes = encoder().aggregate(features, weights if box is None else BoxWeight(box, weights), None)
    return Query("q", SimpleNamespace(size=SIZE), box, features, features, codes, weights=weights)


def reranker(**options: Any) -> CAMBoxes:
    return CAMBoxes(CAMBoxes.Config(**options), CPU)


def first(n: int) -> Hits:
    return Hits.stack([(np.arange(1, n + 1), np.linspace(0.9, 0.4, n).astype(np.float32), None)], n)


def looked_at(made: CAM, q: Query, features: FeatureMap, shares=SHARES, min_side=0) -> tuple[Any, ...]:
    """The score, the box in cells and the code of one hit, by plain loops."""
    classes, n = CLASSES[:6], features.grid.h * features.grid.w
    assert n
    sx, sy, _, _ = q.features.grid.transform
    x0, y0, x1, y1 = q.box or (0.0, 0.0, *SIZE)
    part = np.s_[..., int(y0 // sy) : int(-(-y1 // sy)), int(x0 // sx) : int(-(-x1 // sx))]
    asked = code_of(made, q.features.values.numpy()[part], maps_of(q.features, classes)[part])
    maps = maps_of(features, classes)
    heat = maps[:2].mean(0)
    best: tuple[Any, ...] = (-1.0, None, None)
    for share in shares:
        u0, v0, u1, v1 = by_hand(heat, share)
        if u1 - u0 < min_side or v1 - v0 < min_side:
            continue
        code = code_of(made, features.values.numpy()[:, v0:v1, u0:u1], maps[:, v0:v1, u0:u1])
        if code @ asked > best[0]:
            best = (float(code @ asked), (u0, v0, u1, v1), code)
    return best


@pytest.mark.parametrize("box", [BOX, None])
@pytest.mark.parametrize("options", [{}, {"thresholds": (0.01, 0.1, 0.2, 0.3), "min_side": 5}])
def test_a_whole_reranking_equals_the_plain_loop(box, options):
    items = {row: picture(row, *((9, 12) if row % 3 else (7, 8))) for row in range(1, 9)}
    data, q = Collection(items), query(box)
    got = reranker(depth=6, **options).rerank([q], first(8), data, NOTHING)
    shares, side = options.get("thresholds", SHARES), options.get("min_side", 0)
    found = {row: looked_at(data.encoder, q, items[row], shares, side) for row in range(1, 7)}
    lowest = min(0.0, *(score for score, _, _ in found.values()))
    assert got.images[0].tolist() == [*sorted(found, key=lambda row: -found[row][0]), 7, 8]
    assert (np.diff(got.scores[0]) <= 0).all()
    for rank, row in enumerate(got.images[0, :6].tolist()):
        score, cells, _ = found[row]
        before = np.linspace(0.9, 0.4, 8).astype(np.float32)[6]
        assert got.scores[0, rank] == pytest.approx(score - lowest + before, abs=1e-4)
        if cells is None:
            assert np.isnan(got.boxes[0, rank]).all()
        else:
            sx, sy, _, _ = items[row].grid.transform
            np.testing.assert_allclose(got.boxes[0, rank], np.array(cells) * (sx, sy, sx, sy), atol=1e-3)
    assert np.isnan(got.boxes[0, 6:]).all()


def test_boxes_that_are_all_too_small_come_last():
    data, q = Collection({row: picture(row) for row in (1, 2, 3)}), query()
    data.items[1] = picture(1, 4, 12)  # no side of five cells
    got = reranker(min_side=5, thresholds=(0.01,)).rerank([q], first(3), data, NOTHING)
    found = {row: looked_at(data.encoder, q, data.items[row], (0.01,), 5)[1] for row in (1, 2, 3)}
    assert found[1] is None
    assert got.images[0].tolist() == [2, 1, 3]
    assert np.isnan(got.boxes[0]).all(1).tolist() == [found[row] is None for row in (2, 1, 3)]


def test_maps_negative_everywhere_give_the_whole_picture():
    cold = picture(1)
    assert cold.cam is not None
    cold = FeatureMap(cold.values, cold.grid, cam=torch.zeros_like(cold.cam))
    got = reranker().rerank([query()], first(1), Collection({1: cold}), NOTHING)
    assert got.scores[0, 0] == 0
    np.testing.assert_allclose(got.boxes[0, 0], (0, 0, *SIZE))


def test_without_boxes_hits_are_taken_whole():
    items = {row: picture(row) for row in range(1, 5)}
    data, q = Collection(items), query()
    got = reranker(boxes=False, classes=8).rerank([q], first(4), data, NOTHING)
    whole = {
        row: code_of(data.encoder, f.values.numpy(), maps_of(f, CLASSES)) @ q.codes.vectors[0].numpy()
        for row, f in items.items()
    }
    order = sorted(whole, key=lambda row: -whole[row])
    assert got.images[0].tolist() == order
    np.testing.assert_allclose(got.scores[0], [whole[row] for row in order], atol=1e-4)
    np.testing.assert_allclose(got.boxes[0], [(0, 0, *SIZE)] * 4)


# -- query expansion ---------------------------------------------------------------------------------------------


def test_the_expansion_of_the_card():
    x = [torch.tensor(v) for v in ([1.0, 0.0], [0.8, 0.6], [0.0, 1.0])]
    q = Vectors(torch.tensor([[0.6, 0.8]]), torch.zeros(1, 4))
    looks = [Look(i, float(v @ q.vectors[0]), None, v) for i, v in enumerate(x)]
    np.testing.assert_allclose(expanded(q, looks, 2).vectors, [[0.447214, 0.894427]], atol=1e-6)
    assert expanded(q, [], 2) is q


def test_images_that_were_looked_at_take_their_boxes_places():
    q = Vectors(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 4))
    box = np.array([1, 2, 3, 4], np.float32)
    hits = Hits.stack([(np.array([5, 6, 7]), np.array([0.9, 0.8, 0.7], np.float32), None)], 3)
    looks = [Look(9, 0.1, box, torch.tensor([0.85, 0.5])), Look(5, 0.2, box, torch.tensor([0.8, 0.6]))]
    images, scores, boxes = replaced((hits.images[0], hits.scores[0], hits.boxes[0]), q, looks)
    assert images.tolist() == [9, 5, 6, 7]
    np.testing.assert_allclose(scores, [0.85, 0.8, 0.8, 0.7], atol=1e-6)
    np.testing.assert_array_equal(np.isnan(boxes).all(1), [False, False, True, True])
    assert hits.images[0].tolist() == [5, 6, 7]


def searched(matrix: np.ndarray) -> Any:
    """Exact search over rows 0, 1, ... of a matrix."""

    def search(codes, k):
        ranked = []
        for code in codes:
            scores = matrix @ code.vectors[0].numpy()
            order = np.lexsort((np.arange(len(scores)), -scores))[:k]
            ranked.append((order, scores[order].astype(np.float32), None))
        return Hits.stack(ranked, k)

    return search


@pytest.mark.parametrize("k", [3, 5, 12])
def test_expanding_equals_a_search_of_the_changed_matrix(k):
    items = {row: picture(row) for row in range(12)}
    data, q = Collection(items), query(seed=40)
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((12, 6))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    original, search = matrix.copy(), searched(matrix)
    hits = search([q.codes], max(k, 5))
    got = reranker(depth=5, expand=3).rerank([q], hits, data, search)
    top = hits.images[0, :5].tolist()
    found = {row: looked_at(data.encoder, q, items[row]) for row in top}
    best = sorted(top, key=lambda row: -found[row][0])[:3]
    changed = original.copy()
    for row in top:
        changed[row] = found[row][2]
    total = changed[best].sum(0)
    scores = changed @ (total / np.linalg.norm(total))
    order = np.argsort(-scores)[: max(k, 5)]
    assert got.images[0].tolist() == order.tolist()
    np.testing.assert_allclose(got.scores[0], scores[order], atol=1e-4)
    np.testing.assert_array_equal(np.isnan(got.boxes[0]).all(1), [row not in top for row in order])
    np.testing.assert_array_equal(matrix, original)  # the next query's collection is as it was


def test_average_query_expansion_may_follow():
    items = {row: picture(row) for row in range(6)}
    data, q = Collection(items), query(seed=40)
    matrix = np.stack(
        [code_of(data.encoder, i.values.numpy(), maps_of(i, CLASSES[:6])) for i in items.values()]
    )
    search = searched(matrix)
    data.read = lambda kind, row: Vectors(torch.from_numpy(matrix[row : row + 1]).float(), torch.zeros(1, 4))  # type: ignore[attr-defined]
    hits = reranker(depth=4).rerank([q], search([q.codes], 6), data, NOTHING)
    aqe = AverageQueryExpansion(AverageQueryExpansion.Config(depth=2), CPU)
    got = aqe.rerank([q], hits, data, search)
    total = q.codes.vectors[0].numpy() + matrix[hits.images[0, :2]].sum(0)
    scores = matrix @ (total / np.linalg.norm(total))
    assert got.images[0].tolist() == np.argsort(-scores).tolist()


# -- what is refused ---------------------------------------------------------------------------------------------


def test_another_encoder_and_another_weighting_are_errors():
    data, q = Collection({1: picture(1)}), query()
    plain = WeightMap(torch.ones(1, 9, 12), q.features.grid)
    for weights in (None, plain):
        other = Query("q", q.image, BOX, q.features, q.local, q.codes, weights=weights)
        with pytest.raises(UsageError, match="--weighting cam and --encoder cam"):
            reranker().rerank([other], first(1), data, NOTHING)
    data.weighter = NoWeighting(NoWeighting.Config(), CPU)
    with pytest.raises(UsageError, match="--weighting cam and --encoder cam"):
        reranker().rerank([q], first(1), data, NOTHING)
    data = Collection({1: picture(1)})
    data.encoder = SumPooling(SumPooling.Config(), CPU)
    with pytest.raises(UsageError, match="--weighting cam and --encoder cam"):
        reranker().rerank([q], first(1), data, NOTHING)


def test_the_wrong_network_is_an_error():
    narrow = FeatureMap(torch.rand(3, 9, 12), Grid.over(9, 12, SIZE))
    with pytest.raises(UsageError, match=r"10 channels, and the features\s+have 3"):
        reranker().rerank([query()], first(1), Collection({1: narrow}), NOTHING)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 0}, "depth"),
        ({"classes": 1}, "heat-classes"),
        ({"thresholds": "0.1,1"}, "thresholds"),
        ({"expand": 101}, "expand"),
        ({"area": "pixels"}, "cells, contour"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(UsageError, match=said):
        make_config(CAMBoxes, options, "rerank.cam-boxes")
