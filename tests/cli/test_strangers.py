"""Indexes with traps in them, or with files lost: nothing outside is touched, what is wrong is named and mended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine.runner import Runner
from instsearch_formats import Index
from two_pipelines import NAME, command, hits, index, photos, problems, shelf, state

__all__ = ["index", "photos", "shelf"]  # fixtures

Cli = Callable[..., Any]
Draw = Callable[..., None]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


# -- what an index may touch ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scratch", "cache", "models", "images", "pipelines", "codes", "lock"])
def test_gc_names_a_link_and_touches_nothing(cli: Cli, index: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    for file in (
        "docs/thesis.tex",
        "film.partial",
        "x-0123456789ab.h5",
        "x-0123456789ab/part-0000000000-0000000008.h5",
    ):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text("mine\n" * 100)
    place, target = index / name, home / "docs" / "thesis.tex" if name == "lock" else home
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(target)
    before = state(home)
    failed = cli("gc", "--index", index, status=1)
    assert f"{place} is a link" in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert "is a link" in problems(cli, index)[name]["what"]
    for verb in (("info",), ("remove", "a/1.png"), ("index", "--quiet")):
        cli_status(cli, *verb, "--index", index)
    assert state(home) == before


def cli_status(cli: Cli, *arguments: object) -> Any:
    """Run a command that may fail with one or two lines, and may not crash."""
    try:
        return cli(*arguments)
    except AssertionError as error:
        outcome = error.args[0] if error.args else None
        assert "This is a bug" not in str(outcome)
        return outcome


def test_dry_runs_write_nothing(cli: Cli, index: Path) -> None:
    (index / "scratch" / "left").mkdir(parents=True)
    before = state(index)
    cli("gc", "--index", index, "--dry-run", "--forget", "other", "--cache")
    assert state(index) == before
    (index / "lock").unlink()
    before = state(index)
    cli("gc", "--index", index, "--dry-run")
    assert state(index) == before


def test_a_moved_index_behind_a_link_works(
    cli: Cli, index: Path, photos: Path, draw: Draw, tmp_path: Path
) -> None:
    before = hits(cli, index, photos / "a/1.png")
    index.rename(tmp_path / "far")
    index.symlink_to(tmp_path / "far")
    assert hits(cli, index, photos / "a/1.png") == before
    draw(tmp_path / "more" / "new.png", 77)
    cli("add", tmp_path / "more", "--index", index)
    cli("gc", "--index", index)
    assert "sound" in cli("verify", "--index", index).out


# -- what verify knows of -------------------------------------------------------------------------------------


def test_verify_names_whatever_is_missing(cli: Cli, index: Path, tmp_path: Path) -> None:
    assert "sound" in cli("verify", "--index", index).out
    spared = {"lock", "names.txt", "stamps.txt"}  # which may be missing
    for file in sorted(
        p.relative_to(index) for p in index.rglob("*") if p.is_file() and p.name not in spared
    ):
        (index / file).rename(tmp_path / "aside")
        if file.name == "format.json":
            assert "format.json" in cli("verify", "--index", index, status=1).err
        else:
            named = problems(cli, index)
            folders = {str(file), str(file.parent), *(str(p) for p in file.parents)}
            assert folders & named.keys() or file.name == "roots.json", (file, named)
            assert (
                cli("verify", "--index", index, "--quiet", status=1).out.splitlines()[0].endswith("mends it.")
            )
        (tmp_path / "aside").rename(index / file)
    assert "sound" in cli("verify", "--index", index).out


def test_the_command_that_verify_names_makes_what_is_missing_or_damaged(
    cli: Cli, index: Path, photos: Path
) -> None:
    expected = {name: hits(cli, index, photos / "a/1.png", "--pipeline", name) for name in (NAME, "other")}
    for kind in ("weights", "codes", "search", "models"):
        for file in sorted((index / kind).rglob("*.h5")):
            file.unlink()
            [named] = {problem["mend"] for problem in problems(cli, index).values()}
            cli(*command(named), "--quiet")
            assert "sound" in cli("verify", "--index", index).out, named
        for name, before in expected.items():
            now = hits(cli, index, photos / "a/1.png", "--pipeline", name)
            assert len(now) == 8
            assert now == before or kind == "models", (kind, name)  # fitted on the images that are left
    part = next((index / "codes").rglob("*.h5"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    named = problems(cli, index)[str(part.relative_to(index))]["mend"]
    assert "once it is deleted" in named
    part.unlink()
    cli(*command(named), "--quiet")
    assert "sound" in cli("verify", "--index", index).out


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_tombstone_is_missed_and_put_again(cli: Cli, index: Path, photos: Path, number: int) -> None:
    lost = index / "images" / f"removed-{number:010d}.h5"
    lost.unlink()
    named = problems(cli, index)[f"images/{lost.name}"]
    assert "are found again" in named["what"]
    assert "instsearch remove" in named["mend"]
    name = ("a/3.png", "b/4.png")[number]
    assert name in {hit["image"] for hit in hits(cli, index, photos / name)}
    cli("remove", name, "--index", index)
    assert "sound" in cli("verify", "--index", index).out
    assert not {"a/3.png", "b/4.png"} & {hit["image"] for hit in hits(cli, index, photos / name)}


def test_a_part_that_is_a_link_is_no_part(cli: Cli, index: Path, tmp_path: Path) -> None:
    part = next((index / "codes").rglob("*.h5"))
    part.rename(tmp_path / part.name)
    part.symlink_to(tmp_path / part.name)
    assert "is a link" in problems(cli, index)[str(part.relative_to(index))]["what"]


# -- between two states -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is to the process that is killed."""


def indexed(cli: Cli, draw: Draw, tmp_path: Path, n: int, *how: str) -> tuple[Path, Path]:
    """A folder of n pictures and an index of it; old.png is the first one as it is now."""
    folder, index = tmp_path / "p", tmp_path / "i"
    for i in range(n):
        draw(folder / f"{i}.png", i)
    cli("index", folder, "--index", index, *how, "--quiet")
    shutil.copy(folder / "0.png", tmp_path / "old.png")
    return folder, index


def test_a_run_that_was_stopped_while_files_changed_is_completed(
    cli: Cli, tiny: tuple[str, ...], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = indexed(cli, draw, tmp_path, 6, *tiny)
    before = hits(cli, index, tmp_path / "old.png")
    draw(folder / "0.png", 60, (72, 48))
    real = os.replace

    def killed(source: Any, target: Any, **how: Any) -> None:
        if Path(target).parent.name.startswith("scan-") or Path(target).name.startswith("removed-"):
            raise Killed
        real(source, target, **how)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        cli("add", folder, "--index", index, "--quiet")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake_plugins" / "tiny"))
    assert hits(cli, index, tmp_path / "old.png") == before
    assert Index.open(index).images.replacing() == {0: 6}
    assert cli("verify", "--index", index).out.startswith("sound: 7 image rows")
    (index / "replacing.json").unlink()  # as if killed before it was there
    assert hits(cli, index, tmp_path / "old.png") == before
    draw(folder / "0.png", 61, (64, 56))  # and it changes once more
    cli("add", folder, "--index", index, "--quiet")
    after = hits(cli, index, folder / "0.png")
    assert after[0]["image"] == "0.png"
    assert sorted(hit["image"] for hit in after) == [f"{i}.png" for i in range(6)]
    assert Index.open(index).images.removed() == {0: "changed", 6: "changed"}
    assert cli("info", "--index", index, "--json").json["images"] == 6
    cli("remove", "0.png", "--index", index)
    assert "0.png" not in {hit["image"] for hit in hits(cli, index, folder / "0.png")}


def test_what_a_killed_run_was_replacing_is_not_lost_by_making_another_pipeline(
    cli: Cli, tiny: tuple[str, ...], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = indexed(cli, draw, tmp_path, 6, *tiny, "--name", "first")
    asked = tmp_path / "old.png", "--pipeline", "first"
    before = hits(cli, index, *asked)
    draw(folder / "0.png", 60, (72, 48))

    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "index_all", killed)
        with pytest.raises(Killed):
            cli("add", folder, "--index", index, "--quiet")
    cli("index", "--index", index, *tiny, "--set", "extractor.side=5", "--name", "second", "--quiet")
    assert hits(cli, index, *asked) == before
    after = hits(cli, index, folder / "0.png", "--pipeline", "second")
    assert [hit["image"] for hit in after].count("0.png") == 1
    assert after[0]["image"] == "0.png"
    assert after[0]["score"] == pytest.approx(1)
    assert "sound" in cli("verify", "--index", index).out
    cli("add", folder, "--index", index, "--pipeline", "first", "--quiet")
    assert Index.open(index).images.removed() == {0: "changed"}
    assert not (index / "replacing.json").exists()
    assert hits(cli, index, folder / "0.png", "--pipeline", "first")[0]["score"] == pytest.approx(1)


def test_remove_and_relocate_may_be_repeated(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    for images in (("a/1.png",), (photos / "b",), (photos / "a" / "5.png",)):
        first = cli("remove", *images, "--index", index, "--json").json
        assert first["removed"] > 0
        again = cli("remove", *images, "--index", index, "--json").json
        assert again == {"removed": 0, "left": first["left"]}
    assert "no image 'a/11.png'" in cli("remove", "a/11.png", "--index", index, status=1).err
    (tmp_path / "moved").mkdir()
    done = cli("relocate", photos, tmp_path / "moved", "--index", index, "--json").json
    assert cli("relocate", photos, tmp_path / "moved", "--index", index, "--json").json == done
    assert "has no images under" in cli("relocate", photos, tmp_path, "--index", index, status=1).err


def test_extracting_changed_files_leaves_the_answer_until_they_are_indexed(
    cli: Cli, tiny: tuple[str, ...], draw: Draw, tmp_path: Path
) -> None:
    folder, index = indexed(cli, draw, tmp_path, 5, *tiny)
    before = hits(cli, index, tmp_path / "old.png", "--pipeline", NAME)
    draw(folder / "0.png", 60, (72, 48))
    cli("extract", folder, "--index", index, "--quiet")
    assert hits(cli, index, tmp_path / "old.png", "--pipeline", NAME) == before
    cli("add", folder, "--index", index, "--pipeline", NAME, "--quiet")
    after = hits(cli, index, folder / "0.png", "--pipeline", NAME)
    assert sorted(hit["image"] for hit in after) == [f"{i}.png" for i in range(5)]
    assert Index.open(index).images.removed() == {0: "changed"}
    assert not (index / "replacing.json").exists()
    assert "sound" in cli("verify", "--index", index).out


def test_gc_forget_may_be_repeated(
    cli: Cli, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when the record is gone, and the layers are not."""

    def killed(*where: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Index, "remove_text", killed)
        cli("gc", "--forget", "other", "--index", index, status=130)
    assert (index / "pipelines" / "other.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Index, "gc", killed)
        cli("gc", "--forget", "other", "--index", index, status=130)
    assert "no pipeline 'othr'" in cli("gc", "--forget", "othr", "--index", index, status=2).err
    assert cli("gc", "--forget", "other", "--index", index, "--json").json["removed"]
    assert "no pipeline 'other'" in cli("gc", "--forget", "other", "--index", index, status=2).err


def test_a_note_of_removed_images_that_is_gone_is_said_by_the_query(
    cli: Cli, index: Path, photos: Path
) -> None:
    cli("index", "--index", index, "--quiet")
    last = sorted((index / "images").glob("removed-*.h5"))[-1]
    last.unlink()
    answer = cli("query", photos / "a" / "1.png", "--index", index, "--json")
    assert "1 notes of removed images are missing" in " ".join(answer.json["cautions"])
    assert "may be found again" in answer.err
