"""One trial: its folder, the children that it started, and what is kept of one that failed."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import children
from fuzzing.children import FaultError, Outcome
from fuzzing.shelf import QUERY, Shelf, copied, hits


class Result(NamedTuple):
    """A trial's row in the table, what went wrong (nothing: it survived), and what it cost: seconds, bytes."""

    row: str
    seed: int
    fault: str
    seconds: float
    peak: int


class Bench:
    """What a trial is given: a folder of its own, chance, and children that are noted.

    row  the trial's row in the table, which it sets as soon as it knows
    """

    def __init__(self, shelf: Shelf, folder: Path, seed: int) -> None:
        self.shelf, self.folder, self.seed = shelf, folder, seed
        self.chance = random.Random(seed)
        self.row = ""
        self.outcomes: list[Outcome] = []
        self.notes: list[str] = []
        self.input: Path | None = None  #: the changed index as it was before any command

    def note(self, text: str) -> None:
        self.notes.append(text)

    def add(self, outcome: Outcome, may_die: bool = False) -> Outcome:
        """Note a child. Raises FaultError where it crashed, hung, or took a bug for an answer."""
        self.outcomes.append(outcome)
        if outcome.fault and not (may_die and outcome.killed):
            raise FaultError(f"{_verb(outcome)}: {outcome.fault}")
        return outcome

    def run(self, *words: object, **how: Any) -> Outcome:
        return self.add(children.command(*words, **how))

    def query(self, index: Path, pipeline: str | None = None, **how: Any) -> Outcome:
        named = ["--pipeline", pipeline] if pipeline else []
        return self.run("query", self.shelf.picture, "--index", index, *QUERY, *named, **how)

    def copy(self, index: Path) -> Path:
        return copied(index, self.folder / "index")

    def keep_input(self, index: Path) -> None:
        """Remember an index as it is now, so that a failed trial can be had again."""
        self.input = copied(index, self.folder / "input")


Trial = Callable[[Bench], None]


def attempt(kind: str, trial: Trial, shelf: Path, seed: int, keep: Path | None) -> Result:
    """Do one trial in a folder of its own, and keep what failed in a folder of ``keep``."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=shelf))
    bench = Bench(Shelf(shelf), folder, seed)
    fault = ""
    try:
        trial(bench)
    except FaultError as error:
        fault = str(error)
    except Exception as error:
        fault = f"the trial itself: {type(error).__name__}: {error}"
        bench.note(traceback.format_exc())
    if fault and keep is not None:
        _keep(keep / f"{kind}-{seed}", bench, fault)
    shutil.rmtree(folder, ignore_errors=True)
    peak = max((outcome.peak for outcome in bench.outcomes), default=0)
    return Result(bench.row or "-", seed, fault, time.monotonic() - began, peak)


def _keep(folder: Path, bench: Bench, fault: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = [f"{bench.row}: {fault}", *bench.notes, "", *map(str, bench.outcomes)]
    (folder / "what.txt").write_text("\n".join(text), "utf-8", "replace")
    if bench.input is not None:
        copy = shutil.copytree if bench.input.is_dir() else shutil.copyfile
        copy(bench.input, folder / "input")


def _verb(outcome: Outcome) -> str:
    return " ".join(outcome.what.split()[1:2])


def sound_answers(shelf: Shelf, index: Path, name: str, pipelines: list[str]) -> dict[str, str]:
    """What each pipeline of a sound index answers."""

    def make() -> dict[str, str]:
        found = {}
        for pipeline in pipelines:
            words = ("query", shelf.picture, "--index", index, *QUERY, "--pipeline", pipeline)
            outcome = children.command(*words)
            if outcome.status:
                raise FaultError(f"a sound index fails: {outcome}")
            found[pipeline] = hits(outcome)
        return found

    answers: dict[str, str] = shelf.expected(f"answers {name}", make)
    return answers
