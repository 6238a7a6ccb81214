"""Many questions by one command: lines, tables and pages, errors counted, resumed runs, sessions."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import instsearch
from instsearch import InstsearchError, UsageError
from instsearch_cli.engine.batch import GROUP, answers
from instsearch_cli.engine.batch_file import Entry
from instsearch_cli.report.batch import appended
from schema_check import valid
from served_scenes import texture

Cli = Callable[..., Any]
BOX = (30, 20, 100, 100)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes with one of two things, in ``a`` and ``b``; the things to ask with, in ``q``, and a blank."""
    folder = tmp_path_factory.mktemp("batch")
    things = [texture(100 + i, (100, 100)) for i in range(2)]
    for i in range(10):
        pixels = 90 + texture(i, (240, 180)) // 4
        x, y = (30, 20) if i >= 8 else (10 * i, 5 * i)
        pixels[y : y + 100, x : x + 100] = things[i % 2]
        path = folder / (f"q/{i - 8}.png" if i >= 8 else f"{'ab'[i // 4]}/{i}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(pixels).save(path)
    PIL.Image.fromarray(np.full((180, 240, 3), 90, np.uint8)).save(folder / "q" / "blank.png")
    return folder


@pytest.fixture
def indexes(cli: Cli, place: Path) -> list[Path]:
    paths = [place / name for name in ("index", "of-a", "of-b")]
    for path, folders in zip(paths, (["a", "b"], ["a"], ["b"]), strict=True):
        if not path.exists():
            cli("index", *(place / name for name in folders), "--index", path, "--preset", "sift", "--quiet")
    return paths


@pytest.fixture
def questions(place: Path) -> Path:
    """Six questions, two of which cannot be asked."""
    path = place / "questions.csv"
    path.write_text(
        'id,image,box,not\none,q/0.png,"30,20,100,100",\ntwo,q/1.png,"30,20,100,100",\n'
        "gone,q/5.png,,\nblank,q/blank.png,,\nwhole,q/0.png,,\n"
        'against,q/0.png,"30,20,100,100","q/1.png:30,20,100,100"\n',
        "utf-8",
    )
    return path


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        valid("query-error" if "error" in line else "query", json.dumps(line))
        line.pop("seconds", None)
    return found


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def names(line: dict[str, Any]) -> set[str]:
    return {Path(hit["path"]).stem for hit in line["hits"] if hit["score"] >= 0.5}


def test_an_answer_a_line_and_errors_counted(cli: Cli, indexes: list[Path], questions: Path) -> None:
    told = cli("query", "--batch", questions, "--index", indexes[0], "--quiet", status=1)
    found = lines(told.out)
    assert [line["id"] for line in found] == ["one", "two", "gone", "blank", "whole", "against"]
    assert [("error" in line) for line in found] == [False, False, True, True, False, False]
    assert "5.png" in found[2]["error"]
    assert "no keypoints" in found[3]["error"]
    assert names(found[0]) == {"0", "2", "4", "6"}
    assert names(found[1]) == {"1", "3", "5", "7"}
    assert names(found[5]) == names(found[0])  # the other thing takes nothing from this one
    assert found[5]["query"]["against"][0]["box"] == [30, 20, 100, 100]
    assert told.err == "6 questions = 4 found something + 0 nothing + 2 could not be asked\n"
    alone = cli(
        "query", questions.parent / "q/0.png", "--box", "30,20,100,100", "--index", indexes[0], "--json"
    ).json
    assert [(hit["path"], hit["score"]) for hit in found[0]["hits"]] == [
        (hit["path"], pytest.approx(hit["score"], abs=1e-5)) for hit in alone["hits"]
    ]


def test_several_indexes_and_json_lines_from_standard_input(
    cli: Cli, indexes: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"id": i, "image": str(place / f"q/{i}.png"), "box": BOX} for i in range(2)]
    text = "".join(json.dumps(each) + "\n" for each in asked).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    both = lines(
        cli("query", "--batch", "-", "--index", indexes[1], "--index", indexes[2], "-k", "4", "--quiet").out
    )
    assert [names(line) for line in both] == [{"0", "2", "4", "6"}, {"1", "3", "5", "7"}]
    assert {hit["index"] for hit in both[0]["hits"]} == {0, 1}
    assert {len(line["hits"]) for line in both} == {4}


def test_tables_runs_and_a_page(cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "html", "trec")}
    flags = [part for name, path in files.items() for part in (f"--{name}", path)]
    told = cli("query", "--batch", questions, "--index", indexes[0], *flags, status=1)
    assert told.out == ""
    assert "asking: 6 questions in" in told.err
    rows = table(files["csv"].read_text("utf-8"))
    assert list(dict.fromkeys(row["id"] for row in rows))[:2] == ["one", "two"]
    assert rows[0]["rank"] == "1"
    run = [line.split() for line in files["trec"].read_text("utf-8").splitlines()]
    assert [(r[0], r[3]) for r in run] == [(row["id"], row["rank"]) for row in rows]
    page = files["html"].read_text("utf-8")
    assert page.count("<section>") == 6
    assert page.endswith("</html>\n")
    assert "6 questions" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('class="asked"') == 4
    printed = cli("query", "--batch", questions, "--index", indexes[0], "--csv", "-", "--quiet", status=1).out
    assert [row["path"] for row in table(printed)] == [row["path"] for row in rows]


@pytest.mark.parametrize("torn", [b"", b'{"id": "tw', b'{"id": "two"}'])
def test_a_run_goes_on_where_it_stopped(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path, torn: bytes
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    ask = ("query", "--batch", questions, "--index", indexes[0], "--quiet")
    cli(*ask, "--out", whole, status=1)
    part.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:3]) + torn)
    told = cli(*ask, "-o", part, "--csv", tmp_path / "part.csv", status=1)
    assert lines(part.read_text("utf-8")) == lines(whole.read_text("utf-8"))
    assert told.out == ""
    assert told.err.endswith("+ 2 could not be asked; 3 of them before\n")
    ids = [row["id"] for row in table((tmp_path / "part.csv").read_text("utf-8"))]
    assert ids[0] == "one"
    before = part.read_bytes()
    cli(*ask, "-o", part, status=1)
    assert part.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photographs\n", "line 1, is no answer of a batch"),
        ('{"id": "one", "error": "x"}\nnothing\n{"id": "two", "error": "x"}\n', "line 2, is no answer"),
        (
            '{"id": "one", "hits": [], "line": null, "index": ["/other"], "pipeline": "sift"}\n',
            "answers of index",
        ),
    ],
)
def test_what_cannot_be_gone_on_with(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text, "utf-8")
    told = cli("query", "--batch", questions, "--index", indexes[0], "-o", path, "--quiet", status=1)
    assert said in told.err
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ("two,", "new,q/1.png,,\ntwo,", None),
        ("two,q/1", "two,q/0", "two"),
        ('one,q/0.png,"30,20,100,100"', 'one,q/0.png,"30,20,100,101"', "one"),
        ("whole,q/0.png,,", 'whole,q/0.png,"30,20,100,100",', "whole"),
        ("whole,q/0.png,,", 'whole,q/0.png,,"q/1.png:30,20,100,100"', "whole"),
        (',"q/1.png:30,20,100,100"', ",", "against"),
        ('"q/1.png:30,20,100,100"', '"q/1.png:30,20,100,90"', "against"),
        ("two,q/1", "two,,q/1", "two"),
        ("gone,", "other,", "gone"),
    ],
)
def test_answers_to_other_questions_are_not_gone_on_with(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path, old: str, new: str, id: str | None
) -> None:
    out, text = tmp_path / "out.jsonl", questions.read_text("utf-8")
    ask = ("query", "--batch", questions, "--index", indexes[0], "--quiet", "-o", out)
    cli(*ask, status=1)
    before = out.read_bytes()
    assert old in text
    questions.write_text(text.replace(old, new), "utf-8")
    told = cli(*ask, status=1)
    if id is None:
        assert told.err.endswith("; 6 of them before\n")
        assert [line["id"] for line in lines(out.read_text("utf-8"))][6:] == ["new"]
    else:
        assert f"has an answer to another question '{id}': name another file" in told.err
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-k", 2), "answers with k 20, and now it is 2: name another file"),
        (("--min-score", 0.25), "answers with min-score None, and now it is 0.25"),
        (("--rerank", "none"), "answers with rerank"),
    ],
)
def test_answers_with_other_options_are_not_gone_on_with(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path, more: tuple[Any, ...], said: str
) -> None:
    ask = ("query", "--batch", questions, "--index", indexes[0], "--quiet", "-o", tmp_path / "out.jsonl")
    cli(*ask, status=1)
    assert said in cli(*ask, *more, status=1).err


def test_an_index_is_the_same_however_it_is_called(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    cli("query", "--batch", questions, "--index", indexes[0], "--quiet", "-o", out, status=1)
    before = out.read_bytes()
    monkeypatch.chdir(indexes[0].parent)
    cli("query", "--batch", questions, "--index", indexes[0].name, "--quiet", "-o", out, status=1)
    assert out.read_bytes() == before


def test_one_run_at_a_time_writes_answers(
    cli: Cli, indexes: list[Path], questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ask = ("query", "--batch", questions, "--index", indexes[0], "--quiet", "-o", out)
    with appended(out):
        assert f"another run writes to {out}: wait" in cli(*ask, status=3).err
    cli(*ask, status=1)
    out.write_bytes(out.read_bytes() + out.read_bytes().splitlines(keepends=True)[0])
    assert "has two answers to question 'one'" in cli(*ask, status=1).err


def test_lines_that_shifted_are_other_questions(cli: Cli, indexes: list[Path], place: Path) -> None:
    path, out = place / "shifted.csv", place / "shifted.jsonl"
    ask = ("query", "--index", indexes[0], "--quiet", "-o", out, "--batch")
    path.write_text("image,x,y,w,h\nq/0.png,30.26,20.14,999,100.07\nq/1.png,30,20,100,100\n", "utf-8")
    cli(*ask, path)
    assert cli(*ask, os.path.relpath(path)).err.endswith("; 2 of them before\n")
    path.write_text("image,x,y,w,h\nq/0.png,,,,\n" + path.read_text("utf-8").partition("\n")[2], "utf-8")
    assert "another question '2'" in cli(*ask, path, status=1).err


def test_a_view_that_is_left_out_is_still_that_question(cli: Cli, indexes: list[Path], place: Path) -> None:
    path, out = place / "left.csv", place / "left.jsonl"
    ask = ("query", "--index", indexes[0], "--quiet", "-o", out, "--batch", path)
    path.write_text("id,image,also,not\na,q/0.png,q/blank.png,q/1.png\n", "utf-8")
    cli(*ask)
    (line,) = lines(out.read_text("utf-8"))
    assert len(line["query"]["views"]) == 1
    assert cli(*ask).err.endswith("; 1 of them before\n")
    for row in ("a,q/1.png,q/blank.png,q/1.png", "a,q/0.png,q/1.png,q/1.png", "a,q/0.png,q/blank.png,"):
        path.write_text(f"id,image,also,not\n{row}\n", "utf-8")
        assert "another question 'a'" in cli(*ask, status=1).err


def test_a_folder_of_questions_is_gone_on_with(
    cli: Cli, indexes: list[Path], place: Path, tmp_path: Path
) -> None:
    ask = ("query", "--index", indexes[0], "--quiet", "-o", tmp_path / "q.jsonl", "--batch")
    cli(*ask, place / "q", status=1)
    assert cli(*ask, os.path.relpath(place / "q"), status=1).err.endswith("; 3 of them before\n")


def test_several_processes_say_the_same(cli: Cli, indexes: list[Path], place: Path, tmp_path: Path) -> None:
    asked = [{"id": i, "image": f"q/{i % 2}.png", "box": [30, 20, 100, 90 + i]} for i in range(GROUP + 2)]
    path = place / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)), "utf-8")
    ask = ("query", "--batch", path, "--index", indexes[0], "--quiet")
    one, two = (lines(cli(*ask, "--workers", n).out) for n in (1, 2))
    assert [line["id"] for line in two] == [str(i) for i in range(GROUP + 2)]
    assert one == two


def test_stopping_ends_the_processes_and_their_end_is_said(indexes: list[Path], place: Path) -> None:
    entries = [Entry(str(i), {"picture": place / "q/0.png", "box": BOX}) for i in range(4 * GROUP)]
    opened, before = [instsearch.open(indexes[0])], set(multiprocessing.active_children())
    running = answers(opened, entries, 2, k=2)
    entry, first = next(running)
    assert entry.id == "0"
    assert isinstance(first, instsearch.Answer)
    for process in set(multiprocessing.active_children()) - before:
        process.kill()
    with pytest.raises(InstsearchError, match="a worker ended before its time"):
        list(running)
    running = answers(opened, entries, 2, k=2)
    next(running)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    running.close()
    for process in started:
        process.join(10)
        with contextlib.suppress(
            ProcessLookupError
        ):  # the pool's thread saw it end, too, and `join` cannot then
            os.kill(process.pid, 0)
            assert not process.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_stopped_a_batch_can_be_gone_on_with(indexes: list[Path], place: Path, tmp_path: Path) -> None:
    (tmp_path / "many.csv").write_text("image\n" + f"{place / 'q/0.png'}\n" * 5000)
    command = [
        sys.executable,
        "-m",
        "instsearch_cli",
        "query",
        "--batch",
        "many.csv",
        "--index",
        str(indexes[0]),
    ]
    out = tmp_path / "answers.jsonl"
    with subprocess.Popen(
        [*command, "--out", out.name, "--workers", "2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "stopped; answers.jsonl keeps what is answered, the same command goes on from there\n" in said
    assert "Warning" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch", "q", "q/0.png"), "IMAGE and --batch exclude each other"),
        (("--batch", "q", "--session", "s"), "--batch and --session exclude each other"),
        (("--batch", "q", "--box", "1,2,3,4", "--sheet", "x.png"), "--box, --sheet: for one question"),
        (("q/0.png", "-o", "x.jsonl"), "--out: for --batch"),
        (("q/0.png", "--workers", "2"), "--workers: for --batch"),
        (("q/0.png", "--copy-as", "link"), "--copy-as says how --copy-to copies"),
        (("q/0.png", "--trec", "-"), "--trec writes a file"),
        ((), "name a picture to ask with"),
    ],
)
def test_flags_that_contradict_each_other(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(place)
    assert said in cli("query", *flags, "--index", "index", status=2).err


# -- sessions -----------------------------------------------------------------------------------------------


def test_a_session_asks_again(cli: Cli, indexes: list[Path], place: Path, tmp_path: Path) -> None:
    saved = tmp_path / "s.json"
    asking = (
        "query",
        place / "q/0.png",
        "--box",
        "30,20,100,100",
        "-k",
        "3",
        "--also",
        f"{place / 'q/1.png'}:30,20,100,100",
    )
    first = cli(*asking, "--index", indexes[0], "--save-session", saved, "--json").json
    valid("session", saved.read_text("utf-8"))
    again = cli("query", "--session", saved, "--json").json
    assert [hit["path"] for hit in again["hits"]] == [hit["path"] for hit in first["hits"]]
    assert [view["box"] for view in again["query"]["views"]] == [list(BOX), list(BOX)]
    assert again["index"] == [str(indexes[0])]
    other = cli(
        "query", "--session", saved, "--json", "-k", "2", "--index", indexes[1], "--also", place / "q/0.png"
    ).json
    assert len(other["hits"]) == 2
    assert other["index"] == [str(indexes[1])]
    assert [view["box"] for view in other["query"]["views"]] == [list(BOX), None]
    smaller = cli("query", "--session", saved, "--json", "--box", "40,30,80,80").json
    assert [view["box"] for view in smaller["query"]["views"]] == [[40, 30, 80, 80], list(BOX)]


def test_files_to_take_away(cli: Cli, indexes: list[Path], place: Path, tmp_path: Path) -> None:
    asking = ("query", place / "q/0.png", "--box", "30,20,100,100", "-k", "3", "--index", indexes[0])
    flags = ("--annotations", tmp_path / "a.json", "--trec", tmp_path / "a.run", "--zip", tmp_path / "a.zip")
    told = cli(*asking, *flags, "--copy-to", tmp_path / "drawn", "--copy-as", "drawn")
    assert f"wrote 3 photographs into {tmp_path / 'a.zip'}" in told.out
    assert len(json.loads((tmp_path / "a.json").read_text("utf-8"))["items"]) == 3
    assert len((tmp_path / "a.run").read_text("utf-8").splitlines()) == 3
    assert {path.suffix for path in (tmp_path / "drawn").iterdir()} == {".jpg"}


@pytest.mark.parametrize("kind", ["copy", "drawn"])
def test_a_full_disk_leaves_no_half_of_a_copy(
    cli: Cli, indexes: list[Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(source: Path, target: Path, **options: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", full)
    monkeypatch.setattr(PIL.Image.Image, "save", full)
    asking = (
        "query",
        place / "q/0.png",
        "--index",
        indexes[0],
        "--copy-to",
        tmp_path / "c",
        "--copy-as",
        kind,
    )
    assert f"cannot write to {tmp_path / 'c'}: No space left" in cli(*asking, status=1).err
    assert not list((tmp_path / "c").iterdir())


# -- in Python ----------------------------------------------------------------------------------------------


def test_questions_with_views_and_negatives(indexes: list[Path], place: Path) -> None:
    thing, other = (place / f"q/{i}.png" for i in range(2))
    index = instsearch.open(indexes[0])
    alone = index.query(thing, BOX, also=[(other, BOX)], against=[(thing, (30, 20, 100, 99))], k=4)
    asked = [
        {"picture": thing, "box": BOX, "also": [(other, BOX)], "against": [(thing, (30, 20, 100, 99))]},
        (thing, BOX),
        thing,
    ]
    first, second, third = index.query_many(asked, k=4)
    assert [hit.path for hit in first] == [hit.path for hit in alone]
    assert {hit.path.stem for hit in second.above} == {"0", "2", "4", "6"}
    assert third.box is None
    parts = [instsearch.open(path) for path in indexes[1:]]
    (both,) = instsearch.query_many(parts, [(thing, BOX)], k=4)
    assert {hit.path.stem for hit in both.above} == {"0", "2", "4", "6"}
    assert {hit.index for hit in both} == {0, 1}


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"box": BOX}, "a question has a picture"),
        ({"picture": "x", "boxes": BOX}, "has no 'boxes'. Did you mean 'box'"),
        (5, "a picture is a path"),
    ],
)
def test_what_is_no_question(indexes: list[Path], question: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        instsearch.open(indexes[0]).query_many([question])
    with pytest.raises(UsageError, match="no index"):
        instsearch.query_many([], [])


def test_the_first_wrong_question_ends_query_many(indexes: list[Path], place: Path) -> None:
    with pytest.raises(InstsearchError, match="no keypoints"):
        instsearch.open(indexes[0]).query_many([place / "q/0.png", place / "q/blank.png"])
