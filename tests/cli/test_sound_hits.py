"""Hits of components are looked at before they are believed; what goes wrong is told with who it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from instsearch import Index, InstsearchError
from instsearch_cli.data import Hits, Query
from instsearch_cli.engine.sound_hits import fault
from opened_index import index

__all__ = ["index"]  # fixtures

LIVE = np.array([2, 3, 5, 8])
BOXES = [[0, 0, 4, 4], [1, 1, 2, 2], [np.nan] * 4]


def query(exclude: tuple[int, ...] = (), per_image: int = 1) -> Query:
    return cast("Query", SimpleNamespace(id="q.jpg", exclude=frozenset(exclude), per_image=per_image))


def hits(
    images: list[int], scores: list[float] | None = None, boxes: list[list[float]] | None = None
) -> Hits:
    n = len(images)
    given = np.array([BOXES[:n] if boxes is None else boxes], np.float32)
    return Hits(np.array([images]), np.array([scores or [3.0, 2.0, 1.0][:n]], np.float32), given)


@pytest.mark.parametrize(
    ("given", "asked", "wrong"),
    [
        (hits([2, 8, 5]), query(), ""),
        (hits([2, 2, 5]), query(per_image=0), ""),
        (hits([5, -1, -1], [1, -np.inf, -np.inf]), query(), ""),
        (None, query(), "gave NoneType where Hits are wanted"),
        (hits([2, 2, 5]), query(), "gave an image twice"),
        (hits([2, 4, 5]), query(), "gave an image that is not there"),
        (hits([2, 9, 5]), query(), "gave an image that is not there"),
        (hits([2, -1, 5]), query(), "gave hits behind the padding"),
        (hits([2, 8, 5]), query((8,)), "gave an image that the query leaves out"),
        (hits([2, 8, 5], [3, np.nan, 1]), query(), "gave a score that is no number"),
        (hits([2, 8, 5], [1, 2, 3]), query(), ""),  # as of reranker geometric, where verified ones come first
        (hits([2], boxes=[[0, 0, np.inf, 1]]), query(), "gave a box that is no box"),
        (hits([2], boxes=[[0, 0, np.nan, 1]]), query(), "gave a box that is no box"),
        (hits([2], boxes=[[5, 5, 1, 9]]), query(), "gave a box turned inside out"),
    ],
)
def test_what_hits_have_to_be(given: Any, asked: Query, wrong: str) -> None:
    assert fault(given, [asked], LIVE).startswith(wrong)
    assert bool(fault(given, [asked], LIVE)) == bool(wrong)


def test_other_numbers_of_rows_and_kinds() -> None:
    one = hits([2, 8, 5])
    assert fault(one, [query(), query()], LIVE) == "gave 1 rows of hits for 2 queries"
    assert "float64" in fault(replace(one, images=one.images.astype(float)), [query()], LIVE)
    assert fault(hits([-1], [-np.inf], [BOXES[2]]), [query()], LIVE[:0]) == ""
    assert fault(hits([2]), [query()], LIVE[:0]) == "gave an image that is not there, or was removed"


def test_a_searcher_that_gives_an_image_twice_is_named(index: Index, photos: Path) -> None:
    engine = index.engine()
    (_, searcher), *_ = engine.segments
    real = searcher.search

    def doubled(*given: Any) -> Hits:
        found: Hits = real(*given)
        return Hits(*(np.repeat(each, 2, axis=1) for each in (found.images, found.scores, found.boxes)))

    searcher.search = doubled
    with pytest.raises(InstsearchError, match=r"^searcher '.*' of .*: that is a bug of the plugin"):
        index.query(photos / "a" / "1.png")


def test_what_a_searcher_raises_is_told_with_its_name(index: Index, photos: Path) -> None:
    (_, searcher), *_ = index.engine().segments

    def broken(*given: Any) -> Hits:
        raise RuntimeError("boom")

    searcher.search = broken
    with pytest.raises(RuntimeError, match="boom") as raised:
        index.query(photos / "a" / "1.png")
    assert any("searcher '" in note and "query" in note for note in raised.value.__notes__)


def test_images_that_came_since_are_there_once_they_are_reached(
    index: Index, draw: Any, tmp_path: Path
) -> None:
    """Also where somebody looked between their coming and that."""
    engine = index.engine()
    draw(tmp_path / "more" / "new.png", 77)
    Index.open(index.path).add(tmp_path / "more")
    assert len(engine.data.images) == 10
    engine.refresh()
    assert len(engine.data.images) == engine.data.count == 11
