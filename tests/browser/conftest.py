"""A small collection, the service over it, and the system's Chromium to look at its page with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import instsearch
from served_scenes import TOKEN, scene

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
ARGUMENTS += ("--disable-component-update", "--disable-sync")
QUERY = (30, 20, 100, 100)  #: where the thing is in query.png


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``query.png``; ``turned.jpg``, the same lying on its side by its EXIF; folders and their indexes."""
    folder = tmp_path_factory.mktemp("browsed")
    for i in range(25):
        name = "query.png" if i == 12 else f"things/{'shelf' if i % 2 else 'table'}/{i}.png"
        path = folder / (name if i < 19 else f"more/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(scene(i) if i < 19 else 40 + scene(i - 19) // 2).save(path)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = PIL.Image.fromarray(scene(12)).transpose(PIL.Image.Transpose.ROTATE_90)
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    for name in ("things", "more"):
        instsearch.create(folder / f"of-{name}").index(folder / name, preset="sift")
    return folder


@pytest.fixture(scope="session")
def served(place: Path) -> Iterator[Any]:
    from instsearch_cli.serve.running import Place, running
    from instsearch_cli.serve.service import Service

    with running(Service([place / "of-things", place / "of-more"], "cpu"), Place(token=TOKEN)) as there:
        yield there


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page as a person has it before them, and what it asked."""

    page: Any
    questions: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def open(self, link: str) -> None:
        self.page.goto(link)
        self.page.wait_for_selector(".grid img[src]")

    def settle(self) -> None:
        """Wait until what is asked is answered."""
        self.page.wait_for_timeout(150)
        self.page.wait_for_selector("#results[aria-busy=false]", timeout=30_000)

    def give(self, path: Path) -> None:
        """Ask with a file."""
        self.page.set_input_files("#file", path)
        self.page.wait_for_selector("#stage img[src]")
        self.settle()

    def at(self, x: float, y: float, size: tuple[float, float] = (240, 180)) -> tuple[float, float]:
        """Where a pixel of the picture lies on the screen."""
        shown = self.page.locator("#picture").bounding_box()
        return (
            shown["x"] + x * shown["width"] / size[0],
            shown["y"] + y * shown["height"] / size[1],
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float], release: bool = True) -> None:
        """Press the mouse at a pixel of the picture, move to another."""
        (x0, y0), (x1, y1) = self.at(*start), self.at(*end)
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=3)
        self.page.mouse.move(x1, y1, steps=3)
        if release:
            self.page.mouse.up()

    def draw(self, box: tuple[float, float, float, float] = QUERY) -> None:
        x, y, w, h = box
        self.drag((x, y), (x + w, y + h))
        self.settle()

    def boxes(self) -> list[list[int]]:
        """The boxes as the page lists them."""
        texts = self.page.locator("#boxes .where").all_text_contents()
        return [[int(n) for n in text.split(",")] for text in texts]

    @property
    def asked(self) -> dict[str, Any]:
        """The last question."""
        return self.questions[-1]


@pytest.fixture
def tab(chromium: Any, served: Any) -> Iterator[Callable[..., Tab]]:
    """``tab(**options)``: a page in a context of its own; nothing may go wrong on it, nor leave this machine."""
    contexts, tabs = [], []

    def make(link: str | None = None, context: Any = None, **options: Any) -> Tab:
        if context is None:
            context = chromium.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
            contexts.append(context)
        made = Tab(context.new_page())
        tabs.append(made)
        made.page.set_default_timeout(15_000)
        made.page.on("pageerror", lambda error: made.wrong.append(f"error: {error}"))
        made.page.on("console", lambda message: _note(made, message))
        made.page.on("request", lambda request: _request(made, request))
        if link != "":
            made.open(link or served.link)
        return made

    yield make
    for context in contexts:
        context.close()
    for each in tabs:
        assert not each.wrong


def _note(tab: Tab, message: Any) -> None:
    if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
        tab.wrong.append(f"{message.type}: {message.text}")


def _request(tab: Tab, request: Any) -> None:
    if not request.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
        tab.wrong.append(f"a request to {request.url}")
    if "/v1/query" in request.url:
        tab.questions.append({**request.post_data_json, "live": request.url.endswith("?steps=1")})
