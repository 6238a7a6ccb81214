"""What can go wrong with an index, and the two places where foreign errors become ours."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REMEDY = "run `instsearch verify --index DIR`, delete what it names, and run `instsearch index` again"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class FormatError(Exception):
    """An index cannot be read or written; the message says what is wrong and what to do."""


class LockedError(FormatError):
    """Another process is writing to the index."""


class NewerFormatError(FormatError):
    """The index was written by a later version of instsearch than this one."""


class UnreadableError(FormatError):
    """The system does not let a file be read, which may well be whole."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot read {path}: {error.strerror or error}")
        self.path = path


def damaged(path: Path, what: str) -> FormatError:
    """The error for a file whose bytes are not what was written: it names the file and the way out."""
    return FormatError(f"{path} is damaged: {what}.\n{REMEDY[0].upper()}{REMEDY[1:]}.")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 says about the damaged file ``path`` into a :class:`FormatError`."""
    try:
        yield
    except FormatError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise damaged(path, first or type(error).__name__) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing to ``path`` into a :class:`FormatError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise FormatError(
                f"no space left on {path.parent}: free some and run the same command again; nothing is lost"
            ) from error
        if error.errno in _READ_ONLY:
            raise FormatError(
                f"cannot write to {path.parent}: it is read-only. Make it writable or choose another --index"
            ) from error
        raise FormatError(f"cannot write {path}: {error.strerror or error}") from error
