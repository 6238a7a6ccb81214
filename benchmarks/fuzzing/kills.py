"""Commands that are killed, at an event or at a time, and run again."""

from __future__ import annotations

import io
import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np

from fuzzing.child import forked
from fuzzing.scenes import VERBS, Scenes, answers, settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENTS = ("replace", "unlink", "rmdir", "fsync", "mkdir", "open")


def lethal(arguments: list[str], n: int) -> Callable[[], int]:
    """A command whose process is killed before or after the n-th event that writes or removes."""

    def call() -> int:
        from instsearch_cli.main import run

        seen = 0

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def event(*where: Any, **how: Any) -> Any:
                if real is not opened or (len(where) > 1 and where[1] & (os.O_WRONLY | os.O_RDWR)):
                    count()
                    result = real(*where, **how)
                    count()
                    return result
                return real(*where, **how)

            return event

        opened = os.open
        for name in EVENTS:
            setattr(os, name, counted(getattr(os, name)))
        whole = io.FileIO

        class Written(whole):  # type: ignore[misc, valid-type]
            def write(self, data: Any) -> Any:
                count()
                return super().write(data)

        io.FileIO = Written  # type: ignore[misc]
        return run(arguments)

    return call


def trial(scenes: Scenes, seed: int, work: Path) -> tuple[str, str]:
    """One command killed: what was tried, and the fault, "" for none."""
    from instsearch_cli.main import run

    rng = np.random.default_rng((3, seed))
    verb = VERBS[seed % len(VERBS)]
    scene = scenes.scene(verb)
    index = scene.copy(work / "killed")
    arguments = scene.at(index)
    if rng.integers(3):
        n = int(rng.integers(1, 120))
        forked(lethal(arguments, n))
        what = f"{verb} killed at event {n}"
    else:
        moment = float(rng.uniform(0, scene.seconds))
        forked(lambda: run(arguments), grace=moment)
        what = f"{verb} killed after {moment:.2f} s"
    if index.exists() and (index / "pipelines").exists():
        for was, will, now in zip(*scene.answers, answers(index, scene.pictures), strict=True):
            if scene.before is not None and now not in (was, will):
                return what, f"the answer is neither of before nor of after: {now}"
    return what, settled(scene, index)
