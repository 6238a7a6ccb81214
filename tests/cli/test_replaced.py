"""An open index whose folder another index takes: it is noticed before anything is answered, or written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch import Index, InstsearchError
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.several import as_one
from opened_index import STAGES, index

__all__ = ["index"]  # fixtures


@pytest.fixture
def another(index: Index, tmp_path: Path, draw: Any) -> Path:
    """An index of other photographs."""
    for i in range(3):
        draw(tmp_path / "others" / f"{i}.png", 50 + i)
    with instsearch.create(tmp_path / "new") as made:
        made.index(tmp_path / "others", **STAGES)
    return tmp_path / "new"


def swap(index: Index, other: Path) -> None:
    """As a nightly rebuild does."""
    index.path.rename(other.with_name("old"))
    other.rename(index.path)


def test_another_index_in_its_place_is_noticed(index: Index, another: Path, photos: Path) -> None:
    assert len(index.query(photos / "a" / "1.png")) == len(index.images) == 10
    index.features("a/1.png")
    swap(index, another)
    with pytest.raises(InstsearchError, match=r"no image 'a/1\.png'"):
        index.remove("a/1.png")
    assert sorted(index.images) == ["0.png", "1.png", "2.png"]
    assert {hit.image for hit in index.query(photos / "a" / "1.png")} == {"0.png", "1.png", "2.png"}
    assert index.remove("0.png") == (1, 2)
    shutil.rmtree(index.path)
    with pytest.raises(InstsearchError, match="there is no index at"):
        index.query(photos / "a" / "1.png")
    with instsearch.create(index.path) as made:
        made.index(photos, **STAGES)
    assert len(index.query(photos / "a" / "1.png")) == len(index) == 10


def test_several_notice_it_too(index: Index, another: Path, photos: Path) -> None:
    both = as_one([index, index])
    assert len(both.query(photos / "a" / "1.png", k=50)) == 20
    swap(index, another)
    assert len(both.query(photos / "a" / "1.png", k=50)) == 6
    assert {answer.n_images for answer in both.answers(photos / "a" / "1.png")} == {6}


def test_nothing_is_written_to_one_that_came_while_the_lock_was_taken(
    index: Index, another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, store = index.store.lock, index.store

    def late() -> Any:
        swap(index, another)
        return real()

    monkeypatch.setattr(store, "lock", late)
    with pytest.raises(InstsearchError, match=r"another index came to lie at .*: do it again"):
        index.remove("a/1.png")
    assert len(index) == 3


def test_one_that_went_in_the_midst_of_a_question_is_said(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that nothing was found."""
    real = Engine.search

    def late(*given: Any, **options: Any) -> Any:
        index.path.rename(index.path.with_name("away"))
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "search", late)
        with pytest.raises(InstsearchError, match=r"there is no index any more at .*: do it again"):
            index.query(photos / "a" / "1.png")
    index.path.with_name("away").rename(index.path)
    assert index.query(photos / "a" / "1.png").hits


def test_one_that_came_in_the_midst_of_a_question_is_said(
    index: Index, another: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that a part of the new one, which is sound, were to be deleted."""
    real = Engine.search

    def late(*given: Any, **options: Any) -> Any:
        if another.exists():
            swap(index, another)
        return real(*given, **options)

    monkeypatch.setattr(Engine, "search", late)
    with pytest.raises(InstsearchError, match=r"another index came to lie at .*: do it again"):
        index.query(photos / "a" / "1.png")
    assert len(index.query(photos / "a" / "1.png")) == 3
