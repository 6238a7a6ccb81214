"""After a kill, a path that two images have: the run that goes on leaves it to the one whose file it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsearch_cli.engine import making
from instsearch_formats import Index
from instsearch_formats.changes import Change
from instsearch_formats.images import located
from synced import index, sync

__all__ = ["index", "sync"]  # fixtures

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture
def killed(cli: Cli, index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``killed(where, argument...)``: run a command that ends before it notes what it replaces, or after."""

    def call(where: str, *arguments: object) -> None:
        def end(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(making, {"before": "Runner", "after": "check_space"}[where], end)
            cli(*arguments, "--index", index, status=130)
        assert (index / "replacing.json").exists() == (where == "after")

    return call


def names(index: Path) -> dict[str, list[str]]:
    """The images, each with its other names, by their files; no file is of two."""
    table = Index.open(index).images
    roots, others, found = table.roots, table.others(), {}
    for row in np.flatnonzero(table.alive()).tolist():
        record = table.record(row)
        places = [(record.root, record.name), *others.get(row, ())]
        first, *more = (located(roots, place).decode() for place in places)
        found[first] = more
    every = [name for first, more in found.items() for name in (first, *more)]
    assert len(every) == len(set(every))
    return found


@pytest.fixture
def linked(cli: Cli, index: Path, photos: Path, draw: Draw) -> Path:
    """Another name of a/1.png, in another folder."""
    other = photos.parent / "other" / "x.png"
    draw(other.with_name("y.png"), 60)
    other.hardlink_to(photos / "a/1.png")
    cli("add", other.parent, "--index", index)
    return other


@pytest.mark.parametrize(("verb", "where"), [("add", "before"), ("sync", "after")])
def test_another_photograph_under_the_other_name(
    cli: Cli, killed: Any, index: Path, photos: Path, linked: Path, draw: Draw, verb: str, where: str
) -> None:
    linked.unlink()
    draw(linked, 70)
    again = (verb, *((photos, linked.parent) if verb == "add" else ()))
    killed(where, *again)
    cli(*again, "--index", index)
    assert names(index).keys() == {*map(str, photos.rglob("*.png")), *map(str, linked.parent.glob("*"))}
    assert names(index)[str(photos / "a/1.png")] == []
    shown = cli("show", "x.png", "--index", index, "--out", photos.parent / "s.png", "--json").json
    assert shown["image"] == str(linked)
    (photos / "a/1.png").unlink()
    done = cli("sync", "--index", index, "--json").json
    assert (done["removed"], done["renamed"]) == ([str(photos / "a/1.png")], [])


@pytest.mark.parametrize(("gone", "where"), [("the-first", "after"), ("the-other", "before")])
def test_one_name_holds_another_photograph_and_one_is_gone(
    killed: Any, sync: Any, index: Path, photos: Path, linked: Path, draw: Draw, gone: str, where: str
) -> None:
    first, changed = photos / "a/1.png", linked
    if gone == "the-other":
        first, changed = changed, first
    first.unlink()
    changed.unlink()
    draw(changed, 70)
    killed(where, "sync")
    would, done = sync("--dry-run"), sync()
    for kind in ("added", "replaced", "renamed", "removed", "others", "unchanged", "images"):
        assert done[kind] == would[kind], kind
    assert done["images"] == 11
    assert names(index).keys() == {*map(str, photos.rglob("*.png")), *map(str, linked.parent.glob("*"))}


def test_the_other_name_is_of_the_first_file_again(
    cli: Cli, killed: Any, sync: Any, index: Path, photos: Path, linked: Path, draw: Draw
) -> None:
    linked.unlink()
    draw(linked, 70)
    draw(photos / "new.png", 71)
    killed("before", "sync")
    linked.unlink()
    linked.hardlink_to(photos / "a/1.png")
    assert sync()["images"] == 12
    assert names(index)[str(photos / "a/1.png")] == [str(linked)]


def test_verify_names_a_path_that_two_images_have(cli: Cli, sync: Any, index: Path, photos: Path) -> None:
    """As an earlier version left it; not while a run replaces one of them, nor after one that was killed."""
    table = Index.open(index).images
    table.append([table.record(3)])
    assert "sound" in cli("verify", "--index", index).out
    cli("index", "--index", index)
    table.change(Change(places={5: ((0, b"a/1.png"),)}))
    [problem] = cli("verify", "--index", index, "--json", status=1).json["problems"]
    assert f"{photos}/a/1.png is the file of two images" in problem["what"]
    assert problem["mend"] == f"`instsearch sync --index {index}`"
    table.replace({5: 10})
    assert "sound" in cli("verify", "--index", index).out
    table.replaced([])
    sync()
    assert "sound" in cli("verify", "--index", index).out
    assert names(index).keys() == set(map(str, photos.rglob("*.png")))
