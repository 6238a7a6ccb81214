"""Disks that are full, over quota, read-only or broken, at any call: a true line, and the same command completes it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fuzzing import calls, scenes
from fuzzing.children import FaultError, command
from fuzzing.kills import complete
from fuzzing.scenes import SCENES, Reference
from fuzzing.shelf import hits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fuzzing.bench import Bench

SAID = {
    "ENOSPC": ("no space left",),
    "EDQUOT": ("no space left", "quota"),
    "EROFS": ("read-only", "cannot be written"),
    "EIO": ("input/output error", "cannot"),
    "file size": ("no space left", "file too large"),
    "small disk": ("no space left", "free"),
    "read-only disk": ("read-only", "cannot be written"),
}
"""What an error has to speak of, one of them."""


def trial(bench: Bench) -> None:
    """Run a command on a disk that fails; see what it says, ask, repeat it on a healthy disk, and compare."""
    name = bench.chance.choice(scenes.scenes())
    how = bench.chance.choice([how for how in SAID if "disk" not in how or _mounts()])
    bench.row = f"{how}, {name}"
    expected = scenes.reference(bench.shelf, name)
    with _disk(bench.folder, "disk" in how):
        _on_a_disk(bench, name, how, expected)


def _on_a_disk(bench: Bench, name: str, how: str, expected: Reference) -> None:
    index, out = bench.folder / "index", bench.folder / "out"
    out.mkdir()
    base = scenes.base(bench.shelf, name)
    if base is not None:
        bench.copy(base)
    words = scenes.words(bench.shelf, name, index, out)
    outcome = bench.add(command(*words, before=_ill(bench, how, expected)))
    if outcome.status and not any(word in outcome.err.lower() for word in SAID[how]):
        raise FaultError(f"it does not say what is wrong: {outcome.err.strip()[:300]}")
    if outcome.status and len(outcome.err.strip().splitlines()) > 2:
        raise FaultError(f"it says more than two lines: {outcome.err.strip()[:600]}")
    if SCENES[name].writes_index:
        _ask(bench, index, expected, before=calls.fail_at(1, "EROFS"))
    if "disk" in how:
        _mount("remount,rw,size=256m", bench.folder)
    complete(bench, name, words)


def _ask(bench: Bench, index: Path, expected: Reference, before: Callable[[], None]) -> None:
    """A query, which writes nothing that it needs, answers as before or as after."""
    outcome = bench.query(index, before=before)
    if outcome.status and (expected.before or "`instsearch " not in outcome.err):
        raise FaultError(f"afterwards a query fails: {outcome.err.strip()[:300]}")
    if not outcome.status and hits(outcome) not in (expected.before, expected.after):
        raise FaultError("afterwards a query answers neither as before nor as after")


def _ill(bench: Bench, how: str, expected: Reference) -> Callable[[], None] | None:
    """What makes the disk fail: in the child, or of the folder's disk."""
    chance = bench.chance
    if how == "file size":
        limit = chance.choice((3000, 3500, 4200, 5000, 6000, 10_000, 60_000))
        bench.note(f"files of at most {limit} bytes")
        return lambda: _limit(limit)
    if how == "small disk":
        used = sum(path.stat().st_size for path in bench.folder.rglob("*") if path.is_file())
        room = chance.randint(0, 60) << 12
        bench.note(f"{room} bytes of room on the disk")
        blocks = sum(-(-p.stat().st_size // 4096) + 1 for p in bench.folder.rglob("*")) << 12
        _mount(f"remount,size={max(used, blocks) + room}", bench.folder)
        return None
    if how == "read-only disk":
        _mount("remount,ro", bench.folder)
        return None
    n = chance.randint(1, max(1, expected.failures[how]))
    bench.note(f"{how} at call {n} of {expected.failures[how]}")
    return calls.fail_at(n, how)


def _limit(nbytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def _mounts() -> bool:
    """Whether a small disk in memory can be mounted here."""
    return os.geteuid() == 0 and bool(shutil.which("mount")) and os.uname().sysname == "Linux"


@contextmanager
def _disk(folder: Path, wanted: bool) -> Iterator[None]:
    """A small disk of its own at a folder."""
    if not wanted:
        yield
        return
    _mount("size=256m", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def _mount(options: str, folder: Path) -> None:
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True
        )
    except subprocess.CalledProcessError as error:
        raise FaultError(f"the trial itself: {error.stderr.decode().strip()}") from error
