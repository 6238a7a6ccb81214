"""Files that were moved, and files of several names: the images stay, nothing of them is computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instsearch_formats import Index

Cli = Callable[..., Any]
Draw = Callable[..., None]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


@pytest.fixture
def run(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> Callable[..., Any]:
    """``run(path...)``: take them into the index."""

    def call(*paths: object) -> Any:
        chosen = () if (tmp_path / "i").exists() else tiny
        return cli("index", *paths, "--index", tmp_path / "i", "--json", *chosen).json

    return call


@pytest.fixture
def hits(cli: Cli, tmp_path: Path) -> Callable[[Path], list[str]]:
    """The names of the images, those most like a picture first."""

    def call(picture: Path) -> list[str]:
        found = cli("query", picture, "--index", tmp_path / "i", "--json", "-k", "99").json["hits"]
        return [hit["image"] for hit in found]

    return call


def table(tmp_path: Path) -> Any:
    return Index.open(tmp_path / "i").images


def live(tmp_path: Path) -> dict[int, str]:
    images = table(tmp_path)
    return {row: images.name(row) for row in np.flatnonzero(images.alive()).tolist()}


def rename(photos: Path, *pairs: tuple[str, str]) -> None:
    """Rename files, all at once."""
    for i, (old, _) in enumerate(pairs):
        (photos / old).rename(photos / f"{i}.aside")
    for i, (_, new) in enumerate(pairs):
        (photos / new).parent.mkdir(exist_ok=True)
        (photos / f"{i}.aside").replace(photos / new)


@pytest.mark.parametrize(
    "pairs",
    [
        [("a/1.png", "a/x.png")],
        [("a/1.png", "c/1.png")],
        [("a/1.png", "b/4.png"), ("b/4.png", "a/1.png")],
        [("a/1.png", "a/3.png"), ("a/3.png", "a/5.png"), ("a/5.png", "a/1.png")],
        [("a/1.png", "a/3.png"), ("a/3.png", "a/5.png"), ("a/5.png", "a/7.x.png")],
    ],
    ids=["name", "folder", "swap", "circle", "chain"],
)
def test_a_renamed_file_keeps_its_row(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    run(photos)
    before = live(tmp_path)
    rename(photos, *pairs)
    done = run(photos)
    assert (done["indexed"], done["there"], done["renamed"], done["written"]) == (0, 10, len(pairs), {})
    new = dict(pairs)
    assert live(tmp_path) == {row: new.get(name, name) for row, name in before.items()}
    for name in new.values():
        assert hits(photos / name)[0] == name
    assert len(hits(photos / "b/0.png")) == 10
    assert run(photos)["renamed"] == 0
    assert len(list((tmp_path / "i" / "images").iterdir())) == 2
    assert "sound" in cli("verify", "--index", tmp_path / "i").out


def test_an_open_index_and_every_verb_see_the_new_name(
    cli: Cli, run: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    import instsearch

    run(photos)
    index = instsearch.open(tmp_path / "i")
    index.query(photos / "a/1.png")
    rename(photos, ("a/1.png", "b/new.png"))
    run(photos)
    hit = index.query(photos / "b/new.png")[0]
    assert (hit.image, hit.path) == ("b/new.png", photos / "b/new.png")
    assert "b/new.png" in index.images
    assert "a/1.png" not in index.images
    assert index.path_of("b/new.png") == photos / "b/new.png"
    shown = cli("show", "b/new.png", "--index", tmp_path / "i", "--out", tmp_path / "s.png", "--json").json
    assert shown["image"] == str(photos / "b/new.png")
    cli("index", "--index", tmp_path / "i", "--weighting", "bright")  # which reads it where it is now
    assert "no image 'a/1.png'" in cli("remove", "a/1.png", "--index", tmp_path / "i", status=1).err
    assert "removed 1, 9 left" in cli("remove", "b/new.png", "--index", tmp_path / "i").out


def test_a_rename_and_another_weighting_in_one_run(
    cli: Cli, run: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    run(photos)
    rename(photos, ("a/1.png", "b/new.png"))
    done = cli("index", photos, "--index", tmp_path / "i", "--weighting", "bright", "--json").json
    assert (done["renamed"], done["written"]["weights"]) == (1, 10)


def test_onto_the_name_of_an_image_that_was_removed(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path
) -> None:
    run(photos)
    cli("remove", "a/3.png", "--index", tmp_path / "i")
    rename(photos, ("a/1.png", "a/3.png"))
    done = run(photos)
    assert (done["indexed"], done["renamed"]) == (0, 1)
    assert hits(photos / "a/3.png")[0] == "a/3.png"
    assert len(hits(photos / "a/3.png")) == 9


def test_onto_the_name_of_an_image_that_is_there(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path
) -> None:
    run(photos)
    rows = {name: row for row, name in live(tmp_path).items()}
    rename(photos, ("a/1.png", "a/3.png"))
    done = run(photos)
    assert (done["indexed"], done["renamed"], done["written"]) == (0, 1, {})
    assert table(tmp_path).removed() == {rows["a/3.png"]: "changed"}
    assert live(tmp_path)[rows["a/1.png"]] == "a/3.png"
    assert hits(photos / "a/3.png")[0] == "a/3.png"
    assert len(hits(photos / "a/3.png")) == 9


def test_onto_the_name_of_a_file_that_could_not_be_read(
    run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "a/3.png").read_bytes()
    (photos / "a/3.png").write_bytes(whole[: len(whole) // 2])
    assert len(run(photos)["skipped"]) == 1
    rename(photos, ("a/1.png", "a/3.png"))
    for _ in range(2):
        done = run(photos)
        assert (done["indexed"], done["there"], done["skipped"]) == (0, 9, [])
    assert hits(photos / "a/3.png")[0] == "a/3.png"


def test_a_moved_file_and_a_new_one_in_its_place(
    run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, draw: Draw
) -> None:
    run(photos)
    rename(photos, ("a/1.png", "a/moved.png"))
    draw(photos / "a/1.png", 77)
    done = run(photos)
    assert (done["indexed"], done["there"], done["renamed"]) == (1, 10, 1)
    assert hits(photos / "a/1.png")[0] == "a/1.png"
    assert hits(photos / "a/moved.png")[0] == "a/moved.png"
    assert table(tmp_path).removed() == {}


def test_between_two_folders_that_are_indexed(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path
) -> None:
    run(photos / "a", photos / "b")
    (photos / "a/1.png").rename(photos / "b/1.png")
    done = cli("add", photos / "b", "--index", tmp_path / "i", "--json").json
    assert (done["indexed"], done["there"], done["renamed"]) == (0, 6, 1)
    assert hits(photos / "b/1.png")[0] == "1.png"
    assert table(tmp_path).path(0) == photos / "b" / "1.png"


def test_copies_that_move_together_keep_their_own_names(
    run: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    for name in ("x.png", "y.png"):
        (photos / "a" / name).write_bytes((photos / "a/1.png").read_bytes())
    run(photos)
    before = live(tmp_path)
    (photos / "a").rename(photos / "z")
    assert run(photos)["renamed"] == 7
    assert live(tmp_path) == {row: name.replace("a/", "z/") for row, name in before.items()}


def test_where_maps_go_by_names_a_renamed_file_is_made_anew(
    cli: Cli, run: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    run(photos)
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in photos.rglob("*.png"):
        np.save(maps / path.stem, np.full((6, 8), int(path.stem) + 1, np.uint8))
    flags = ("--weighting", "maps", "--set", f"weighting.folder={maps}", "--name", "maps")
    cli("index", "--index", tmp_path / "i", *flags)
    rename(photos, ("a/1.png", "a/3.png"), ("a/3.png", "a/1.png"))
    done = run(photos)
    assert (done["indexed"], done["written"]["weights"]) == (2, 2)
    assert sorted(table(tmp_path).removed().values()) == ["renamed", "renamed"]
    assert sorted(live(tmp_path).values()) == sorted(f"{'ba'[i % 2]}/{i}.png" for i in range(10))


# -- several names of one file -----------------------------------------------------------------------------


@pytest.fixture(params=["symbolic", "hard"])
def link(request: pytest.FixtureRequest) -> Callable[[Path, Path], None]:
    """``link(old, new)``: give a file another name."""

    def call(old: Path, new: Path) -> None:
        new.parent.mkdir(exist_ok=True, parents=True)
        new.symlink_to(old) if request.param == "symbolic" else new.hardlink_to(old)

    return call


def test_a_file_of_two_names_is_one_image(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, link: Any
) -> None:
    link(photos / "a/1.png", photos / "z.png")
    run(photos)
    out = cli("index", photos, "--index", tmp_path / "i").out
    assert "found 11 = indexed 0 + already there 10 + skipped 1" in out
    assert "1 is another name of photographs that are there" in out
    assert cli("info", "--index", tmp_path / "i", "--json").json["images"] == 10
    assert len(hits(photos / "z.png")) == 10
    for name in ("a/1.png", "z.png", photos / "z.png"):
        drawn = cli("show", name, "--index", tmp_path / "i", "--out", tmp_path / "s.png", "--json").json
        assert Path(drawn["image"]).samefile(photos / "a/1.png")
    assert "sound" in cli("verify", "--index", tmp_path / "i").out
    assert "removed 1, 9 left" in cli("remove", "z.png", "--index", tmp_path / "i").out


def test_by_two_folders_in_two_runs(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, link: Any
) -> None:
    for path in photos.glob("a/*.png"):
        link(path, tmp_path / "other" / path.name)
    (tmp_path / "other" / "copy.png").write_bytes((photos / "a/1.png").read_bytes())
    run(photos)
    for _ in range(2):
        done = run(tmp_path / "other")
        assert (done["found"], done["there"] + done["indexed"], done["others"]) == (6, 6, 5)
    assert cli("info", "--index", tmp_path / "i", "--json").json["images"] == 11
    assert sorted(hits(photos / "a/1.png"))[-1] == "copy.png"
    assert len(hits(photos / "a/1.png")) == 11
    done = run(photos, tmp_path / "other")
    assert (done["indexed"], done["written"]) == (0, {})
    assert cli("info", "--index", tmp_path / "i", "--json").json["images"] == 11


@pytest.mark.parametrize("other", ["z.png", "zz/z.png"], ids=["the-first-went", "the-second-went"])
def test_an_image_stays_under_its_other_name(
    cli: Cli, run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, other: str
) -> None:
    (photos / other).parent.mkdir(exist_ok=True)
    (photos / other).hardlink_to(photos / "a/1.png")
    run(photos)
    (photos / "a/1.png").unlink()
    done = run(photos)
    assert (done["indexed"], done["there"], done["written"]) == (0, 10, {})
    assert hits(photos / other)[0] == other
    assert table(tmp_path).others() == {}
    (photos / "a/1.png").write_bytes((photos / other).read_bytes())  # a copy is an image of its own
    assert run(photos)["indexed"] == 1
    assert len(hits(photos / other)) == 11


def test_a_name_that_becomes_another_file(
    run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, draw: Draw
) -> None:
    (photos / "z.png").hardlink_to(photos / "a/1.png")
    run(photos)
    (photos / "z.png").unlink()
    draw(photos / "z.png", 88)
    assert (run(photos)["indexed"], len(live(tmp_path))) == (1, 11)
    assert hits(photos / "z.png")[0] == "z.png"
    assert hits(photos / "a/1.png")[0] == "a/1.png"
    assert table(tmp_path).others() == {}


def test_content_that_changes_under_both_names(
    run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path, draw: Draw
) -> None:
    (photos / "z").mkdir()
    (photos / "z/1.png").hardlink_to(photos / "a/1.png")
    run(photos)
    draw(tmp_path / "new.png", 99)
    (photos / "a/1.png").write_bytes((tmp_path / "new.png").read_bytes())
    assert run(photos)["indexed"] == 1
    assert sorted(live(tmp_path).values()) == sorted(f"{'ba'[i % 2]}/{i}.png" for i in range(10))
    assert table(tmp_path).others() == {10: ((0, b"z/1.png"),)}
    assert len(hits(photos / "z/1.png")) == 10


def test_two_images_that_become_one_file(
    run: Callable[..., Any], hits: Any, photos: Path, tmp_path: Path
) -> None:
    run(photos)
    (photos / "a/3.png").unlink()
    (photos / "a/3.png").hardlink_to(photos / "a/1.png")
    assert (run(photos)["indexed"], len(live(tmp_path))) == (0, 9)
    assert len(hits(photos / "a/3.png")) == 9


@pytest.mark.parametrize("number", [0, 7])
def test_inodes_that_say_nothing_merge_no_files(
    run: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Network disks that have no inode numbers, or one for all."""
    real = os.stat

    class Status:
        st_ino, st_nlink, st_mtime_ns, st_ctime_ns = number, 2, 5, 5

        def __init__(self, status: os.stat_result) -> None:
            self._status = status

        def __getattr__(self, name: str) -> Any:
            return getattr(self._status, name)

    whole = max(path.stat().st_size for path in photos.rglob("*.png"))
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes().ljust(whole, b"\0"))
    (photos / "copy.png").write_bytes((photos / "a/1.png").read_bytes())
    found = {path.name for path in photos.rglob("*.png")}

    def stat(path: Any, *more: Any, **how: Any) -> Any:
        status = real(path, *more, **how)
        return Status(status) if str(path).endswith(".png") else status

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        run(photos)
    names = {name.rsplit("/", 1)[-1] for name in live(tmp_path).values()}
    assert len(found - names) == (0 if number == 0 else 1)  # the copy is equal in all that can be said of it
    assert len(live(tmp_path)) == (11 if number == 0 else 10)
