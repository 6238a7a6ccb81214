"""A few trials of each kind of `benchmarks/fuzz.py`, and that it sees what goes wrong; hours of it are run by hand."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KINDS = ("kills", "disks", "raw", "sealed", "pictures", "inputs", "mapped", "crowd")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="wants fork, and bounds of memory")


@pytest.fixture
def fuzzing(monkeypatch):
    """The modules of the bench."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return {name: importlib.import_module(f"fuzzing.{name}") for name in ("calls", "children", "crowd")}


def run(tmp_path, *words):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "fuzz.py", *words, "--work", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    return done


@pytest.mark.timeout(600)
def test_a_few_trials_of_each_kind(tmp_path):
    done = run(tmp_path, ",".join(KINDS[:-1]), "2", "7", "--json", "--keep", tmp_path / "kept")
    rows = json.loads(done.stdout)["trials"]
    counts = dict.fromkeys(KINDS[:-1], 0)
    for row in rows:
        assert row["survived"] == row["count"], row
        counts[row["trial"].partition(":")[0]] += row["count"]
    assert set(counts.values()) == {2}
    assert not list(tmp_path.glob("kept/*"))


@pytest.mark.timeout(600)
def test_a_crowd(tmp_path):
    done = run(tmp_path, "crowd", "1", "3")
    assert "1 of 1 survived" in done.stdout, done.stdout


def test_what_is_wrong_with_the_words_is_said(tmp_path):
    for words, said in (
        (("nothing", "1"), "there is no kind 'nothing'"),
        (("raw", "0"), "count is at least 1"),
    ):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / "fuzz.py", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr


def crash():
    ctypes.string_at(0)
    return 0


def raised():
    raise ValueError("of no class of ours")


def said(text, status):
    def task():
        print(text, file=sys.stderr)
        return status

    return task


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (crash, "SIGSEGV in "),
        (raised, "bug: ValueError: of no class of ours"),
        (said("error: KeyError: 'x'\nThis is a bug, here or in a plugin", 1), "bug: error: KeyError: 'x'"),
        (said("", 1), "exit status 1 without a word"),
        (said("error: no such index", 7), "exit status 7"),
        (lambda: len(bytearray(4 << 30)), "bug: MemoryError"),
        (said("error: no such index", 1), ""),
        (lambda: 0, ""),
    ],
)
def test_a_fault_is_seen(fuzzing, task, fault):
    outcome = fuzzing["children"].forked("x", task)
    assert outcome.fault.startswith(fault)
    assert bool(outcome.fault) == bool(fault)


def test_a_hang_is_seen(fuzzing):
    outcome = fuzzing["children"].forked("x", lambda: time.sleep(60) or 0, seconds=0.2)
    assert outcome.fault.startswith("hang")
    died = fuzzing["children"].forked("x", lambda: time.sleep(60) or 0, seconds=0.2, dies=True)
    assert died.killed


def write(folder):
    """Eight calls that change the disk."""
    (folder / "a").mkdir()
    with (folder / "a" / "b").open("w") as file:
        file.write("text")
        file.flush()
        os.fsync(file.fileno())
    (folder / "a" / "b").replace(folder / "c")
    (folder / "c").unlink()
    (folder / "a").rmdir()
    return 0


def test_a_process_is_killed_at_any_call(fuzzing, tmp_path):
    """Before and after each of them, in order."""
    left = []
    for n in range(1, 16):
        folder = tmp_path / str(n)
        folder.mkdir()
        before = fuzzing["calls"].kill_at(n)
        outcome = fuzzing["children"].forked("x", lambda: before() or write(folder))  # noqa: B023
        assert outcome.killed == (n <= 14), n
        left.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    whole, steps = ["a", "a/b"], [[], ["a"], ["a"]]
    assert left == [*steps, *[whole] * 6, ["a", "c"], ["a", "c"], ["a"], ["a"], [], []]


@pytest.mark.parametrize(("error", "calls"), [("ENOSPC", 4), ("EIO", 7)])
def test_a_disk_fails_at_any_call(fuzzing, tmp_path, error, calls):
    for n in range(1, calls + 2):
        folder = tmp_path / str(n)
        folder.mkdir()
        before = fuzzing["calls"].fail_at(n, error)
        outcome = fuzzing["children"].forked("x", lambda: before() or write(folder))  # noqa: B023
        assert bool(outcome.status) == (n <= calls), (n, outcome)
        assert ("OSError" in outcome.err) == (n <= calls)


def test_an_answer_of_no_state_is_seen(fuzzing):
    crowd, outcome = fuzzing["crowd"], fuzzing["children"].Outcome("x", 0, False, "", "", 1, 1)
    writes = [
        crowd.Write(("add",), come=("c", "d")),
        crowd.Write(("add", "again"), gone=("a",), come=("a",)),
        crowd.Write(("remove",), gone=("b",)),
    ]
    before, after = {"a": 1.0, "b": 2.0, "x": 3.0}, {"a": 1.5, "c": 4.0, "d": 5.0, "x": 3.0}
    times = dict.fromkeys(range(3), (10.0, 20.0, outcome))

    def judge(began, ended, **scores):
        crowd._judge(crowd.Answer(began, ended, scores), writes, times, before, after)

    judge(0, 9, **before)
    judge(21, 30, **after)
    judge(11, 12, a=1.5, b=2.0, x=3.0)
    judge(11, 12, a=1.0, b=2.0, c=4.0, d=5.0, x=3.0)
    for when, scores, what in (
        ((11, 12), {**before, "c": 4.0}, "`add` is half done"),
        ((11, 12), {"b": 2.0, "x": 3.0}, "`add again` is half done"),
        ((0, 9), after, "is done"),
        ((21, 30), {**after, "b": 2.0}, "`remove` is not done"),
        ((0, 9), {**before, "x": 3.1}, "no writer touched"),
    ):
        with pytest.raises(fuzzing["children"].FaultError, match=what):
            judge(*when, **scores)
