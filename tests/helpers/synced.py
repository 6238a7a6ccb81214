"""An index of ten photographs, whose folders change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schema_check import valid

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    """Of ten photographs."""
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--quiet")
    return tmp_path / "i"


@pytest.fixture
def sync(cli: Cli, index: Path) -> Callable[..., Any]:
    """``sync(argument...)``: what was done, as JSON that its schema describes."""

    def call(*arguments: object) -> Any:
        return valid("sync", cli("sync", *arguments, "--index", index, "--json").out)

    return call


def hits(cli: Cli, index: Path, picture: Path) -> list[str]:
    found = cli("query", picture, "--index", index, "--json", "-k", "99").json["hits"]
    return [hit["image"] for hit in found]


def state(folder: Path) -> dict[str, Any]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def change_all(photos: Path, draw: Draw) -> None:
    """One of each: new, gone, changed, renamed, two names exchanged."""
    draw(photos / "new.png", 50)
    (photos / "b/0.png").unlink()
    draw(photos / "b/2.png", 52)
    (photos / "b/4.png").rename(photos / "a/4.png")
    (photos / "a/1.png").rename(photos / "x")
    (photos / "a/3.png").rename(photos / "a/1.png")
    (photos / "x").rename(photos / "a/3.png")
