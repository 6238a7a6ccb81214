"""Labelled pictures for training: a folder a class, or a table of paths and labels.

    DIR/CLASS/.../NAME.jpg     the class is the first folder's name: ImageNet's layout
    FILE.csv: path,label       this header, then a picture a line; paths are relative to DIR

Hidden files and folders are passed over.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import discover
from instsearch_cli.outside.text import csv_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


MOST = 256 << 20  #: bytes of a table


def option_file(name: str, value: str) -> Path:
    """The file that an option names. Raises UsageError if it is not there."""
    if not (path := Path(value).expanduser()).is_file():
        raise UsageError(f"{name}: there is no file {path}")
    return path


def labelled(data: Path, labels: Path | None = None) -> list[tuple[Path, str]]:
    """The pictures of a folder, each with its class: by its folders, or by the table ``labels``.

    By folders they come in order of class and name, those of a table in its order. Raises InstsearchError for
    a folder without class folders, a class folder without a picture, a damaged table, and a picture of the
    table that is not there, by its name.
    """
    if not data.is_dir():
        raise InstsearchError(f"there is no folder {printable(data)}")
    return _by_folders(data) if labels is None else by_table([data], labels)


def by_table(folders: Sequence[Path], labels: Path) -> list[tuple[Path, str]]:
    """The pictures of a table, each with its label, in its order; a relative path is below one of the folders.

    Raises InstsearchError for a damaged table, and for a picture that is below none of them, or below several.
    """
    table = printable(labels)
    samples: dict[Path, str] = {}
    for number, row in csv_table(labels, MOST, ("path", "label")):
        where = f"{table}, line {number}"
        if not row["path"] or not row["label"]:
            raise InstsearchError(f"{where}: wanted a path and a label")
        tried = dict.fromkeys(folder / row["path"] for folder in folders)
        found = [path for path in tried if os.path.isfile(path)]  # noqa: PTH113  (which raises for names of no file)
        if len(found) > 1:
            both = "' and '".join(map(printable, found))
            raise InstsearchError(
                f"{where}: there are '{both}': write the whole path of the one that is meant"
            )
        if not found:
            either = "' or '".join(map(printable, tried))
            raise InstsearchError(f"{where}: there is no picture '{either}'")
        if samples.setdefault(found[0], row["label"]) != row["label"]:
            raise InstsearchError(f"{where}: '{printable(row['path'])}' has two labels")
    if not samples:
        raise InstsearchError(f"{table} has no pictures")
    return list(samples.items())


def classes_of(samples: Iterable[tuple[Path, str]], data: Path) -> list[str]:
    """The names of the classes, sorted: a class's place is its number.

    Raises InstsearchError unless there are at least two.
    """
    names = sorted({label for _, label in samples})
    if len(names) < 2:
        found = f"one class alone, '{printable(names[0])}'" if names else "no class"
        raise InstsearchError(f"{printable(data)} has {found}: a classifier needs two or more")
    return names


def _by_folders(data: Path) -> list[tuple[Path, str]]:
    try:
        folders = sorted(path for path in data.iterdir() if path.name[0] != "." and path.is_dir())
    except OSError as error:
        raise InstsearchError(f"cannot read {printable(data)}: {error.strerror}") from error
    if not folders:
        raise InstsearchError(
            f"{printable(data)} has no class folders.\nPut each class's pictures into a folder of its own: "
            "DIR/CLASS/NAME.jpg."
        )
    return [(found.path, folder.name) for folder in folders for found in discover([folder]).found]
