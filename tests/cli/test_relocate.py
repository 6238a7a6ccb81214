"""Roots that moved together or into one another, and those of which single files were given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_formats import Index

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture
def make(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> Callable[..., Path]:
    """``make(path...)``: an index of these."""

    def call(*paths: Path) -> Path:
        cli("index", *paths, "--index", tmp_path / "i", *tiny, "--quiet")
        return tmp_path / "i"

    return call


def test_all_roots_that_lie_there_move(cli: Cli, make: Any, photos: Path, tmp_path: Path, draw: Draw) -> None:
    others = photos.with_name("photos-of-others")
    draw(others / "1.png", 60)
    index = make(photos / "a", photos / "b", others)
    draw(photos / "new.png", 61)
    cli("add", photos, "--index", index)
    archive = photos.rename(tmp_path / "archive")
    for _ in range(2):
        said = cli("relocate", photos, archive, "--index", index, "--json").json
        assert said == {"old": str(photos), "new": str(archive)}
        roots = cli("info", "--index", index, "--json").json["roots"]
        assert set(roots) == {str(archive / "a"), str(archive / "b"), str(others), str(archive)}
    done = cli("sync", "--index", index, "--json").json
    assert (done["unchanged"], done["offline"], done["images"]) == (12, {}, 12)


def test_roots_below_a_folder_that_is_none(cli: Cli, make: Any, photos: Path, tmp_path: Path) -> None:
    index = make(photos / "a", photos / "b")
    archive = photos.rename(tmp_path / "archive")
    cli("relocate", photos, archive, "--index", index)
    assert set(Index.open(index).images.roots) == {str(archive / "a"), str(archive / "b")}


def test_into_itself_and_once_more(cli: Cli, make: Any, photos: Path) -> None:
    index = make(photos)
    (photos / "old").mkdir()
    for _ in range(2):
        cli("relocate", photos, photos / "old", "--index", index)
        assert Index.open(index).images.roots == [str(photos / "old")]


def test_into_a_folder_that_is_a_root(cli: Cli, make: Any, photos: Path, tmp_path: Path) -> None:
    """Of one name that both had one image stays, that whose file is there; of two names of one file one."""
    a, b, c = photos / "a", photos / "b", photos / "c"
    (a / "2.png").hardlink_to(b / "2.png")
    shutil.copy(b / "0.png", a / "0.png")
    (b / "0.png").write_bytes((a / "1.png").read_bytes())
    index = make(a, b)
    for path in a.iterdir():
        (b / path.name).unlink(missing_ok=True)
        path.rename(b / path.name)
    a.rmdir()
    cli("relocate", a, b, "--index", index)
    assert cli("info", "--index", index, "--json").json["roots"] == [str(b)]
    assert f"{b}/0.png is the file of two images" in cli("verify", "--index", index, status=1).out
    would = cli("sync", "--index", index, "--dry-run", "--json").json
    done = cli("sync", "--index", index, "--json").json
    assert done["images"] == would["images"] == len(list(b.iterdir())) == 10
    assert done["renamed"] == would["renamed"] == []
    assert cli("info", "--index", index, "--json").json["others"] == 0
    assert "sound" in cli("verify", "--index", index).out
    cli("relocate", b, b.rename(c), "--index", index)
    done = cli("sync", "--index", index, "--json").json
    assert (done["unchanged"], done["images"], done["offline"]) == (10, 10, {})


def test_what_was_indexed_whole_stays_so(
    cli: Cli, make: Any, photos: Path, tmp_path: Path, draw: Draw
) -> None:
    index = make(photos / "a/1.png", photos / "b")
    (photos / "a/1.png").rename(photos / "b/1.png")
    shutil.rmtree(photos / "a")
    cli("relocate", photos / "a", photos / "b", "--index", index)
    draw(photos / "b/new.png", 60)
    assert cli("sync", "--index", index, "--json").json["added"] == [str(photos / "b/new.png")]


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("verb", ["sync", "add"])
def test_a_folder_that_is_named_is_followed_whole_from_then_on(
    cli: Cli, make: Any, photos: Path, draw: Draw, verb: str, new: bool
) -> None:
    index = make(*photos.glob("a/*.png"))
    if new:
        draw(photos / "a/new.png", 60)
        assert cli("sync", "--index", index, "--json").json["images"] == 5
        would = cli("sync", photos / "a", "--index", index, "--dry-run", "--json").json
        assert would["added"] == [str(photos / "a/new.png")]
    cli(verb, photos / "a", "--index", index)
    assert cli("info", "--index", index, "--json").json["images"] == 5 + new
    draw(photos / "a/newer.png", 61)
    assert cli("sync", "--index", index, "--json").json["added"] == [str(photos / "a/newer.png")]
