"""Where results are written: through links, into FIFOs, and never over what is searched."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs")


@pytest.fixture
def place(
    cli: Cli, photos: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to stand in, with an index, a picture ``mine.png``, and a batch ``b.csv`` that asks with it."""
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--quiet")
    (tmp_path / "mine.png").write_bytes((photos / "a" / "1.png").read_bytes())
    (tmp_path / "b.csv").write_text("image,also\nmine.png,photos/a/3.png\n")
    (tmp_path / "link.png").symlink_to("photos/b/0.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTSEARCH_INDEX", "i")
    return tmp_path


def state(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "lock" not in path.name
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query", "mine.png", "--csv", "i/format.json"), "--csv: i/format.json lies in the index i: name"),
        (("query", "mine.png", "--copy-to", "i/new"), "--copy-to: i/new lies in the index i: name"),
        (("query", "--batch", "b.csv", "-o", "i/x.jsonl"), "--out: i/x.jsonl lies in the index i: name"),
        (
            ("query", "mine.png", "--trec", "photos/b/2.png"),
            "--trec: photos/b/2.png is a photograph of the index i",
        ),
        (("query", "mine.png", "--html", "link.png"), "--html: link.png is a photograph of the index i"),
        (("query", "--batch", "b.csv", "--csv", "mine.png"), "--csv: mine.png is a picture of --batch: name"),
        (
            ("show", "mine.png", "-o", "photos/b/2.png", "--index", "i"),
            "--out: photos/b/2.png is a photograph of",
        ),
        (
            ("show", "mine.png", "-o", "mine.png", "--index", "i"),
            "--out: mine.png is a picture of those to draw",
        ),
        (("pairs", "-o", "i/pairs.csv"), "--out: i/pairs.csv lies in the index i: name"),
        (("export", "--layer", "codes", "-o", "i/codes.npz"), "--out: i/codes.npz lies in the index i: name"),
        (
            ("eval", "--dataset", "none", "--index", "i", "--html", "i/d.html"),
            "--html: i/d.html lies in the index i",
        ),
    ],
)
def test_what_is_searched_is_not_written_over(
    cli: Cli, place: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = state(place)
    assert said in cli(*arguments, status=2).err
    assert state(place) == before


def test_nothing_is_written_where_copies_cannot_be(cli: Cli, place: Path) -> None:
    (place / "full").mkdir()
    (place / "full" / "x").touch()
    (place / "empty").mkdir()
    before = state(place)
    flags = ("--csv", "hits.csv", "--save-session", "s.json")
    assert "full is not empty: choose" in cli("query", "mine.png", "--copy-to", "full", *flags, status=1).err
    said = cli("query", "mine.png", "--copy-to", "empty", "--csv", "empty/hits.csv", status=2).err
    assert "--csv: empty/hits.csv lies in the new folder of --copy-to, empty: name a file elsewhere" in said
    assert state(place) == before


def test_a_picture_of_a_session_is_not_written_over(cli: Cli, place: Path) -> None:
    saved = {"instsearch": "session", "version": 1, "views": [{"picture": {"path": "mine.png"}}]}
    (place / "s.json").write_text(json.dumps(saved))
    said = cli("query", "--session", "s.json", "--csv", "mine.png", status=2).err
    assert "--csv: mine.png is a picture of the question: name another" in said


@POSIX
@pytest.mark.parametrize("flag", ["--csv", "--html", "--trec", "--out"])
def test_a_batch_writes_into_a_fifo(cli: Cli, place: Path, flag: str) -> None:
    os.mkfifo(place / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((place / "pipe").read_bytes()), daemon=True)
    reader.start()
    cli("query", "--batch", "b.csv", flag, "pipe", "--quiet")
    reader.join(10)
    assert b"1.png" in read[0] or b"<h1>1 question</h1>" in read[0]
    assert (place / "pipe").is_fifo()


@POSIX
@pytest.mark.parametrize("flag", ["--csv", "--html", "--trec", "--out"])
def test_a_batch_writes_through_links(cli: Cli, place: Path, flag: str) -> None:
    (place / "out").symlink_to("real")
    cli("query", "--batch", "b.csv", flag, "out", "--quiet")
    assert (place / "out").is_symlink()
    assert (place / "real").stat().st_size


def test_no_rerankers_of_a_session_are_none(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsearch_cli.engine import together

    wished: list[Any] = []
    query = together.query
    monkeypatch.setattr(
        together,
        "query",
        lambda *given, **wishes: wished.append(wishes.get("rerank")) or query(*given, **wishes),
    )
    saved = {"instsearch": "session", "version": 1, "views": [{"picture": {"path": "mine.png"}}]}
    for rerank in (None, []):
        (place / "s.json").write_text(json.dumps({**saved, "rerank": rerank}))
        cli("query", "--session", "s.json", "--quiet", "--json")
    assert wished == [None, ("none",)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--crop-query",), "--save-session: a session does not say --crop-query, and would"),
        (("--set", "a.b=1", "--no-weigh-query"), "does not say --set and --weigh-query, and would"),
        (("-k", "200000"), "k is a whole number from 1 to 100,000, not 200000"),
    ],
)
def test_a_session_that_would_not_ask_the_same_is_not_saved(
    cli: Cli, place: Path, flags: tuple[str, ...], said: str
) -> None:
    assert said in cli("query", "mine.png", "--save-session", "s.json", *flags, status=2).err
    assert not (place / "s.json").exists()
