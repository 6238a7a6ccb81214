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
import resource, sys
import numpy as np
from instsearch_cli.engine.memory import reuse_memory
if sys.argv[1] == "reused":
    reuse_memory()
def worked():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.ones(4 << 20, np.uint8) for _ in range(10)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
worked()
print(worked())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
def test_pages_are_not_had_anew() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", ROUNDS, how], check=True, capture_output=True).stdout)
        for how in ("reused", "not")
    }
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
