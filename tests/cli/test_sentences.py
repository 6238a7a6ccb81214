"""What is said of counts, boxes, limits and folders."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instsearch_cli.boxes import box_question
from instsearch_cli.commands.common import middle
from instsearch_cli.progress import Lines, units
from small_pictures import png

Cli = Callable[..., Any]


@pytest.fixture
def index(cli: Cli, photos: Path, tiny: tuple[str, ...], tmp_path: Path) -> Path:
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--quiet")
    return tmp_path / "i"


def test_one_is_one() -> None:
    assert [units(n, "queries") for n in (0, 1, 2)] == ["queries", "query", "queries"]
    said = io.StringIO()
    progress = Lines(said)
    for n in (1, 2):
        progress.start("indexing", n)
        progress.advance(n)
        progress.close()
    first, second = said.getvalue().splitlines()
    assert first.startswith("indexing: 1 image in")
    assert second.startswith("indexing: 2 images in")


def test_one_question_of_a_batch(cli: Cli, index: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(f"image\n{photos}/a/1.png\n")
    said = cli("query", "--batch", tmp_path / "q.csv", "--index", index).err
    assert "asking: 1 question in" in said
    assert "1 question = 1 found something" in said


def test_a_limit_is_raised_by_an_option_that_there_is(cli: Cli, index: Path, photos: Path) -> None:
    (photos / "large.png").write_bytes(png(30_000, 20_000, 8, 2, b""))
    limit = "large.png: too large: 30000 x 20000 pixels, limit 200 million"
    for verb in ("add", "sync"):
        assert f"{limit} (raise with --max-pixels)\n" in cli(verb, photos, "--index", index).out
    assert cli("query", photos / "large.png", "--index", index, status=1).err.endswith(f"{limit}\n")


def test_no_range_of_any_number(cli: Cli) -> None:
    for verb in ("query", "eval"):
        assert "None]" not in cli(verb, "--help").out
    assert "[x>=0]" in cli("index", "--help").out


@pytest.mark.parametrize(
    ("box", "share"), [((0, 0, 298, 448), "100"), ((0, 0, 30, 45), "1"), ((0, 0, 100, 66), "4.9")]
)
def test_the_share_of_a_box_is_no_power_of_ten(box: tuple[float, ...], share: str) -> None:
    x, y, w, h = box
    assert box_question((x, y, w, h), (298, 448)).endswith(f", {share} % of it")


def test_a_picture_of_few_pixels_has_no_middle(cli: Cli, index: Path, tmp_path: Path) -> None:
    assert middle(4, 9) == "1,2,2,4"
    assert [middle(1, 1), middle(100, 3)] == ["", ""]


@pytest.mark.parametrize("picture", ["", "."])
def test_a_folder_is_no_picture(cli: Cli, index: Path, photos: Path, picture: str) -> None:
    good = photos / "a" / "1.png"
    assert "error: '.' is a folder: name a picture\n" in cli("query", picture, "--index", index, status=1).err
    said = cli("query", good, "--also", picture, "--index", index, status=1).err
    assert "error: another view, '.' is a folder: name a picture\n" in said


def test_a_picture_that_does_not_decode_is_counted_once_and_called_the_same(
    cli: Cli, photos: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut = photos / "a" / "cut.png"
    cut.write_bytes((photos / "a" / "1.png").read_bytes()[:-60])
    first, second = (cli("index", "photos", "--index", "i", *tiny, "--quiet").out for _ in range(2))
    assert "found 11 = indexed 10 + already there 0 + skipped 1" in first
    assert "codes 10, search 10 in" in first
    for said in (first, second):
        assert f"  skipped {Path('photos/a/cut.png')}: " in said
    layers = [
        line
        for line in cli("info", "--index", "i").out.splitlines()
        if line.startswith(("  codes", "  search"))
    ]
    assert len(layers) == 2
    assert all("11 rows" in line for line in layers)


def test_another_last_pipeline_is_said(cli: Cli, index: Path, photos: Path) -> None:
    cli("index", "--index", index, "--weighting", "bright", "--name", "other", "--quiet")
    for verb in ("add", "sync"):
        assert "is the last now" not in cli(verb, photos, "--index", index, "--quiet").err
        said = cli(
            verb, photos, "--index", index, "--pipeline", "cells-centred-flat", "--quiet", "--json"
        ).err
        assert (
            "pipeline cells-centred-flat is the last now: `query --pipeline other` asks the one before\n"
            in said
        )
        cli(verb, photos, "--index", index, "--pipeline", "other", "--quiet")


def test_a_share_is_at_most_one(
    cli: Cli, index: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(agreement=1.0000001, disagreement=-1e-9, text="")
    picture = photos / "a" / "1.png"
    monkeypatch.setattr("instsearch_cli.report.show_beside", lambda *given, **choice: found, raising=False)
    said = cli(
        "show", picture, "--beside", picture, "--index", index, "-o", tmp_path / "x.png", "--json"
    ).json
    assert (said["agreement"], said["disagreement"]) == (1, 0)
