"""Plain files of bounded size, opened without waiting for anybody; files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

if sys.platform == "win32":
    TO_READ = os.O_RDONLY | os.O_BINARY
else:
    TO_READ = os.O_RDONLY | os.O_NONBLOCK


def open_plain(path: Path, most: int | None = None) -> BufferedReader:
    """Open a plain file of at most ``most`` bytes to read.

    Raises InstsearchError for what is missing, larger, a folder, or something that is no file, as a FIFO is: that would
    be waited for, or never end.
    """
    try:
        _refuse_odd(path, os.stat(path).st_mode)  # noqa: PTH116  (before it is opened, which a device may notice)
        file = os.fdopen(os.open(path, TO_READ), "rb")
    except OSError as error:
        raise InstsearchError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a NUL, half of a surrogate pair
        raise InstsearchError(f"cannot read {path}: no file can have that name") from error
    try:
        status = os.fstat(file.fileno())
        _refuse_odd(path, status.st_mode)
        if most is not None and status.st_size > most:
            raise InstsearchError(f"{path} is larger than {most >> 20:,} MB, the most that is read")
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a plain file. Raises InstsearchError as :func:`open_plain` does."""
    with open_plain(path, most) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise InstsearchError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > most:
        raise InstsearchError(f"{path} is larger than {most >> 20:,} MB, the most that is read")
    return data


def read_text(path: Path, most: int) -> str:
    """The text of a plain file in UTF-8, a byte order mark left out. Raises InstsearchError."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InstsearchError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start:,})"
        ) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is then there whole, or not at all; what is no plain file is written as it comes."""
    from instsearch_formats.files import replacing  # which brings HDF5

    if path.parent.is_dir() and (path.is_file() or not path.exists()):
        with replacing(path.resolve()) as aside:
            yield aside
    else:
        yield path


def write_text(path: Path, text: str) -> None:
    """Write a file as :func:`whole` does. Raises InstsearchError if it cannot be."""
    try:
        with whole(path) as place:
            place.write_text(text, "utf-8")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error


def is_there(path: Path) -> bool:
    """Whether there is something at a path; nothing is where none can be, as at a name that is too long."""
    return os.path.exists(path)  # noqa: PTH110  (Path.exists raises)


def nameable(name: str) -> bool:
    """Whether a file can be called so: no NUL, no half of a surrogate pair but what stands for another byte."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def _refuse_odd(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a FIFO, a socket or a device"
        raise InstsearchError(f"cannot read {path}: it is {what}, not a file")
