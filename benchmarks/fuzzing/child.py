"""A command in a process of its own, so that whatever becomes of it is seen: signals, hangs, memory, what it says."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 120.0  #: seconds after which a command hangs


class Ended(NamedTuple):
    """How a command ended: its status, or the signal or the patience that ended it; what it said; what it took."""

    status: int
    ended_by: str
    out: str
    err: str
    seconds: float
    megabytes: float

    @property
    def fault(self) -> str:
        """Why it did not survive, "" if it did: a result, or one of the program's own errors."""
        if self.ended_by:
            return self.ended_by
        for word in ("Traceback (most recent call last)", "This is a bug", "is a bug in"):
            if word in self.err:
                return f"{word}: {self.err.strip().splitlines()[-1][:200]}"
        return "" if self.status in (0, 1, 2, 3) else f"exit status {self.status}"


def forked(call: Callable[[], int], patience: float = PATIENCE, grace: float | None = None) -> Ended:
    """Run ``call`` in a fork of this process; it is killed after ``grace`` seconds, if these are given."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began, by = time.monotonic(), ""
        pid = os.fork()
        if pid == 0:
            _child(call, out.fileno(), err.fileno())
        limit = patience if grace is None else grace
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - began > limit:
                os.kill(pid, signal.SIGKILL)
                _, status, usage = os.wait4(pid, 0)
                by = "" if grace is not None else f"hangs for {limit:.0f} s"
                break
            time.sleep(0.002)
        if os.WIFSIGNALED(status) and not by:
            by = signal.Signals(os.WTERMSIG(status)).name
        said, warned = _text(out), _text(err)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return Ended(code, by, said, warned, time.monotonic() - began, usage.ru_maxrss / 1024)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _child(call: Callable[[], int], out: int, err: int) -> None:
    status = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = call()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def command(*arguments: object, **how: Any) -> Ended:
    """A command of the program, in a fork."""
    from instsearch_cli.main import run

    return forked(lambda: run([str(a) for a in arguments]), **how)


def must(*arguments: object) -> Ended:
    """A command that has to end well. Raises SystemExit if it does not: nothing can be tried then."""
    ended = command(*arguments)
    if ended.status or ended.ended_by:
        raise SystemExit(f"{arguments} ended with {ended.status} {ended.ended_by}: {ended.err[-800:]}")
    return ended


def hits(ended: Ended) -> list[Any] | None:
    """What was found, as people see it; None where there is no answer."""
    try:
        found = json.loads(ended.out)["hits"]
    except (ValueError, LookupError, TypeError):
        return None
    return [(Path(hit["path"]).name, hit["score"], hit["box"]) for hit in found]
