"""Memory that a process has freed is used again."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine import memory

ROUNDS = """
import resource, sys, threading
import numpy as np
from instsearch_cli.engine.memory import reuse_memory
if sys.argv[1] == "reused":
    reuse_memory()
def worked():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.ones(int(sys.argv[2]) << 20, np.uint8) for _ in range(int(sys.argv[3]))]
        del arrays
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
for _ in range(2):
    if sys.argv[4] == "thread":
        thread = threading.Thread(target=worked)
        thread.start()
        thread.join()
    else:
        worked()
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize(("megabytes", "arrays"), [(4, 10), (100, 3)])
def test_pages_are_not_had_anew(megabytes: int, arrays: int, where: str) -> None:
    """Of arrays of a photograph, and of a network's maps, here and where images are worked on side by side."""
    faults = {}
    for how in ("reused", "not"):
        command = [sys.executable, "-c", ROUNDS, how, str(megabytes), str(arrays), where]
        faults[how] = int(subprocess.run(command, check=True, capture_output=True).stdout.split()[-1])
    assert faults["reused"] < faults["not"] / 4, faults


def test_an_older_library_is_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the first threshold, and would map every array by itself: the other one is taken."""
    asked: list[tuple[int, int]] = []

    class Older:
        def mallopt(self, name: int, value: int) -> int:
            asked.append((name, value))
            return int(name != -3 or value <= 32 << 20)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Older())
    memory.reuse_memory()
    assert asked == [(-8, 1), (-1, memory.KEPT), (-3, memory.LARGE), (-3, 32 << 20)]


def test_long_commands_reuse_it_and_a_single_question_does_not(
    cli: Callable[..., Any],
    photos: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[int] = []
    monkeypatch.setattr(memory, "reuse_memory", lambda: called.append(1))
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny, "--quiet")
    assert len(called) == 1
    cli("add", photos, "--index", index, "--quiet")
    assert len(called) == 2
    cli("query", next(photos.rglob("*.png")), "--index", index, "--quiet")
    assert len(called) == 2
