"""Every call of a process that changes the disk, made known before and after: where to kill it, or to let it fail.

Python's own files (_pyio) are put in the place of C's, so that each write is one of ``os``'s functions.
"""

from __future__ import annotations

import _pyio
import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from typing import Any

CALLS = ("open", "write", "fsync", "ftruncate", "replace", "rename", "unlink", "remove", "rmdir", "mkdir")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


Act = Callable[[str, bool, object], None]


def watch(act: Act, names: tuple[str, ...] = CALLS) -> None:
    """From here on call ``act(name, after, path)`` around each of these calls. An error that it raises is the call's.

    path: what the call is about, if it is told by its name
    """
    io.open = builtins.open = _pyio.open
    for name in names:
        setattr(os, name, _watched(name, getattr(os, name), act))


def _watched(name: str, real: Callable[..., Any], act: Act) -> Callable[..., Any]:
    def call(*where: Any, **how: Any) -> Any:
        if name == "open" and not (where[1] if len(where) > 1 else how.get("flags", 0)) & _WRITES:
            return real(*where, **how)
        path = where[0] if where and not isinstance(where[0], int) else None
        act(name, False, path)
        result = real(*where, **how)
        act(name, True, path)
        return result

    return call


def kill_at(n: int) -> Callable[[], None]:
    """What makes a child kill itself at the n-th moment before or after such a call, counted from 1."""

    def prepare() -> None:
        seen = 0

        def act(name: str, after: bool, path: object) -> None:
            nonlocal seen
            seen += 1
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)

        watch(act)

    return prepare


FULL = ("open", "write", "fsync", "ftruncate", "mkdir")  #: what a full disk refuses; it removes and renames
READ_ONLY = CALLS
ERRORS: dict[str, tuple[int, tuple[str, ...], bool]] = {
    "ENOSPC": (errno.ENOSPC, FULL, True),
    "EDQUOT": (errno.EDQUOT, FULL, True),
    "EIO": (errno.EIO, CALLS, False),
    "EROFS": (errno.EROFS, READ_ONLY, True),
}
"""Errors of a disk: their number, what they befall, and whether they stay once they are there."""


def fail_at(n: int, error: str) -> Callable[[], None]:
    """What makes a child's disk fail with such an error at its n-th call of those that it befalls, counted from 1."""
    number, names, stays = ERRORS[error]

    def prepare() -> None:
        seen = 0

        def act(name: str, after: bool, path: object) -> None:
            nonlocal seen
            if after:
                return
            seen += 1
            if seen == n or (stays and seen > n):
                raise OSError(number, os.strerror(number), *([path] if path else []))

        watch(act, names)

    return prepare
