"""Boxes on the page: by mouse, by touch, by keys; zoom and pan; undo."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from served_scenes import BOX


def close_to(boxes: list[list[int]], *expected: tuple[float, ...]) -> bool:
    return len(boxes) == len(expected) and all(
        abs(a - b) <= 2
        for box, other in zip(boxes, expected, strict=True)
        for a, b in zip(box, other, strict=True)
    )


def test_a_newcomer_finds_the_thing_and_saves_a_table(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a picture").click()
    chooser.value.set_files(place / "query.png")
    page.settle()
    assert page.asked["views"] == [{"picture": page.asked["views"][0]["picture"], "box": None}]
    page.drag((30, 20), (130, 120), release=False)
    page.wait_for_selector("#hits li")  # while the button is still down
    page.wait_for_timeout(300)
    assert page.asked["views"][0]["box"]
    page.mouse.up()
    page.settle()
    assert close_to(page.boxes(), BOX)
    assert close_to([page.asked["views"][0]["box"]], BOX)
    assert page.asked["min_score"] == 0
    assert all(a != b for a, b in pairwise(page.questions))
    assert page.locator("#title").text_content().endswith(" found")
    found = page.locator("#found li")
    assert found.count() >= 4
    assert page.title().startswith(page.locator("#title").text_content())
    page.get_by_role("button", name="Save results").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV table").click()
    text = Path(download.value.path()).read_text("utf-8")
    assert text.startswith("rank,score,image")
    assert len(text.splitlines()) == found.count() + 1


HANDLES = {
    (30, 20): (20, 15), (80, 20): (80, 15), (130, 20): (140, 15), (130, 70): (140, 70),
    (130, 120): (140, 125), (80, 120): (80, 125), (30, 120): (20, 125), (30, 70): (20, 70),
}  # fmt: skip


def test_boxes_by_mouse(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    page.draw()
    for start, end in HANDLES.items():
        page.drag(start, end)
        x0, x1 = (min(30, end[0]), 130) if start[0] == 30 else (30, max(130, end[0]))
        y0, y1 = (min(20, end[1]), 120) if start[1] == 20 else (20, max(120, end[1]))
        x0, x1 = (30, 130) if start[0] == 80 else (x0, x1)
        y0, y1 = (20, 120) if start[1] == 70 else (y0, y1)
        assert close_to(page.boxes(), (x0, y0, x1 - x0, y1 - y0)), start
        page.keyboard.press("Control+z")
        assert close_to(page.boxes(), BOX)
        page.mouse.click(*page.at(80, 70))  # chosen again
    page.drag((80, 70), (100, 80))
    assert close_to(page.boxes(), (50, 30, 100, 100))
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Redo").click()
    page.get_by_role("button", name="Undo").click()
    page.mouse.click(*page.at(200, 160))
    page.get_by_role("button", name="Not this").click()
    page.draw((150, 60, 60, 60))
    assert close_to(page.boxes(), BOX, (150, 60, 60, 60))
    assert [len(page.asked[side]) for side in ("views", "against")] == [1, 1]
    page.get_by_role("button", name="The object", exact=True).click()
    page.settle()
    assert [len(page.asked[side]) for side in ("views", "against")] == [2, 0]
    page.get_by_role("button", name="Remove box 2").click()
    page.settle()
    assert close_to(page.boxes(), BOX)


def test_zoom_and_pan(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.give(place / "query.png")
    before = page.locator("#picture").bounding_box()
    x, y = page.at(60, 60)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    page.wait_for_timeout(50)
    assert page.locator("#picture").bounding_box()["width"] > 2 * before["width"]
    assert page.at(60, 60) == pytest.approx((x, y), abs=2)
    page.draw((50, 50, 30, 20))
    assert close_to(page.boxes(), (50, 50, 30, 20))
    page.get_by_role("button", name="Move the picture").click()
    page.drag((60, 60), (70, 64))
    assert page.at(60, 60) != pytest.approx((x, y), abs=5)
    assert len(page.boxes()) == 1
    for name in ("Zoom out", "Zoom in", "Show the whole picture"):
        page.get_by_role("button", name=name).click()
    assert page.locator("#picture").bounding_box() == pytest.approx(before)


def test_everything_by_keys(tab: Callable[..., Any], place: Path) -> None:
    page = tab()
    page.get_by_label("Search the collection by name").focus()
    page.keyboard.type("shelf/3.png")
    page.wait_for_timeout(500)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.settle()
    assert "row" in page.asked["views"][0]["picture"]
    page.keyboard.press("b")
    assert close_to(page.boxes(), (60, 45, 120, 90))
    for key in ("ArrowLeft", "Shift+ArrowUp", "Alt+ArrowRight", "Alt+Shift+ArrowDown"):
        page.keyboard.press(key)
    assert close_to(page.boxes(), (59, 35, 121, 100))
    page.keyboard.press("Control+z")
    assert close_to(page.boxes(), (60, 45, 120, 90))
    page.locator("#overlay g[data-box]").focus()
    page.keyboard.press("n")
    page.settle()
    assert len(page.asked["against"]) == 1
    page.keyboard.press("Delete")
    assert page.boxes() == []
    page.keyboard.press("b")
    page.settle()
    page.locator("#hits .open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("w")
    page.settle()
    assert len(page.asked["against"]) == 1
    page.locator("#hits .open").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#light[open] img[src]")
    page.keyboard.press("r")
    page.settle()
    assert len(page.asked["views"]) == 2
    name = page.locator("#light-name").text_content()
    page.keyboard.press("ArrowRight")
    assert page.locator("#light-name").text_content() != name
    page.keyboard.press("Escape")
    assert not page.locator("#light[open]").count()
    assert page.evaluate("document.activeElement.className") == "open"


def test_by_touch(tab: Callable[..., Any], place: Path) -> None:
    page = tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.give(place / "query.png")
    fingers = page.context.new_cdp_session(page.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        placed = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(page.at(*point) for point in points)]
        fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": placed})

    touch("Start", (30, 20))
    touch("Move", (80, 70))
    touch("Move", (130, 120))
    touch("End")
    page.settle()
    assert close_to(page.boxes(), BOX)
    before = page.locator("#picture").bounding_box()["width"]
    (x0, _y0), (x1, _y1), y = page.at(100, 90), page.at(140, 90), page.at(0, 90)[1]
    for kind, apart in (("Start", 0), ("Move", 20), ("Move", 60)):
        points = [{"x": x0 - apart, "y": y, "id": 0}, {"x": x1 + apart, "y": y, "id": 1}]
        fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    touch("End")
    assert page.locator("#picture").bounding_box()["width"] > 1.5 * before
    assert close_to(page.boxes(), BOX)  # two fingers draw nothing
    page.get_by_role("button", name="Show the whole picture").tap()
    page.locator("#found .wrong").nth(1).tap()
    page.settle()
    assert len(page.asked["against"]) == 1
    page.locator("#hits .open").first.tap()
    page.wait_for_selector("#light[open] img[src]")
    small = [
        text
        for text, w, h in page.evaluate(
            "[...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent && !e.closest('.away'))"
            ".map(e => [e.outerHTML.slice(0, 90), e.offsetWidth, e.offsetHeight])"
        )
        if min(w, h) < 40
        and 'type="radio"' not in text
        and 'type="checkbox"' not in text
        and "away" not in text
    ]
    assert not small
