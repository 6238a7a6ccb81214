"""Files that appear whole or not at all: write aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import os
import uuid
from functools import cache
from typing import TYPE_CHECKING

from instsearch_formats import places
from instsearch_formats.errors import FormatError, UnreadableError, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIAL = ".partial"


@cache
def version() -> str:
    """The version of instsearch that is running: every file says who wrote it."""
    from importlib import metadata

    try:
        return metadata.version("instsearch")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write and fsync under; rename it on success, remove it on failure."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    make_folder(path.parent)
    try:
        yield aside
        put(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def put(aside: Path, path: Path) -> None:
    """Rename a whole file to its name in the same folder, durably."""
    with writing(path):
        os.replace(aside, path)  # noqa: PTH105
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with replacing(path) as aside, writing(path), aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def vacant(folder: Path) -> bool:
    """Whether there is no such folder, or nothing in it but what a kill left of a file being written."""
    if not folder.is_dir():
        return not folder.exists()
    return all(file.name.endswith(PARTIAL) for file in folder.iterdir())


def read_text(path: Path, top: Path | None = None, limit: int = places.TEXT) -> str | None:
    """The text of a plain file of ``limit`` bytes at most, below ``top`` by no link; None if it is not there."""
    try:
        with open(places.open_file(path, top, limit=limit), "rb") as file:  # noqa: PTH123
            return file.read(limit).decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise UnreadableError(path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents durably; nothing to do if it is there."""
    if path.is_dir():
        return
    with writing(path):
        if path.parent != path:
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
