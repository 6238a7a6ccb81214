"""Work in a forked child, bounded in time and memory: how it ended, what it printed, what it cost.

Whoever forks has imported everything and started no thread, so that a child is there in milliseconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

SECONDS = 60.0  #: that a child may take
MEMORY = 3 << 30  #: bytes of addresses that it may have beside those of its parent
GROWTH = 1 << 30  #: bytes in memory that it may have beside those of its parent
STATUSES = (0, 1, 2, 3)  #: that the program may end with

Task = Callable[[], int]


class FaultError(Exception):
    """A trial went wrong; the message says how."""


class Outcome(NamedTuple):
    """How a child ended. status: its exit status, or less than 0: the signal that ended it; peak: bytes in memory."""

    what: str
    status: int
    hung: bool
    out: str
    err: str
    seconds: float
    peak: int

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL and not self.hung

    @property
    def fault(self) -> str:
        """What no run may do, in words; nothing for one that ended as it should, with an error or without."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("error:")), "")
        text = self.err + self.out
        if self.hung:
            return f"hang: more than {SECONDS:g} s"
        if self.status < 0:
            return f"{signal.Signals(-self.status).name} {_where(lines)}".strip()
        if "This is a bug" in text or "Traceback" in text:
            return f"bug: {said or lines[-1]}"
        if self.status not in STATUSES:
            return f"exit status {self.status}"
        if self.status and not said and not self.out.strip():
            return f"exit status {self.status} without a word"
        grown = self.peak - _resident()
        return f"{grown >> 20:,} MB of memory" if grown > GROWTH else ""

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        end = "\n".join([f"$ {self.what}", self.out[-4000:], self.err[-4000:]])
        return f"{end}\n-> {self.status}, {self.seconds:.2f} s, {self.peak >> 20} MB\n"


class Child:
    """A task that is done in a child meanwhile; :meth:`ended` says how, once it has."""

    def __init__(self, what: str, task: Task) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.what, self.began = what, time.monotonic()
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._pid = os.fork()
        if not self._pid:
            _within(task, self._out, self._err)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def ended(self, wait: bool = False, hung: bool = False) -> Outcome | None:
        """How it ended; None where it has not."""
        pid, status, usage = os.wait4(self._pid, 0 if wait else os.WNOHANG)
        if not pid:
            return None
        took = time.monotonic() - self.began
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read(1 << 22).decode("utf-8", "replace"))
            file.close()
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Outcome(self.what, os.waitstatus_to_exitcode(status), hung, texts[0], texts[1], took, peak)


def forked(what: str, task: Task, seconds: float = SECONDS, dies: bool = False) -> Outcome:
    """Do a task in a child and wait for it, killed after ``seconds``: that is a hang, unless it ``dies`` of it."""
    child = Child(what, task)
    while (outcome := child.ended()) is None:
        if time.monotonic() - child.began > seconds:
            child.kill()
            outcome = child.ended(wait=True, hung=not dies)
            assert outcome is not None
            return outcome
        time.sleep(0.002)
    return outcome


def task_of(*words: object, before: Callable[[], None] | None = None) -> tuple[str, Task]:
    """A command line as text, and as a task; ``before`` is called first."""
    from instsearch_cli.main import run

    arguments = [str(word) for word in words]

    def task() -> int:
        if before is not None:
            before()
        return run(arguments)

    return f"instsearch {' '.join(arguments)}", task


def command(*words: object, before: Callable[[], None] | None = None, **how: Any) -> Outcome:
    """Run a command line in a child; ``before`` is called there first. ``how``: as :func:`forked`."""
    return forked(*task_of(*words, before=before), **how)


def asked(what: str, function: Callable[[], Any]) -> Any:
    """What a function gives, JSON-ready, computed in a child. Raises FaultError where that fails."""

    def task() -> int:
        print(json.dumps(function()))
        return 0

    outcome = forked(what, task)
    if outcome.status:
        raise FaultError(f"{what}: {outcome.fault} {outcome.err[-500:]}")
    return outcome.json


def _within(task: Task, out: IO[bytes], err: IO[bytes]) -> None:
    """The child's whole life."""
    status = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        faulthandler.enable(sys.stderr, all_threads=False)
        bound(MEMORY)
        status = task()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def bound(nbytes: int) -> None:
    """Let this process have so many bytes of addresses beside what it has, and leave no dumps of its memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + nbytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _resident() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _where(lines: list[str]) -> str:
    """The innermost frame that faulthandler wrote."""
    frames = [line.strip() for line in lines if line.strip().startswith('File "')]
    if not frames:
        return ""
    name, line, function = frames[0].split(", ", 1)[0], *frames[0].split(" line ", 1)[1].split(" in ", 1)
    return f"in {Path(name[6:-1]).name}:{line} {function}"
