"""Boxes: reading, clipping, overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.boxes import clip_box, iou, parse_box
from instsearch_cli.errors import InstsearchError, UsageError

places = st.floats(-1e6, 1e6)
lengths = st.floats(1e-3, 1e6)
sides = st.integers(1, 20_000)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("120,80,200,150", (120, 80, 200, 150)),
        (" 1.5, -2 ,3e2,.5", (1.5, -2, 300, 0.5)),
        ("-0,0,1,1", (0, 0, 1, 1)),
    ],
)
def test_parse(text: str, box: tuple[float, ...]) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    "text",
    [
        "abc",
        "",
        "1,2,3",
        "1,2,3,4,5",
        "1,2,3,",
        "1;2;3;4",
        "nan,0,1,1",
        "0,0,inf,1",
        "0,0,0,1",
        "0,0,1,-1",
        "0,0,1e999,1",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_box(text)
    assert str(caught.value).startswith("--box takes x,y,w,h in pixels of the upright picture")
    assert str(caught.value).endswith(f"for example 120,80,200,150; got {text!r}")
    assert caught.value.exit_status == 2


@given(places, places, lengths, lengths)
def test_what_is_written_is_read(x: float, y: float, w: float, h: float) -> None:
    assert parse_box(f"{x!r},{y!r},{w!r},{h!r}") == (x, y, w, h)


@given(st.text())
def test_any_text_is_a_box_or_a_usage_error(text: str) -> None:
    try:
        box = parse_box(text)
    except UsageError:
        return
    assert all(map(math.isfinite, box))
    assert min(box[2:]) > 0


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((10, 5, 30, 40), (10, 5, 40, 45)),
        ((-10, -20, 30, 40), (0, 0, 20, 20)),
        ((90, 40, 30, 40), (90, 40, 100, 50)),
        ((-5, -5, 1000, 1000), (0, 0, 100, 50)),
        ((99.5, 49.5, 1, 1), (99.5, 49.5, 100, 50)),
    ],
)
def test_clip(box: tuple[float, float, float, float], clipped: tuple[float, ...]) -> None:
    assert clip_box(box, (100, 50)) == clipped


@pytest.mark.parametrize(
    "box", [(100, 0, 10, 10), (0, 50, 10, 10), (-10, 0, 10, 10), (0, -11, 10, 10), (1e9, 1e9, 1, 1)]
)
def test_a_box_outside_the_picture(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InstsearchError, match=r"covers no part of the picture, which is 100 x 50 pixels"):
        clip_box(box, (100, 50))


@given(places, places, lengths, lengths, sides, sides)
def test_clipped_boxes_lie_in_the_picture_and_in_the_box(
    x: float, y: float, w: float, h: float, width: int, height: int
) -> None:
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    try:
        x0, y0, x1, y1 = clip_box((x, y, w, h), (width, height))
    except InstsearchError:
        assert outside or x + w <= x or y + h <= y
        return
    assert not outside
    assert max(x, 0) <= x0 < x1 <= min(x + w, width)
    assert max(y, 0) <= y0 < y1 <= min(y + h, height)
    assert clip_box((x0, y0, x1 - x0, y1 - y0), (width, height)) == pytest.approx((x0, y0, x1, y1))


def plain_iou(a: list[float], b: list[float]) -> float:
    """Count unit squares: for boxes with integer corners."""
    cells = [
        {(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)
    ]
    union = len(cells[0] | cells[1])
    return len(cells[0] & cells[1]) / union if union else 0.0


corners = st.lists(st.integers(-6, 12), min_size=4, max_size=4)


@given(st.lists(corners, min_size=1, max_size=5), st.lists(corners, min_size=1, max_size=5))
def test_iou_against_counting(a: list[list[float]], b: list[list[float]]) -> None:
    overlaps = iou(np.array(a)[:, None], np.array(b))
    assert overlaps.shape == (len(a), len(b))
    np.testing.assert_allclose(overlaps, [[plain_iou(p, q) for q in b] for p in a], atol=1e-12)
    np.testing.assert_array_equal(overlaps, iou(np.array(a), np.array(b)[:, None]).T)


def test_iou_by_hand() -> None:
    assert iou(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert iou(np.array([0, 0, 2, 2.5]), np.array([0, 0, 2, 2.5])) == 1
    assert iou(np.array([0, 0, 1, 1]), np.array([1, 0, 2, 1])) == 0
    assert iou(np.full(4, np.nan), np.array([0, 0, 1, 1])) == 0
    assert iou(np.zeros((3, 4), np.float32), np.zeros(4)).tolist() == [0, 0, 0]
