"""Indexes with traps in them, or with files lost: nothing outside is touched, what is wrong is named and mended."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine import records
from instsearch_formats import Index

Cli = Callable[..., Any]
Draw = Callable[..., None]
NAME = "cells-centred-flat"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the index and its photographs are made once."""
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def photos(shelf: Path, draw: Draw) -> Path:
    """Ten photographs that no test changes."""
    for i in range(10 if not (shelf / "photos").exists() else 0):
        draw(shelf / "photos" / ("a" if i % 2 else "b") / f"{i}.png", i)
    return shelf / "photos"


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, shelf: Path, tmp_path: Path) -> Path:
    """A copy of an index of two pipelines, the other one the last; two images removed."""
    if not (whole := shelf / "i").exists():
        cli("index", photos, "--index", whole, *tiny, "--quiet")
        cli("index", "--index", whole, "--weighting", "bright", "--name", "other", "--quiet")
        for name in ("a/3.png", "b/4.png"):
            cli("remove", name, "--index", whole)
        cli("index", "--index", whole, "--quiet")
    shutil.copytree(whole, tmp_path / "i")
    return tmp_path / "i"


def state(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [folder, *folder.rglob("*")]
    }


def problems(cli: Cli, index: Path) -> dict[str, dict[str, str]]:
    found = cli("verify", "--index", index, "--json", status=1).json["problems"]
    assert all(problem["mend"] for problem in found)
    return {str(Path(problem["path"]).relative_to(index)): problem for problem in found}


def hits(cli: Cli, index: Path, picture: Path, *more: str) -> list[Any]:
    found: list[Any] = cli("query", picture, "--index", index, "--json", "-k", "30", *more).json["hits"]
    return found


def command(mend: str, n: int = 0) -> list[str]:
    """The n-th command that a remedy names, without the program's name."""
    return shlex.split(mend.split("`")[2 * n + 1])[1:]


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
    spared = {"lock", "stamps.txt"}  # which may be missing
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


# -- records of pipelines ---------------------------------------------------------------------------------------


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def digit(file: Path) -> None:
    text = file.read_text()
    at = text.index("models/") + text[text.index("models/") :].index("-") + 1
    file.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def deep(file: Path) -> None:
    file.write_text("[" * 200_000)


def bytes_(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" * 100)


@pytest.mark.parametrize("spoil", [half, digit, endless, pipe, deep, bytes_, Path.unlink])
@pytest.mark.parametrize("name", [NAME, "other"])
def test_a_damaged_record_is_named_and_mended(
    cli: Cli, index: Path, photos: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    sound = "other" if name == NAME else NAME
    query = photos / "a/1.png"
    expected = {n: hits(cli, index, query, "--pipeline", n) for n in (sound, name)}
    record = index / "pipelines" / f"{name}.json"
    layers = {info.path for info in Index.open(index).layers()}
    spoil(record)
    named = problems(cli, index)[f"pipelines/{name}.json"]
    assert hits(cli, index, query, "--pipeline", sound) == expected[sound]
    assert (
        "is damaged"
        in cli(
            "query",
            query,
            "--index",
            index,
            "--pipeline",
            name,
            status=1,
        ).err
    )
    answer = cli("query", query, "--index", index, "--json", "-k", "30").json
    assert answer["hits"] == expected[sound]
    assert (f"Pipeline '{sound}' is taken for it" in " ".join(answer["cautions"])) is (name == "other")
    failed = cli("gc", "--index", index, status=1).err
    assert f"--forget {name}" in failed
    assert "nothing is removed" in failed
    assert {info.path for info in Index.open(index).layers()} == layers
    cli(*command(named["mend"]), "--quiet")
    if name == NAME:
        cli("index", "--index", index, "--preset", index / "pipelines" / "other.toml", "--quiet")
    assert "sound" in cli("verify", "--index", index).out
    for n, before in expected.items():
        assert hits(cli, index, query, "--pipeline", n) == before
    cli("gc", "--index", index)
    assert {info.path for info in Index.open(index).layers()} == layers


def test_a_damaged_record_can_be_dropped(cli: Cli, index: Path, photos: Path) -> None:
    half(index / "pipelines" / "other.json")
    half(index / "pipelines" / "other.toml")
    mend = problems(cli, index)["pipelines/other.json"]["mend"]
    assert command(mend)[:3] == ["gc", "--forget", "other"]
    cli(*command(mend))
    assert "sound" in cli("verify", "--index", index).out
    assert sorted(p.name for p in (index / "pipelines").iterdir()) == ["LAST", f"{NAME}.json", f"{NAME}.toml"]
    assert hits(cli, index, photos / "a/1.png")


def test_a_text_beside_a_record_is_written_anew(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    before, query = hits(cli, index, photos / "a/1.png"), photos / "a/1.png"
    text = index / "pipelines" / "other.toml"
    told = text.read_bytes()
    (tmp_path / "outside").write_text("mine")
    for spoil in (
        half,
        Path.unlink,
        endless,
        lambda file: (file.unlink(), file.symlink_to(tmp_path / "outside")),
    ):
        spoil(text)
        mend = problems(cli, index)["pipelines/other.toml"]["mend"]
        assert hits(cli, index, query) == before
        cli(*command(mend))
        assert text.read_bytes() == told
        assert "sound" in cli("verify", "--index", index).out
    assert (tmp_path / "outside").read_text() == "mine"


def test_records_of_older_versions_are_read(cli: Cli, index: Path, photos: Path) -> None:
    before = hits(cli, index, photos / "a/1.png")
    for record in (index / "pipelines").glob("*.json"):
        whole = json.loads(record.read_text())
        record.write_text(json.dumps({name: whole[name] for name in ("layers", "facts")}, indent=1))
    assert hits(cli, index, photos / "a/1.png") == before
    assert "sound" in cli("verify", "--index", index).out
    assert cli("gc", "--index", index).out == "0 removed\n"
    part = next((index / "codes").rglob("*.h5"))
    part.unlink()
    assert str(part.relative_to(index)) in problems(cli, index)
    cli("index", "--index", index, "--preset", index / "pipelines" / f"{NAME}.toml", "--quiet")
    cli("index", "--index", index, "--preset", index / "pipelines" / "other.toml", "--quiet")
    assert "sound" in cli("verify", "--index", index).out
    record.write_text(json.dumps({name: whole[name] for name in ("layers", "facts")}))
    digit(record)
    models = Index.open(index).models()
    assert "is not there" in cli("gc", "--index", index, status=1).err
    assert Index.open(index).models() == models
    (index / "pipelines" / record.name).with_suffix(".toml").unlink()  # what a kill left half is none
    assert cli("info", "--index", index, "--json").json["pipelines"].keys() == {
        n for n in (NAME, "other") if n != record.stem
    }


def test_the_last_pipeline_forgotten_leaves_another_or_none(cli: Cli, index: Path, photos: Path) -> None:
    cli("gc", "--index", index, "--forget", "other")
    assert "sound" in cli("verify", "--index", index).out
    assert cli("info", "--index", index, "--json").json["last"] == NAME
    assert hits(cli, index, photos / "a/1.png")
    cli("gc", "--index", index, "--forget", NAME)
    assert not list((index / "pipelines").iterdir())
    assert "sound" in cli("verify", "--index", index).out
    assert "no searchable pipeline" in cli("query", photos / "a/1.png", "--index", index, status=1).err
    cli(
        "index",
        "--index",
        index,
        "--extractor",
        "cells",
        "--encoder",
        "centred",
        "--searcher",
        "scan",
        "--quiet",
    )
    assert hits(cli, index, photos / "a/1.png")


@pytest.mark.parametrize("name", ["a/b", "../x", "", ".x", "a b", "n" * 200, "a\nb"])
def test_a_pipelines_name_is_one_from_the_start(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, name: str
) -> None:
    preset = tmp_path / "p.toml"
    preset.write_text(
        f"name = {json.dumps(name)}\n[extractor]\nname = 'cells'\n"
        "[encoder]\nname = 'centred'\n[weighting]\nname = 'flat'\n"
    )
    run = ("index", photos, "--index", tmp_path / "j", "--preset", preset, "--quiet")
    if name:
        assert "--name takes" in cli(*run, status=2).err
        assert not (tmp_path / "j").exists()
    else:
        cli(*run)
        assert (tmp_path / "j" / "pipelines" / f"{NAME}.toml").exists()


# -- between two states -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is to the process that is killed."""


def test_a_run_that_was_stopped_while_files_changed_is_completed(
    cli: Cli, tiny: tuple[str, ...], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = tmp_path / "p", tmp_path / "i"
    for i in range(6):
        draw(folder / f"{i}.png", i)
    cli("index", folder, "--index", index, *tiny, "--quiet")
    shutil.copy(folder / "0.png", tmp_path / "old.png")
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
    folder, index = tmp_path / "p", tmp_path / "i"
    for i in range(5):
        draw(folder / f"{i}.png", i)
    cli("index", folder, "--index", index, *tiny, "--quiet")
    shutil.copy(folder / "0.png", tmp_path / "old.png")
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


@pytest.mark.parametrize(
    ("key", "value"), [("tombstones", 10**400), ("tombstones", -1), ("rows", {"codes/x": 10**12})]
)
def test_numbers_of_a_record_that_there_cannot_be(cli: Cli, index: Path, key: str, value: Any) -> None:
    path = index / "pipelines" / "other.json"
    used = json.loads(path.read_text()) | {key: value}
    used.pop("sha256")
    path.write_text(json.dumps(used | {"sha256": records._checksum(used)}))
    told = cli("verify", "--index", index, status=1)
    assert "other.json" in told.out
    assert "is no number of rows" in told.out
