"""Scenes to ask many questions of, and what is read of the answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

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
