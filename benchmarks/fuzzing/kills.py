"""Kills of every verb that writes, at any call that changes the disk or at any time: the same command completes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fuzzing import calls, scenes
from fuzzing.children import FaultError, command
from fuzzing.scenes import SCENES, Reference
from fuzzing.shelf import contents, files, hits, outputs

if TYPE_CHECKING:
    from pathlib import Path

    from fuzzing.bench import Bench
    from fuzzing.children import Outcome


def trial(bench: Bench) -> None:
    """Kill a command once, twice or three times, ask in between, repeat it, and compare with an undisturbed run."""
    name = bench.chance.choice(scenes.scenes())
    at_call = bench.chance.random() < 0.5
    bench.row = f"{name}, {'at a call' if at_call else 'at a time'}"
    expected = scenes.reference(bench.shelf, name)
    index, out = bench.folder / "index", bench.folder / "out"
    out.mkdir()
    base = scenes.base(bench.shelf, name)
    if base is not None:
        bench.copy(base)
    words = scenes.words(bench.shelf, name, index, out)
    for _ in range(bench.chance.choice((1, 1, 1, 2, 3))):
        if at_call:
            n = bench.chance.randint(1, expected.moments)
            bench.note(f"killed at moment {n} of {expected.moments}")
            outcome = bench.add(command(*words, before=calls.kill_at(n)), may_die=True)
        else:
            seconds = bench.chance.uniform(0, 1.2 * expected.seconds)
            bench.note(f"killed after {seconds:.3f} s")
            outcome = bench.add(command(*words, seconds=seconds, dies=True), may_die=True)
        if not outcome.killed and outcome.status and not _refused(name, outcome):
            raise FaultError(f"exit status {outcome.status}: {outcome.err[-300:]}")
        if SCENES[name].writes_index:
            _ask(bench, index, expected)
    complete(bench, name, words)


def _ask(bench: Bench, index: Path, expected: Reference) -> None:
    """In between a query answers as before or as after, or says what to run where there was nothing before."""
    outcome = bench.query(index)
    if outcome.status:
        if expected.before:
            raise FaultError(f"in between a query fails: {outcome.err.strip()[:300]}")
        if outcome.status != 1 or "`instsearch " not in outcome.err:
            raise FaultError(f"in between a query does not say what to run: {outcome.err.strip()[:300]}")
    elif hits(outcome) not in (expected.before, expected.after):
        raise FaultError("in between a query answers neither as before nor as after")


def complete(bench: Bench, name: str, words: list[str]) -> None:
    """Repeat the command, and compare what is there with what an undisturbed run leaves."""
    expected, index = scenes.reference(bench.shelf, name), bench.folder / "index"
    outcome = bench.run(*words)
    if outcome.status and not _refused(name, outcome):
        raise FaultError(f"repeated, it ends with {outcome.status}: {outcome.err.strip()[:300]}")
    if outputs(bench.folder / "out") != expected.outputs:
        raise FaultError("what it wrote beside the index differs")
    if not index.exists():
        return
    if SCENES[name].writes_index and hits(bench.query(index)) != expected.after:
        raise FaultError("another answer in the end")
    sound = bench.run("verify", "--index", index, "--quiet")
    if sound.status:
        raise FaultError(f"verify in the end: {sound.out.strip()[:300]}")
    if bench.run("gc", "--index", index).status:
        raise FaultError("gc fails in the end")
    there, wanted = files(index), set(expected.files)
    found, whole = (_renamed(some, SCENES[name].renews) for some in (contents(index), expected.contents))
    if SCENES[name].renews:
        there, wanted = ({_plain(file) for file in some} for some in (there, wanted))
    if found != whole:
        keys = [key for key in sorted(found.keys() | whole.keys()) if found.get(key) != whole.get(key)]
        raise FaultError(f"differs in the end: {', '.join(keys[:3])} and {len(keys)} in all")
    if there != wanted:
        raise FaultError(f"other files in the end: {sorted(there ^ wanted)[:4]}")


def _refused(name: str, outcome: Outcome) -> bool:
    """Whether there was nothing left to do."""
    refuses = SCENES[name].refuses
    return outcome.status == 2 and bool(refuses) and refuses in outcome.err


def _renamed(digests: dict[str, str], renews: bool) -> dict[str, list[str]]:
    """Digests by where they lie: where fingerprints are new each time, by the places without, which several share."""
    found: dict[str, list[str]] = {}
    for path, digest in sorted(digests.items(), key=lambda each: each[1]):
        found.setdefault(_plain(path) if renews else path, []).append(digest)
    return found


def _plain(path: str) -> str:
    """A path without the digits of fingerprints."""
    return re.sub(r"-[0-9a-f]{12}\b", "", path)
