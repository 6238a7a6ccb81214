"""An answer of three hits, and the elements of its page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from instsearch_cli.engine.answer import Answer, Hit
from plain_pictures import picture


@pytest.fixture
def result(tmp_path: Path) -> Answer:
    hits = (
        Hit(1, "a/one.jpg", picture(tmp_path / "a/one.jpg"), 12.5, (10.0, 20.0, 110.0, 70.04), (400, 300)),
        Hit(2, "two.png", picture(tmp_path / "two.png", (300, 400)), 6.25, None, (300, 400)),
        Hit(3, "gone.jpg", tmp_path / "gone.jpg", 0.0, (0.0, 0.0, 5.0, 5.0)),
    )
    query = picture(tmp_path / "query.jpg", (800, 600))
    asked = "query.jpg", query, (100.0, 50.0, 300.0, 250.0), hits, {"encoder": "blcf"}, 0.0423, 1234
    return Answer(*asked, size=(800, 600))


# The page


class Page(HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]
