"""Files to write that would destroy what is searched: refused before anything is written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.commands.common import usage
from instsearch_cli.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instsearch_cli.engine.session import Index

Outputs = list[tuple[str, Path | None]]
"""Flags with the files that they write, as :func:`common.disjoint` takes them."""


def check_outside(outputs: Outputs, folder: Path, what: str = "the index") -> None:
    """Raise UsageError where a flag's file to write lies in a folder, an index's say."""
    whole = Path(os.path.realpath(folder))
    for flag, path in _named(outputs):
        real = Path(os.path.realpath(path))
        usage(
            whole not in (real, *real.parents),
            f"{flag}: {printable(path)} lies in {what} {printable(folder)}: name a file elsewhere",
        )


def check_unindexed(outputs: Outputs, indexes: Iterable[Index]) -> None:
    """Raise UsageError where a flag's file to write lies in an index's folder, or is one of its photographs."""
    from instsearch_cli.engine.names import Names

    for index in indexes:
        check_outside(outputs, index.path)
        names = Names(index.store)
        for flag, path in _named(outputs):
            usage(
                not names.file_of_one(path),
                f"{flag}: {printable(path)} is a photograph of the index {printable(index.path)}: name another",
            )


def check_unread(outputs: Outputs, pictures: Iterable[Path], whose: str) -> None:
    """Raise UsageError where a flag's file to write is one of the pictures of what ``whose`` names."""
    there = {_identity(path): (flag, path) for flag, path in _named(outputs) if path.is_file()}
    for picture in set(pictures) if there else ():
        with contextlib.suppress(OSError, ValueError):
            flag, path = there.get(_identity(picture), ("", None))
            usage(path is None, f"{flag}: {printable(path or '')} is a picture of {whose}: name another")


def _named(outputs: Outputs) -> list[tuple[str, Path]]:
    return [(flag, path) for flag, path in outputs if path is not None and str(path) != "-"]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
