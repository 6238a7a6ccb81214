"""The page itself: its size, its policy, its accessibility, its widths; the task of drawing a box."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.serve.page import FILES, page
from served_scenes import BOX, TOKEN

FOLDER = Path(__file__).parents[2] / "instsearch_cli" / "serve" / "page"


def test_the_page_is_small_and_runs_only_what_is_its_own() -> None:
    text, policy = page()
    assert len(text.encode()) < 100_000
    for name in ("style", "script"):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\s(?:style|on\w+)=\"|https?://(?!www\.w3\.org/2000/svg)", text)


def test_every_file_of_the_page_is_in_it_and_short() -> None:
    assert sorted(FILES) == sorted(p.name for p in FOLDER.iterdir() if p.suffix in (".js", ".css", ".html"))
    for path in FOLDER.iterdir():
        assert path.is_dir() or len(path.read_text("utf-8").splitlines()) <= 400, path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 360)])
def test_accessibility_and_width(tab: Callable[..., Any], place: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    seen = tab(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")

    def check(state: str) -> None:
        found = axe.run(seen.page, options={"resultTypes": ["violations"]}).response["violations"]
        assert not found, (state, [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found])
        for each in (360, 2500, width):
            seen.set_viewport_size({"width": each, "height": 800})
            room, wide = seen.evaluate("(e => [e.clientWidth, e.scrollWidth])(document.documentElement)")
            assert wide <= room, (state, each)

    check("start")
    seen.give(place / "query.png")
    seen.draw()
    check("hits")
    seen.locator("#hits .wrong").nth(3).click()
    seen.settle()
    for button in ("#choices-button", "#save"):
        seen.locator(button).click()
        seen.wait_for_timeout(200)
        check(button)
        seen.keyboard.press("Escape")
    seen.locator("#hits .open").first.click()
    seen.wait_for_selector("#light-boxes rect")
    seen.wait_for_timeout(300)
    check("a hit")
    seen.keyboard.press("Escape")
    seen.get_by_role("button", name="Add a view").click()
    check("the collection")


def test_without_javascript_there_is_a_sentence(tab: Callable[..., Any], served: Any) -> None:
    bare = tab(link="", java_script_enabled=False)
    bare.goto(served.link)
    assert "JavaScript" in bare.locator("noscript").inner_text()


def test_a_box_is_drawn_for_the_command(tab: Callable[..., Any], place: Path) -> None:
    from instsearch_cli.serve.running import Place, running
    from instsearch_cli.serve.service import Service

    service = Service([], "cpu")
    upload = service.uploads.put((place / "query.png").read_bytes(), "query.png")
    service.task = {"kind": "box", "picture": upload.plain()}
    with running(service, Place(token=TOKEN)) as there:
        drawn = tab(link="")
        drawn.goto(there.link)
        drawn.wait_for_selector("#stage img[src]")
        use = drawn.get_by_role("button", name="Use this box")
        assert use.is_disabled()
        x, y, w, h = BOX
        drawn.drag((x, y), (x + w, y + h))
        use.click()
        drawn.wait_for_selector("text=This page can be closed")
        assert service.done.wait(5)
        assert service.boxes is not None
        assert service.boxes[0] == pytest.approx(BOX, abs=2)
        assert not drawn.questions
