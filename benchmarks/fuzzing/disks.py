"""Disks that are full, fail or are read-only: the command says so, and runs well on a sound one afterwards."""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import TYPE_CHECKING, Any

import numpy as np

from fuzzing.child import forked
from fuzzing.scenes import VERBS, Scenes, settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)


def failing(arguments: list[str], n: int, code: int) -> Callable[[], int]:
    """A command for which the n-th and every later writing, syncing, renaming or making of a folder fails."""

    def call() -> int:
        from instsearch_cli.main import run
        from instsearch_formats import sink

        seen = 0

        def checked(real: Callable[..., Any]) -> Callable[..., Any]:
            def event(*where: Any, **how: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen >= n:
                    raise OSError(code, os.strerror(code))
                return real(*where, **how)

            return event

        for name in ("replace", "fsync", "mkdir"):
            setattr(os, name, checked(getattr(os, name)))
        sink.Sink._write_all = checked(sink.Sink._write_all)  # type: ignore[method-assign]
        return run(arguments)

    return call


def small(arguments: list[str], limit: int) -> Callable[[], int]:
    """A command whose files may have so many bytes, and no more."""

    def call() -> int:
        from instsearch_cli.main import run

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return run(arguments)

    return call


def trial(scenes: Scenes, seed: int, work: Path) -> tuple[str, str]:
    """One command on a bad disk: what was tried, and the fault, "" for none."""
    rng = np.random.default_rng((4, seed))
    verb = VERBS[seed % len(VERBS)]
    scene = scenes.scene(verb)
    index = scene.copy(work / "disk")
    arguments = scene.at(index)
    if rng.integers(3):
        n, code = int(rng.integers(1, 80)), ERRORS[int(rng.integers(len(ERRORS)))]
        ended = forked(failing(arguments, n, code))
        what = f"{verb}: {errno.errorcode[code]} from event {n} on"
    else:
        limit = int(np.exp(rng.uniform(np.log(300), np.log(300_000))))
        ended = forked(small(arguments, limit))
        what = f"{verb}: files of {limit:,} bytes at most"
    if ended.fault:
        return what, ended.fault
    return what, settled(scene, index)
