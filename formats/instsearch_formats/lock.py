"""One writer at a time, by a lock that the operating system drops with its process."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from instsearch_formats import places
from instsearch_formats.errors import FormatError, LockedError, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
POLL = 0.1  #: seconds between two tries to take a lock
_NOTE = 128  #: bytes of what a lock says
_LIMIT = 2**16  #: bytes of a lock file at most


class Patience(NamedTuple):
    """How many seconds a lock is waited for, and whom to tell, in words, that it is waited for."""

    seconds: float = 0.0
    say: Callable[[str], None] | None = None


_none = Patience()
_patience: ContextVar[Patience] = ContextVar("patience", default=_none)


@contextlib.contextmanager
def waiting(seconds: float, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within this context a lock that another process holds is waited for, at most so many seconds."""
    token = _patience.set(Patience(seconds, say))
    try:
        yield
    finally:
        _patience.reset(token)


def _forget() -> None:
    """A forked child must not keep its parent's lock alive."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class WriterLock:
    """The lock of one index. Within one object it may be taken again, from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._depth = 0
        self._descriptor = -1

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; LockedError, with who has it, if another process does: at once, but for :func:`waiting`."""
        with self._guard:
            if not self._depth:
                self._descriptor = self._acquire()
            self._depth += 1
        try:
            yield
        finally:
            with self._guard:
                self._depth -= 1
                if not self._depth:
                    self._release()

    def _acquire(self) -> int:
        with writing(self._path):
            descriptor = places.open_file(self._path, flags=os.O_RDWR | os.O_CREAT, limit=_LIMIT)
        try:
            if os.fstat(descriptor).st_nlink > 1 and os.read(descriptor, 8) not in (b"", b'{"pid": '):
                raise FormatError(f"{self._path} is a second name of some other file, no lock: delete it")
            self._wait(descriptor)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            note = json.dumps({"pid": os.getpid(), "since": now}).encode("ascii")
            with writing(self._path):
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, note.ljust(_NOTE))
        except BaseException:
            os.close(descriptor)
            raise
        _held.add(descriptor)
        return descriptor

    def _wait(self, descriptor: int) -> None:
        """Take the lock, within the patience there is. Raises LockedError."""
        patience = _patience.get()
        until = time.monotonic() + patience.seconds
        while not try_lock(descriptor):
            busy = f"{self._path.parent} is being written to by {_holder(descriptor)}"
            if time.monotonic() >= until:
                waited = f" ({patience.seconds:g} s were not enough)" if patience.seconds else ""
                raise LockedError(f"{busy}: wait until it has ended{waited}")
            if patience.say is not None:
                patience.say(f"{busy}: waiting")
                patience = Patience(patience.seconds)
            time.sleep(POLL)

    def _release(self) -> None:
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False where another process has it. Raises FormatError where none can."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, 1024, os.SEEK_SET)  # beyond the note: a locked byte cannot be read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise FormatError(f"this file system cannot lock files: {error.strerror or error}") from error
    return True


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        note = json.loads(os.read(descriptor, _NOTE))
        return f"process {note['pid']}, since {note['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
