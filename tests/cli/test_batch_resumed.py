"""Answers to many questions, in a file: gone on with where they stopped, and by several processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch import InstsearchError
from instsearch_cli.engine.batch import GROUP, answers
from instsearch_cli.engine.batch_file import Entry
from instsearch_cli.report.batch import appended
from many_questions import BOX, indexes, lines, place, questions, table

__all__ = ["indexes", "place", "questions"]  # fixtures

Cli = Callable[..., Any]


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
