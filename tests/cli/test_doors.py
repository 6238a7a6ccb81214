"""What a person meets: exit statuses, errors as JSON, the default index, what is understood of a box, what is next."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import instsearch
from instsearch_formats import Index

Cli = Callable[..., Any]


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--quiet")
    return tmp_path / "i"


def test_the_package_is_the_program() -> None:
    told = subprocess.run([sys.executable, "-m", "instsearch_cli", "--help"], capture_output=True, check=True)
    assert b"Visual instance search" in told.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_output_that_takes_nothing(flags: list[str]) -> None:
    command = [sys.executable, "-m", "instsearch_cli", "presets", *flags]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No space left on device")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(index: Path, closed: str) -> None:
    command = f"{sys.executable} -m instsearch_cli verify --index '{index}' {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("sound" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m instsearch_cli presets --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[", "")


@pytest.mark.parametrize(
    ("name", "unless_set"), [("OPENBLAS_THREAD_TIMEOUT", "4"), ("GOMP_SPINCOUNT", "1000")]
)
def test_threads_with_nothing_to_do_sleep(
    monkeypatch: pytest.MonkeyPatch, name: str, unless_set: str
) -> None:
    code = f"import os, instsearch_cli.main; print(os.environ['{name}'])"
    monkeypatch.delenv(name, raising=False)
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == unless_set
    monkeypatch.setenv(name, "20")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "20"


def test_the_default_index_is_that_of_the_environment(
    cli: Cli, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "INSTSEARCH_INDEX" in cli("query", photos / "a/1.png", status=2).err
    monkeypatch.setenv("INSTSEARCH_INDEX", str(index))
    assert cli("query", photos / "a/1.png", "--json").json["index"] == [str(index)]
    assert cli("info").out.startswith(f"{index}: 10 images\n")


@pytest.mark.parametrize("flag", ["--csv", "--sheet", "--weighting"])
def test_an_option_given_twice_is_refused(cli: Cli, index: Path, photos: Path, flag: str) -> None:
    verb = ("index", photos) if flag == "--weighting" else ("query", photos / "a/1.png")
    told = cli(*verb, "--index", index, flag, "1,1,9,9", flag, "2,2,9,9", status=2)
    assert told.err == f"error: {flag} is given twice: once is all it takes\n"


def test_errors_are_json_too(cli: Cli, index: Path, photos: Path) -> None:
    told = cli("query", photos / "none.png", "--index", index, "--json", status=1)
    assert told.json["status"] == 1
    assert told.err == f"error: {told.json['error']}\n"
    told = cli("query", photos / "a/1.png", "--index", index, "--json", "--box", "1,2,3", status=2)
    assert told.json["status"] == 2
    assert "--box takes x,y,w,h" in told.json["error"]
    assert cli("query", photos / "a/1.png", "--json", "--no-such", status=2).json["status"] == 2


def test_an_index_in_use_is_status_3_or_is_waited_for(cli: Cli, index: Path, photos: Path) -> None:
    holder = Index.open(index)
    with holder.lock():
        told = cli("add", photos, "--index", index, "--json", status=3)
        assert told.json["status"] == 3
        assert "is being written to by process" in told.err
        assert "0.2 s were not enough" in cli("add", photos, "--index", index, "--wait", 0.2, status=3).err
        with pytest.raises(instsearch.InstsearchError, match="were not enough"):
            instsearch.open(index, wait=0.1).add(photos)

    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        with Index.open(index).lock():
            taken.set()
            free.wait(30)
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    free.set()
    told = cli("add", photos, "--index", index, "--wait", 30)
    thread.join()
    assert told.out.startswith("found 10 = indexed 0 + already there 10")
    assert told.err.count(": waiting") == 1


# Boxes


def test_a_box_is_echoed_as_it_was_understood(cli: Cli, index: Path, photos: Path) -> None:
    told = cli("query", photos / "a/1.png", "--index", index, "--box", "8,8,32,24")
    assert told.err.endswith("a/1.png: box 8,8,32,24 (x,y,w,h) of the picture's 64 x 48, 25 % of it\n")
    asked = cli("query", photos / "a/1.png", "--index", index, "--box", "8,8,32,24", "--json").json
    view = {"image": str(photos / "a/1.png"), "size": [64, 48], "box": [8, 8, 32, 24]}
    assert asked["query"] == {**view, "views": [view], "against": []}
    assert asked["cautions"] == []


def test_corners_are_suspected_and_fractions_refused(cli: Cli, index: Path, photos: Path) -> None:
    told = cli("query", photos / "a/1.png", "--index", index, "--box", "32,24,60,44", "--json")
    (caution,) = told.json["cautions"]
    assert "reaches beyond the picture's 64 x 48; if these are its corners, ask for 32,24,28,20" in caution
    assert f"warning: {caution}" in told.err
    assert told.json["query"]["box"] == [32, 24, 32, 24]
    told = cli("query", photos / "a/1.png", "--index", index, "--box", "0.25,0.5,0.5,0.5", status=2)
    assert "of the picture's 64 x 48.\nIf these are fractions of it, give 16,24,32,24" in told.err
    with pytest.raises(instsearch.UsageError, match="fractions"):
        instsearch.open(index).query(photos / "a/1.png", box=(0, 0, 1, 1))


def test_without_a_box_it_says_how_to_give_one(cli: Cli, index: Path, photos: Path) -> None:
    told = cli("query", photos / "a/1.png", "--index", index)
    assert "the whole picture, 64 x 48 pixels\n" in told.err
    assert "--box 16,12,32,24" in told.err


# Pictures and answers by other doors


def test_a_picture_from_standard_input(
    cli: Cli, index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    stdin((photos / "a/1.png").read_bytes())
    by_stream = cli("query", "-", "--index", index, "--box", "8,8,32,24", "--json").json
    by_file = cli("query", photos / "a/1.png", "--index", index, "--box", "8,8,32,24", "--json").json
    assert by_stream["query"]["image"] == "standard input"
    assert by_stream["hits"] == by_file["hits"]
    stdin(b"no picture at all")
    assert cli("query", "-", "--index", index, status=1).err.startswith("error: standard input: ")


def test_a_turned_picture_from_standard_input_is_upright(
    cli: Cli, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.effect_noise((64, 48), 60).save(data, "JPEG", exif=exif)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.getvalue())))
    assert cli("query", "-", "--index", index, "--json").json["query"]["size"] == [48, 64]


def test_csv_pages_and_copies(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    ask = ("query", photos / "a/1.png", "--index", index, "-k", 3)
    lines = cli(*ask, "--csv", "-").out.splitlines()
    assert lines[0].startswith("rank,score,image,path,")
    assert len(lines) == 4
    assert cli(*ask, "--html", "-").out.startswith("<!doctype html>")
    told = cli(*ask, "--csv", tmp_path / "hits.csv", "--copy-to", tmp_path / "copies")
    assert f"wrote {tmp_path / 'hits.csv'}\nwrote 3 photographs into {tmp_path / 'copies'}\n" in told.out
    assert (tmp_path / "hits.csv").read_text().splitlines() == lines
    assert "both go to standard output" in cli(*ask, "--csv", "-", "--json", status=2).err
    assert "there is no folder" in cli(*ask, "--html", tmp_path / "no" / "x.html", status=2).err
    assert "is a folder" in cli(*ask, "--csv", tmp_path, status=2).err


# Names


def test_two_folders_with_one_name_are_told_apart(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> None:
    from_first = tmp_path / "first" / "photos"
    for i, root in enumerate((from_first, tmp_path / "second" / "photos")):
        (root / "sub").mkdir(parents=True)
        for name in ("x.png", "sub/same.png", f"own{i}.png"):
            planes = [PIL.Image.effect_noise((64, 48), 60 + 20 * i + len(name)) for _ in "RGB"]
            PIL.Image.merge("RGB", planes).save(root / name)
    index = tmp_path / "i"
    cli("index", from_first, tmp_path / "second" / "photos", "--index", index, *tiny)
    hits = cli("query", from_first / "x.png", "--index", index, "--json").json["hits"]
    names = {hit["image"]: hit for hit in hits}
    assert set(names) == {
        *("own0.png", "own1.png"),
        *("first/photos/x.png", "second/photos/x.png"),
        *("first/photos/sub/same.png", "second/photos/sub/same.png"),
    }
    assert names["second/photos/x.png"]["path"] == str(tmp_path / "second/photos/x.png")
    assert names["second/photos/x.png"]["root"] == str(tmp_path / "second/photos")
    opened = instsearch.open(index)
    assert set(opened.images) == set(names)
    first, second = (np.asarray(opened.codes(f"{which}/photos/x.png")) for which in ("first", "second"))
    assert (first != second).any()
    told = cli("show", "x.png", "--index", index, status=1).err
    assert "'x.png' is the name of 2 images: 'first/photos/x.png', 'second/photos/x.png'" in told
    for name in names:
        cli("show", name, "--index", index, "-o", tmp_path / "shown.png")
    assert "is the name of 2 images" in cli("remove", "x.png", "--index", index, status=1).err
    assert cli("remove", "second/photos/x.png", "--index", index).out == "removed 1, 5 left\n"
    left = {
        hit["image"] for hit in cli("query", from_first / "own0.png", "--index", index, "--json").json["hits"]
    }
    assert "x.png" in left  # the only one of its name


# What a run says


def test_an_encoder_starts_a_new_pipeline_and_anything_else_changes_the_last(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    flags = (
        "--extractor",
        "cells",
        "--set",
        "extractor.side=8",
        "--encoder",
        "centred",
        "--searcher",
        "scan",
    )
    cli("index", photos, "--index", index, *flags)

    def config(*more: object) -> tuple[dict[str, Any], list[str]]:
        report = cli("index", "--index", index, "--json", *more).json
        return report["config"], report["inherited"]

    found, inherited = config("--weighting", "gaussian", "--set", "weighting.sigma=0.5")
    assert found["weighting"] == {"name": "gaussian", "options": {"sigma": 0.5}}
    assert found["encoder"]["name"] == "centred"
    assert inherited == ["extractor", "encoder", "searcher"]
    found, inherited = config(
        "--encoder", "centred", "--searcher", "scan"
    )  # as if it were the first of the two
    assert found["weighting"]["name"] == "none"
    assert found["extractor"]["options"] == {"side": 8}
    assert inherited == ["extractor"]
    cli("index", "--index", index, "--weighting", "bright")
    told = cli("index", "--index", index, "--detector", "halves").err
    assert "pipeline cells-centred-bright-halves\n" in told
    lines = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert lines["weighting"] == "bright  [from the last pipeline]"
    assert lines["detector"] == "halves"
    assert lines["extractor"] == "cells (side=8)  [from the last pipeline]"
    found, inherited = config("--extractor", "cells", "--encoder", "centred", "--searcher", "scan")
    assert found["extractor"]["options"] == {
        "side": 8
    }  # features are kept where the extractor is named again
    assert inherited == ["extractor"]


def test_a_run_ends_with_what_to_type_next(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = cli("index", photos, "--index", tmp_path / "i", *tiny).out.splitlines()[-1]
    assert told.startswith("next: instsearch query ")
    assert "10 hits among 10 images" in cli(*told.split()[2:]).out
    told = cli("extract", photos, "--index", tmp_path / "e", "--extractor", "cells").out.splitlines()[-1]
    assert told == f"next: instsearch index --index {tmp_path / 'e'}"


@pytest.mark.parametrize("wrong", ["no folder", "no picture", "no encoder", "no image that can be read"])
def test_a_failed_run_leaves_nothing(cli: Cli, tiny: tuple[str, ...], tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if wrong == "no image that can be read":
        (folder / "x.png").write_bytes(b"nothing")
    images = tmp_path / "nowhere" if wrong == "no folder" else folder
    flags = (*tiny[:2], "--encoder", "no-such") if wrong == "no encoder" else tiny
    status = 2 if wrong == "no encoder" else 1
    cli("index", images, "--index", tmp_path / "new", *flags, status=status)
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    cli("index", images, "--index", tmp_path / "there", *flags, status=status)
    assert not list((tmp_path / "there").iterdir())
    if wrong == "no picture":
        cli("index", folder, "--index", folder, *flags, status=1)
        assert not list(folder.iterdir())


def test_a_failed_run_leaves_what_was_there(cli: Cli, index: Path, tmp_path: Path) -> None:
    before = sorted(p.relative_to(index) for p in index.rglob("*"))
    cli("index", tmp_path / "nowhere", "--index", index, status=1)
    assert sorted(p.relative_to(index) for p in index.rglob("*")) == before


def test_info_says_how_a_pipeline_that_is_not_the_last_is_finished(
    cli: Cli, tiny: tuple[str, ...], index: Path, photos: Path
) -> None:
    cli("index", "--index", index, *tiny, "--set", "encoder.power=2", "--name", "other")
    shutil.copy(photos / "a/1.png", photos / "new.png")
    cli("index", photos / "new.png", "--index", index)
    again = f"instsearch index --index {index} --preset {index}/pipelines/cells-centred-flat.toml"
    said = f"can be asked: pipeline cells-centred-flat (10 images; run `{again}` for the other 1)"
    assert said in cli("info", "--index", index).out.splitlines()
    cli(*again.split()[1:])
    assert "can be asked: pipeline cells-centred-flat (all images" in cli("info", "--index", index).out


def test_info_says_what_is_there_and_what_can_be_asked(
    cli: Cli, tiny: tuple[str, ...], index: Path, photos: Path, tmp_path: Path
) -> None:
    out = cli("info", "--index", index).out.splitlines()
    assert out[0] == f"{index}: 10 images"
    assert out[2].startswith("created just now (")
    assert out[3] == (
        "can be asked: pipeline cells-centred-flat (all images, the last: asked where no --pipeline is named)"
    )
    keep = tmp_path / "keep.png"
    shutil.copy(photos / "a/1.png", keep)
    (photos / "a/1.png").unlink()
    cli("remove", "--missing", "--index", index)
    assert "9 images, 1 taken out, their files being gone" in cli("info", "--index", index).out
    shutil.copy(keep, photos / "a/1.png")
    cli("add", photos, "--index", index)
    facts = cli("info", "--index", index, "--json").json
    assert facts["images"] == 10
    assert facts["removed"] == {"replaced": 1}  # it is there: no longer missing
    assert facts["searchable"] == {"cells-centred-flat": 10}
    os.utime(index / "format.json", (0, 0))
    assert "created 20" in cli("info", "--index", index).out
    assert "days ago (1970-01-01)" in cli("info", "--index", index).out


def test_json_of_a_run_names_its_pipeline(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    report = json.loads(cli("index", photos, "--index", tmp_path / "i", *tiny, "--json").out)
    assert report["pipeline"] == "cells-centred-flat"
    assert report["inherited"] == []
    assert report["config"]["extractor"]["name"] == "cells"
