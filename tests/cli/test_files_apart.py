"""Files to write that are read, too, or written twice: refused before anything is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

QUERIES = [
    (("--batch", "a", "--csv", "a"), "--csv: a is the file of --batch, too"),
    (("--batch", "a", "-o", "./b", "--csv", "b"), "--out: b is the file of --csv, too"),
    (("--batch", "a", "-o", "link"), "--out: link is the file of --batch, too"),
    (("a", "--sheet", "a"), "--sheet: a is the file of IMAGE, too"),
    (("a", "--csv", "new", "--html", "new"), "--html: new is the file of --csv, too"),
    (("a", "--also", "b:1,2,3,4", "--trec", "b"), "--trec: b is the file of --also, too"),
    (("a", "--not", "b", "--zip", "b"), "--zip: b is the file of --not, too"),
    (("a", "--copy-to", "new", "--csv", "new"), "--copy-to: new is the file of --csv, too"),
    (("a", "--weights", "b", "--save-session", "b"), "--save-session: b is the file of --weights, too"),
    (("--session", "a", "--annotations", "a"), "--annotations: a is the file of --session, too"),
]
EVALS = [
    (("--dataset", "a", "--run", "a"), "--run: a is the file of --dataset, too"),
    (("--dataset", "a", "--boxes", "b", "--html", "b"), "--html: b is the file of --boxes, too"),
    (
        ("--dataset", "a", "--from-run", "b", "--pipeline", "p", "--run", "link", "--html", "./a"),
        "--run: link is the file of --dataset, too",
    ),
    (
        ("--dataset", "a", "--from-run", "r-q.run", "--pipeline", "p", "--pipeline", "q", "--run", "r.run"),
        "--run: r-q.run is the file of --from-run, too",
    ),
    (("--dataset", "p.svg", "--regions", "--plot", "p.svg"), "--plot: p.svg is the file of --dataset, too"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with files ``a`` and ``b``, and a link to ``a``."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("query", "--index", "i", *given), said) for given, said in QUERIES]
    + [(("eval", *given), said) for given, said in EVALS],
)
def test_a_file_has_one_use(cli: Cli, place: Path, arguments: tuple[str, ...], said: str) -> None:
    assert f"{said}: name another\n" in cli(*arguments, status=2).err
    assert [(place / name).read_text() for name in ("a", "b")] == ["a", "b"]
    assert sorted(path.name for path in place.iterdir()) == ["a", "b", "link"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--session", "a", "--save-session", "a"),
        ("a", "--csv", "/dev/null", "--html", "/dev/null"),
        ("a", "--also", "a:1,2,3,4", "--not", "a", "--csv", "-"),
        ("-", "--csv", "-"),
    ],
)
def test_files_that_may_be_the_same(cli: Cli, place: Path, flags: tuple[str, ...]) -> None:
    assert "too: name another" not in cli("query", "--index", "i", *flags, status=1).err
