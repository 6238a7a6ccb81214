"""Recall of annotated boxes against the definitions, by hand and by slow loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.errors import InstsearchError
from instsearch_cli.measure.localisation import THRESHOLDS, best_overlaps, coverage, share_at
from instsearch_cli.report.coverage import lines, plain

Boxes = list[tuple[float, float, float, float]]
corners = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.integers(0, 9))
boxes = st.lists(corners.map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])), max_size=6)


def slow_iou(a: Any, b: Any) -> float:
    """By counting unit cells: the union's, not those of the rectangle around both."""
    cells = [
        {(x, y) for x in range(int(x0), int(x1)) for y in range(int(y0), int(y1))}
        for x0, y0, x1, y1 in (a, b)
    ]
    union = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(union) if union else 0.0


def blocks(*images: Boxes, at_once: int = 2) -> list[dict[str, Any]]:
    """The stored layer of these images' regions, cut into blocks."""
    cut = []
    for start in range(0, len(images), at_once):
        some = images[start : start + at_once]
        flat = np.array([box for image in some for box in image], np.float32).reshape(-1, 4)
        indptr = np.cumsum([0, *map(len, some)])
        cut.append({"boxes": flat, "indptr": indptr, "start": start, "stop": start + len(some)})
    return cut


def test_overlaps_by_hand() -> None:
    regions = [(0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)]
    annotated = [(0, 0, 10, 8), (55, 50, 65, 60), (100, 100, 101, 101)]
    a, r = best_overlaps(regions, annotated)
    assert a.tolist() == pytest.approx([0.8, 1 / 3, 0])
    assert r.tolist() == pytest.approx([0.8, 5 / 8, 1 / 3])
    diagonal, _ = best_overlaps([(0, 0, 2, 2)], [(1, 1, 3, 3)])
    assert diagonal[0] == pytest.approx(1 / 7)  # by the rectangle around both it would be 1/9


def test_overlaps_with_nothing() -> None:
    a, r = best_overlaps([], [(0, 0, 1, 1)])
    assert (a.tolist(), r.tolist()) == ([0], [])
    a, r = best_overlaps([(0, 0, 1, 1)], [])
    assert (a.tolist(), r.tolist()) == ([], [0])
    a, r = best_overlaps([(3, 3, 3, 9)], [(0, 0, 9, 9)])  # a line covers nothing
    assert (a.tolist(), r.tolist()) == ([0], [0])


def test_thresholds_are_reached_by_equal_overlaps() -> None:
    assert THRESHOLDS.tolist() == [i * 5 / 100 for i in range(1, 20)]
    for i in range(1, 20):
        overlap, _ = best_overlaps([(0, 0, 20, 1)], [(0, 0, i, 1)])
        assert share_at(overlap).tolist() == [1.0] * i + [0.0] * (19 - i)
    assert share_at([0.2, 0.5, 0.5, 0.7], [0.2, 0.5, 0.6, 0.71]).tolist() == [1, 0.75, 0.25, 0]
    assert all(math.isnan(v) for v in share_at([]))


@settings(deadline=None)
@given(boxes, boxes)
def test_overlaps_are_those_of_a_slow_loop(regions: Boxes, annotated: Boxes) -> None:
    a, r = best_overlaps(regions, annotated)
    assert a.tolist() == pytest.approx([max([slow_iou(x, y) for y in regions], default=0) for x in annotated])
    assert r.tolist() == pytest.approx([max([slow_iou(x, y) for y in annotated], default=0) for x in regions])


@settings(deadline=None)
@given(st.lists(st.tuples(boxes, boxes), min_size=1, max_size=5))
def test_coverage_is_that_of_a_slow_loop(images: list[tuple[Boxes, Boxes]]) -> None:
    annotated = {row: marked for row, (_, marked) in enumerate(images) if marked}
    stored = blocks(*(found for found, _ in images))
    if not annotated:
        with pytest.raises(InstsearchError, match="none of the images has annotated boxes"):
            coverage(stored, annotated)
        return
    got = coverage(stored, annotated)
    shown = [(f, m) for f, m in images if m]
    assert got.images == len(shown)
    assert got.regions_per_image * len(shown) == pytest.approx(sum(len(f) for f, _ in shown))
    for t, recall, covering in zip(THRESHOLDS, got.recall, got.covering, strict=True):
        hit = [any(slow_iou(box, region) >= t for region in f) for f, m in shown for box in m]
        right = [any(slow_iou(box, region) >= t for box in m) for f, m in shown for region in f]
        assert recall == pytest.approx(np.mean(hit))
        assert covering == pytest.approx(np.mean(right)) if right else math.isnan(covering)
    assert (np.diff(got.recall) <= 0).all()


@settings(deadline=None)
@given(boxes.filter(bool), boxes.filter(bool), corners)
def test_more_regions_never_cover_less(regions: Boxes, annotated: Boxes, more: Any) -> None:
    x, y, w, h = more
    few = coverage(blocks(regions), {0: annotated})
    many = coverage(blocks([*regions, (x, y, x + w, y + h)]), {0: annotated})
    assert (many.recall >= few.recall).all()
    solid = [b for b in annotated if b[0] < b[2] and b[1] < b[3]]
    assert best_overlaps([*regions, *annotated], solid)[0].tolist() == [1.0] * len(solid)


def test_a_detector_that_finds_nothing() -> None:
    got = coverage(blocks([], []), {0: [(0, 0, 1, 1)], 1: [(0, 0, 1, 1)]})
    assert (got.recall == 0).all()
    assert np.isnan(got.covering).all()
    assert got.regions_per_image == 0
    table = plain({"none": got}, {"none": {}})
    assert table["pipelines"][0]["covering"] == [None] * 19
    assert table["pipelines"][0]["recall"] == [0.0] * 19
    assert any("–" in line for line in lines("d", {"none": got}))


def test_lines_of_two_pipelines() -> None:
    right = coverage(blocks([(0, 0, 10, 10)]), {0: [(0, 0, 10, 10)]})
    half = coverage(blocks([(0, 0, 10, 5), (0, 5, 1, 6)]), {0: [(0, 0, 10, 10)]})
    said = list(lines("d", {"right": right, "half": half}))
    assert said[0] == "d: 1 annotated boxes in 1 images"
    assert said[3].split() == ["right", "1.0", "1.000", "1.000", "1.000"]
    assert said[4].split() == ["half", "2.0", "1.000", "0.500", "0.500"]
    assert said[5].split()[-19:] == [f".{5 * i:02}" for i in range(1, 20)]
    assert said[7].split() == ["half", *["100"] * 10, *["0.0"] * 9]
    assert said[10].split() == ["half", *["50.0"] * 10, *["0.0"] * 9]
