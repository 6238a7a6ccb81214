"""An index of two pipelines, made once and copied for each test, and what is said of it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Draw = Callable[..., None]
NAME = "cells-centred-flat"


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
