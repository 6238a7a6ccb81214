"""Pictures damaged at random are read or refused with a reason, whatever was done to them: a few of the benchmark's."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("fuzz_pictures")


def test_whole_they_are_read_or_not_supported(fuzz: ModuleType, tmp_path: Path) -> None:
    """What is damaged is a picture before."""
    outcomes = {}
    for name, data in fuzz.pictures().items():
        (tmp_path / name).write_bytes(data)
        outcomes[name] = fuzz.read(tmp_path / name)
    assert {name for name, outcome in outcomes.items() if outcome != "read"} == {"a.tga", "a.ico"}


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_a_few_hundred_of_them(fuzz: ModuleType, first: int) -> None:
    trials = [fuzz.trial(seed) for seed in range(first, first + 100)]
    assert not [trial for trial in trials if trial[1].startswith("bug") or trial[2] > fuzz.SECONDS]
    assert {"read", "damaged", "truncated"} <= {outcome for _, outcome, _ in trials}
    assert trials[7][:2] == fuzz.trial(first + 7)[:2]


def test_a_process_apart_says_how_it_ended(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, time\ndef ends(): os.abort()\ndef hangs(): time.sleep(60)\ndef adds(a, b): return a + b\n"
    )
    (tmp_path / "functions.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for function, says in ("ends", "crash: SIGABRT"), ("hangs", "hang: more than 1 s"):
        with fuzz.Isolated(f"functions:{function}", 1.0) as call, pytest.raises(fuzz.Died, match=f"^{says}$"):
            call()
    with fuzz.Isolated("functions:adds", 60.0) as call:
        assert (call(1, 2), call(3, 4)) == (3, 7)
        assert call.peak > 1_000_000
