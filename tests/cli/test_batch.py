"""Many questions by one command: lines, tables and pages, errors counted, sessions."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import instsearch
from instsearch import InstsearchError, UsageError
from many_questions import BOX, indexes, lines, names, place, questions, table
from schema_check import valid

__all__ = ["indexes", "place", "questions"]  # fixtures

Cli = Callable[..., Any]


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
