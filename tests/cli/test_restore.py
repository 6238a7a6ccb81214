"""What was removed comes back, by its name, a pattern or another name of it, unless something else is there now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_formats import Index
from schema_check import valid
from synced import hits, index, state, sync

__all__ = ["index", "sync"]  # fixtures

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.mark.parametrize("searcher", ["scan", "faiss"])
@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("given", ["a/1.png", "FILE", "FOLDER", "a/*.png", "--all"])
def test_what_was_removed_comes_back(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, given: str, searcher: str, collected: bool
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny[:-1], searcher, "--quiet")
    before = cli("query", photos / "a/1.png", "--index", index, "--json", "-k", "99").json["hits"]
    what = {"FILE": str(photos / "a/1.png"), "FOLDER": str(photos / "a")}.get(given, given)
    cli("remove", what if what != "--all" else photos / "a", "--index", index)
    gone = 1 if given in ("a/1.png", "FILE") else 5
    assert len(hits(cli, index, photos / "a/1.png")) == 10 - gone
    cli("add", photos / "b", "--index", index, "--quiet")
    if collected:
        cli("gc", "--index", index)
    done = valid("restore", cli("restore", what, "--index", index, "--json").out)
    assert (len(done["restored"]), done["left"], done["images"]) == (gone, [], 10)
    assert cli("query", photos / "a/1.png", "--index", index, "--json", "-k", "99").json["hits"] == before
    assert "sound" in cli("verify", "--index", index).out
    again = cli("restore", what, "--index", index, "--json").json
    assert again == {"restored": [], "left": [], "images": 10}
    assert len(Index.open(index).images) == 10


def test_what_holds_something_else_does_not(cli: Cli, index: Path, photos: Path, draw: Draw) -> None:
    cli("remove", photos / "a", "--index", index)
    draw(photos / "a/1.png", 90)
    (photos / "a/3.png").unlink()
    images = state(index / "images")
    failed = cli("restore", "a/1.png", "--index", index, status=1).err
    assert "holds something else now: run `instsearch sync`" in failed
    assert "is not there" in cli("restore", "a/3.png", "--index", index, status=1).err
    failed = cli("restore", photos / "a", "--index", index, status=1).err
    assert "(and 1 more)" in failed
    assert state(index / "images") == images
    out = cli("restore", "--all", "--index", index).out
    assert "restored 3, 2 left out, 8 images" in out
    assert cli("sync", "--index", index, "--json").json["added"] == [str(photos / "a/1.png")]
    failed = cli("restore", "nothing.png", "--index", index, status=1).err
    assert "no image 'nothing.png' was removed" in failed
    assert cli("restore", "a/1.png", "--index", index, "--json").json["restored"] == []


def test_it_is_too_late_where_a_pipeline_was_made_since(cli: Cli, index: Path, photos: Path) -> None:
    cli("remove", "a/1.png", "--index", index)
    cli("index", "--index", index, "--weighting", "bright", "--name", "later")
    failed = cli("restore", "a/1.png", "--index", index, status=1).err
    assert "too late, pipeline 'later' was made after it was removed: `instsearch add` it" in failed
    assert "too late" in cli("restore", "--all", "--index", index).out
    assert cli("add", photos / "a/1.png", "--index", index, "--json").json["indexed"] == 1
    assert "1.png" in hits(cli, index, photos / "a/1.png")
    assert cli("restore", "--all", "--index", index).out == "restored 0, 10 images\n"


def test_the_last_of_several_that_lay_there(cli: Cli, index: Path, photos: Path, draw: Draw) -> None:
    old = (photos / "a/1.png").read_bytes()
    cli("remove", "a/1.png", "--index", index)
    draw(photos / "a/1.png", 91)
    cli("add", photos, "--index", index)
    cli("remove", "a/1.png", "--index", index)
    assert cli("restore", "a/1.png", "--index", index, "--json").json["images"] == 10
    assert Index.open(index).images.alive()[10]
    cli("remove", "a/1.png", "--index", index)
    (photos / "a/1.png").write_bytes(old)
    assert cli("restore", "a/1.png", "--index", index, "--json").json["images"] == 10
    assert not Index.open(index).images.alive()[10]
    assert hits(cli, index, photos / "a/1.png")[0] == "a/1.png"


def test_on_a_disk_that_is_away(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    cli("remove", "a/1.png", "--index", index)
    photos.rename(tmp_path / "away")
    assert cli("restore", "a/1.png", "--index", index, "--json").json["images"] == 10


def test_it_is_skipped_no_longer(cli: Cli, sync: Any, index: Path, photos: Path, draw: Draw) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    cli("remove", "a/1.png", "a/3.png", "--index", index)
    sync()
    assert cli("info", "--index", index, "--json").json["skipped"] == 3
    cli("restore", "a/1.png", "--index", index)
    lines = (index / "skipped.txt").read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == [str(photos / "a/3.png"), str(photos / "bad.png")]


def test_removed_restored_removed(cli: Cli, index: Path, photos: Path) -> None:
    for _ in range(3):
        cli("remove", "a/1.png", "--index", index)
        assert len(hits(cli, index, photos / "a/1.png")) == 9
        cli("restore", "a/1.png", "--index", index)
        assert len(hits(cli, index, photos / "a/1.png")) == 10
    assert cli("info", "--index", index, "--json").json["removed"] == {}
    assert "1 files skipped" not in cli("info", "--index", index).out


def test_patterns_and_other_names(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for path in photos.glob("a/*.png"):
        (tmp_path / "other" / path.name).hardlink_to(path)
    cli("add", tmp_path / "other", "--index", index)
    assert cli("info", "--index", index, "--json").json["others"] == 5
    assert "5 other names of them" in cli("info", "--index", index).out
    assert "removed 0, 10 left" in cli("remove", tmp_path / "other", "--index", index).out
    assert cli("info", "--index", index, "--json").json["others"] == 0
    cli("add", tmp_path / "other", "--index", index)
    assert "removed 0, 10 left" in cli("remove", photos / "a", "--index", index).out
    assert "1.png" in hits(cli, index, tmp_path / "other/1.png")
    assert "removed 2, 8 left" in cli("remove", "[13].png", "--index", index).out
    assert "removed 0, 8 left" in cli("remove", "[13].png", "--index", index).out
    assert "no image" in cli("remove", "[x]*", "--index", index, status=1).err
    assert cli("restore", "[1]*", "--index", index, "--json").json["images"] == 9
