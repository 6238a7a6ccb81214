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
        arrays = [np.ones(int(sys.argv[2]) << 20, np.uint8) for _ in range(3)]
        del arrays
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
for _ in range(2):
    if sys.argv[3] == "thread":
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
@pytest.mark.parametrize("megabytes", [4, 100])
def test_pages_are_not_had_anew(megabytes: int, where: str) -> None:
    """Of arrays of a photograph, and of a network's maps, here and where images are worked on side by side."""
    faults = {}
    for how in ("reused", "not"):
        command = [sys.executable, "-c", ROUNDS, how, str(megabytes), where]
        faults[how] = int(subprocess.run(command, check=True, capture_output=True).stdout.split()[-1])
    assert faults["reused"] < faults["not"] / 4, faults


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
