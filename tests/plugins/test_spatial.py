"""Spatial re-ranking: windows counted by hand, scores against a plain loop, an object found where it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Hits, Inputs, Query, Regions, Vectors, Words
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.encoders.blcf import BLCF
from instsearch_plugins.numeric.pooling import region_masks, sum_pool
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.rerankers.lqe import LocalQueryExpansion
from instsearch_plugins.rerankers.spatial import (
    Spatial,
    aspect_likeness,
    hull,
    pyramid,
    pyramid_score,
    quarters,
    windows,
)

CPU = torch.device("cpu")
K = 30


def blcf() -> BLCF:
    encoder = BLCF(BLCF.Config(words=K), CPU)
    encoder.load(
        {"centroids": np.zeros((K, 4), np.float32), "idf": np.ones(K, np.float32), "images": np.int64(1)}
    )
    return encoder


class SumOfCells:
    """A dense encoder: the plain sum of each region's features."""

    local = None

    def aggregate(self, local, weights, regions):
        masks, boxes = region_masks(local, regions)
        sums = sum_pool(local.values, masks.float())
        return Vectors(torch.nn.functional.normalize(sums, dim=1), boxes)


class Collection:
    def __init__(self, encoder: Any, items: dict[int, Any]) -> None:
        self.encoder, self.items = encoder, items

    def inputs(self, kinds, rows):
        for row in rows:
            yield Inputs(size=(160, 96), row=int(row), **{kinds[0]: self.items[int(row)]})

    def read(self, kind, row):
        item = self.items[row]
        return self.encoder.aggregate(item, None, None) if kind == "codes" else item


def ask(local: Any, encoder: Any, box=None) -> Query:
    picture: Any = SimpleNamespace(size=(160, 96))
    regions = Regions(torch.tensor([box or (0.0, 0.0, 160.0, 96.0)]), torch.ones(1))
    return Query("q", picture, box, local, local, encoder.aggregate(local, None, regions))


def words(seed: int, h: int = 6, w: int = 10) -> Words:
    rng = np.random.default_rng(seed)
    return Words(
        torch.from_numpy(rng.integers(0, K, (h, w)).astype(np.int32)), Grid.over(h, w, (160, 96)), None, K
    )


def hits(*rows: int) -> Hits:
    return Hits.stack([(np.array(rows), np.linspace(0.9, 0.1, len(rows)), None)], len(rows))


@pytest.mark.parametrize(("h", "w", "n"), [(16, 24, 121), (15, 21, 221), (16, 21, 143), (1, 1, 1), (2, 1, 3)])
def test_windows_are_as_many_as_the_paper_has(h, w, n):
    assert len(windows(h, w)) == n
    assert len(np.unique(windows(h, w), axis=0)) == n


def test_quadrants_tile_a_window_and_never_vanish():
    parts = pyramid(np.array([[2, 1, 6, 5], [0, 0, 1, 3]]))
    assert parts[0].tolist() == [[2, 1, 6, 5], [2, 1, 4, 3], [4, 1, 6, 3], [2, 3, 4, 5], [4, 3, 6, 5]]
    assert parts[1].tolist() == [[0, 0, 1, 3], [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 3], [0, 1, 1, 3]]


def test_aspect_and_pyramid_by_hand():
    boxes = torch.tensor([[0.0, 0, 40, 20], [0, 0, 10, 10], [0, 0, 10, 50]])
    torch.testing.assert_close(aspect_likeness(boxes, 2.0), torch.tensor([1, 0.5, 0.1]))
    got = pyramid_score(torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]]))
    assert got.item() == pytest.approx((0.5 + 4 * 0.5) / 4.5)


def plain(local: Words, asked: Words, box, aspect: float) -> tuple[float, list[float]]:
    """The definition, window by window and cell by cell."""

    def histogram(item: Words, x0, y0, x1, y1) -> np.ndarray:
        sx, sy, ox, oy = item.grid.transform
        h = np.zeros(K)
        for i in range(item.grid.h):
            for j in range(item.grid.w):
                if x0 <= ox + sx * (j + 0.5) < x1 and y0 <= oy + sy * (i + 0.5) < y1:
                    h[item.words[i, j]] += 1
        return h / max(np.linalg.norm(h), 1e-12)

    query = [histogram(asked, *part) for part in quarters(box)]
    ratio = (box[2] - box[0]) / (box[3] - box[1])
    best, where = -1.0, [0.0] * 4
    for cells in windows(local.grid.h, local.grid.w):
        parts = cell_boxes(pyramid(cells[None])[0], local.grid).tolist()
        x0, y0, x1, y1 = parts[0]
        likeness = min((x1 - x0) / (y1 - y0), ratio) / max((x1 - x0) / (y1 - y0), ratio)
        if likeness < aspect:
            continue
        cosines = [histogram(local, *part) @ q for part, q in zip(parts, query, strict=True)]
        score = (0.5 * cosines[0] + sum(cosines[1:])) / 4.5
        if score > best + 1e-7:
            best, where = score, parts[0]
    return best, where


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4]))
def test_scores_and_boxes_of_the_plain_loop(seed, aspect):
    encoder, box = blcf(), (32.0, 16.0, 112.0, 80.0)
    query, theirs = words(seed), words(seed + 1)
    spatial = Spatial(Spatial.Config(aspect=aspect, within=1, times_before=False), CPU)
    found = spatial.rerank([ask(query, encoder, box)], hits(5), Collection(encoder, {5: theirs}), None)
    score, where = plain(theirs, query, box, aspect)
    assert found.scores[0, 0] == pytest.approx(score, abs=1e-5)
    got = found.boxes[0, 0].tolist()
    if got != pytest.approx(where):  # two windows may score the same
        clipped = [
            c for c in windows(6, 10) if cell_boxes(c[None], theirs.grid)[0].tolist() == pytest.approx(got)
        ]
        assert clipped


@pytest.mark.parametrize("dense", [False, True])
def test_the_object_is_found_where_it_is_and_comes_first(dense):
    rng = np.random.default_rng(0)
    grid = Grid.over(8, 12, (192, 128))
    box = (96.0, 64.0, 144.0, 96.0)  # cells 6..8, 4..5 of the query
    if dense:
        maps = [
            rng.random((64, 8, 12)).astype(np.float32) * (rng.random((64, 8, 12)) > 0.9) for _ in range(3)
        ]
        maps[2][:, 2:4, 3:6] = maps[0][:, 4:6, 6:9]
        items = [FeatureMap(torch.from_numpy(m), grid) for m in maps]
        encoder: Any = SumOfCells()
    else:
        maps = [rng.integers(0, K, (8, 12)).astype(np.int32) for _ in range(3)]
        maps[2][2:4, 3:6] = maps[0][4:6, 6:9]
        items = [Words(torch.from_numpy(m), grid, None, K) for m in maps]
        encoder = blcf()
    data = Collection(encoder, {7: items[1], 8: items[2], 9: items[1]})
    found = Spatial(Spatial.Config(depth=2, within=1), CPU).rerank(
        [ask(items[0], encoder, box)], hits(7, 8, 9), data, None
    )
    assert found.images.tolist() == [[8, 7, 9]]
    assert found.boxes[0, 0].tolist() == [48, 32, 96, 64]
    assert np.isnan(found.boxes[0, 2]).all()
    assert (np.diff(found.scores[0]) <= 0).all()


def test_the_box_holds_the_windows_that_are_nearly_as_good():
    best, others = np.array([2, 2, 5, 5]), np.array([[1, 3, 4, 6], [5, 2, 8, 5], [2, 2, 5, 5], [0, 0, 2, 9]])
    assert hull(best, others).tolist() == [1, 2, 5, 6]
    assert hull(best, others[:0]).tolist() == best.tolist()
    encoder, query, theirs = blcf(), words(1), words(2)
    areas = []
    for within in (1, 0.9, 0.5, 0.01):
        spatial = Spatial(Spatial.Config(within=within), CPU)
        asked = ask(query, encoder, (32.0, 16.0, 64.0, 48.0))
        found = spatial.rerank([asked], hits(5), Collection(encoder, {5: theirs}), None)
        x0, y0, x1, y1 = found.boxes[0, 0].tolist()
        areas.append((x1 - x0) * (y1 - y0))
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]


def test_the_score_before_may_count_too():
    encoder, query = blcf(), ask(words(1), blcf())
    data = Collection(encoder, {5: words(2), 6: words(3)})
    alone, both = (
        Spatial(Spatial.Config(times_before=b), CPU).rerank([query], hits(5, 6), data, None)
        for b in (False, True)
    )
    before = dict(zip([5, 6], hits(5, 6).scores[0], strict=True))
    likeness = dict(zip(alone.images[0], alone.scores[0], strict=True))
    for row, score in zip(both.images[0], both.scores[0], strict=True):
        assert score == pytest.approx(likeness[row] * before[row])


@given(likeness=st.floats(-1, 1), more=st.floats(0, 1), before=st.floats(-1, 1), further=st.floats(0, 1))
def test_more_of_both_is_never_less(likeness, more, before, further):
    counted = Spatial(Spatial.Config(), CPU).counted
    assert counted(min(likeness + more, 1), before) >= counted(likeness, before)
    if likeness >= 0:
        assert counted(likeness, before + further) >= counted(likeness, before)


def test_local_expansion_adds_what_is_inside_the_box():
    encoder = blcf()
    query, theirs = words(1), words(2)
    data = Collection(encoder, {5: theirs, 6: theirs})
    box = torch.tensor([[16.0, 16.0, 80.0, 64.0]])
    there = Hits(np.array([[5, 6]]), np.ones((1, 2), np.float32), torch.stack([box, box * np.nan], 1).numpy())
    asked: list[Any] = []

    def search(codes, k):
        asked.extend(codes)
        return there

    LocalQueryExpansion(LocalQueryExpansion.Config(), CPU).rerank([ask(query, encoder)], there, data, search)
    inside = encoder.aggregate(theirs, None, Regions(box, torch.ones(1)))
    expected = np.zeros(K)
    for codes in (ask(query, encoder).codes, inside, encoder.aggregate(theirs, None, None)):
        expected[codes.indices] += codes.data
    got = np.zeros(K)
    got[asked[0].indices] = asked[0].data
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected), rtol=1e-5)


def test_an_index_of_two_kinds_of_codes_is_an_error():
    query = ask(words(1), blcf())
    features = FeatureMap(torch.rand(4, 6, 10), Grid.over(6, 10, (160, 96)))
    dense: Any = SumOfCells()
    data = Collection(dense, {5: features})
    query = Query("q", query.image, None, features, words(1), query.codes)
    dense.aggregate = lambda local, weights, regions: (
        SumOfCells().aggregate(local, weights, regions)
        if isinstance(local, FeatureMap)
        else blcf().aggregate(local, weights, regions)
    )
    with pytest.raises(InstsearchError, match="cannot be compared"):
        Spatial(Spatial.Config(), CPU).rerank([query], hits(5), data, None)
