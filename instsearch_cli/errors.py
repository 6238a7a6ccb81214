"""Errors and warnings that a person can act on: one or two lines, no traceback."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


DISK = frozenset(
    vars(errno).get(name, 0)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EIO",
        "EROFS",
        "ENODEV",
        "ENXIO",
        "ESTALE",
        "EMFILE",
        "ENFILE",
        "EACCES",
        "EPERM",
    )
)  #: what a disk or the system says, and no mistake of a program's
REPAIR = "run `instsearch verify`, then `instsearch index` again"  #: after "the … is damaged: "


class InstsearchError(Exception):
    """Something the user can put right; the message says what is wrong and what to do (exit status 1)."""

    exit_status = 1


class UsageError(InstsearchError):
    """The command line or a pipeline file is wrong (exit status 2)."""

    exit_status = 2


class IndexInUse(InstsearchError):  # noqa: N818
    """Another process is writing to the index (exit status 3)."""

    exit_status = 3


class NoImages(InstsearchError):  # noqa: N818
    """None of the files that were given is an image that can be read."""


def deprecated(old: str, new: str, *, removed_in: str) -> None:
    """Warn that a name is on its way out, with the line that called instsearch; ``new`` says what to write instead.

    A name warns for one minor version and is gone in the next, ``removed_in``: a test reads that from each call and
    fails when it has come.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("instsearch"):
        frame, level = frame.f_back, level + 1
    text = f"{old} is deprecated and will be gone in instsearch {removed_in}: write {new}"
    warnings.warn(text, FutureWarning, stacklevel=level)


def nearest(name: str, offered: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or the list of what there is."""
    names = sorted(offered)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" There is: {', '.join(names)}." if names else ""


def printable(path: str | os.PathLike[str]) -> str:
    r"""A path for people: bytes that are not UTF-8 as ``\xff``, control characters as ``\n``."""
    return "".join(c if c.isprintable() else _escaped(c) for c in os.fsdecode(path))


def _escaped(c: str) -> str:
    byte = ord(c) - 0xDC00  # as surrogateescape has bytes that are not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else c.encode("unicode_escape").decode()


def legible(text: str) -> str:
    """Lines for people, whatever a name or a library puts into them: each as :func:`printable` has it."""
    return "\n".join(line if line.isprintable() else printable(line) for line in text.split("\n"))
