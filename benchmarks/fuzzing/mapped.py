"""Files that are cut short, emptied or deleted under an open index: an answer or an error, no crash."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from fuzzing.children import FaultError, Task, forked
from fuzzing.shelf import PIPELINES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fuzzing.bench import Bench

SECONDS = 3.0  #: for which questions are asked while a file is cut short


def trial(bench: Bench) -> None:
    """Ask an open index, harm a file of it, and ask again; or harm it while it is asked again and again."""
    chance = bench.chance
    name = chance.choice(("large", "large", "many", "sift"))
    index = bench.copy(bench.shelf.index(name))
    kinds = ("search", "search", "search", "models", "codes", "local", "images")
    files = sorted((index / chance.choice(kinds)).rglob("*.h5")) or sorted((index / "search").rglob("*.h5"))
    path = chance.choice(files)
    used = [p for p in PIPELINES[name] if _uses(index, p, path)] or list(PIPELINES[name])
    pipeline = chance.choice(used)
    how, during = chance.choice(("cut", "cut", "emptied", "deleted", "cut and back")), chance.random() < 0.5
    bench.row = f"{how} {'during' if during else 'before'} a question: {path.relative_to(index).parts[0]}"
    length = chance.choice((0, 512, 4096, 5000, path.stat().st_size // 2, path.stat().st_size - 1))
    bench.note(
        f"{path.relative_to(index)} of {path.stat().st_size} bytes: {how} at {length}; asked: {pipeline}"
    )
    if during:
        wait = chance.uniform(0.05, 1.0)
        task = _while_asked(bench.shelf.picture, index, pipeline, lambda: _harm(path, how, length, wait))
    else:
        task = _between(bench.shelf.picture, index, pipeline, lambda: _harm(path, how, length, 0))
    outcome = bench.add(forked(f"an open index, {pipeline}", task))
    if "another answer" in outcome.out:
        raise FaultError(f"another answer without a word, {len(outcome.out.splitlines())} times")


def _uses(index: Path, pipeline: str, path: Path) -> bool:
    text = (index / "pipelines" / f"{pipeline}.json").read_text()
    return f'"{path.relative_to(index).parent}"' in text or f'"{path.relative_to(index)}"' in text


def _harm(path: Path, how: str, length: int, wait: float) -> None:
    time.sleep(wait)
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        os.truncate(path, 0 if how == "emptied" else length)
    if how == "cut and back":
        time.sleep(0.05)
        path.write_bytes(data)


def _asker(picture: Path, index: Path, pipeline: str) -> Callable[[], list[tuple[str, float]] | None]:
    """A function that asks an index that it keeps open: hits, None for an error of the project's, or a warning."""
    import instsearch

    opened = instsearch.Index.open(index)

    def ask() -> list[tuple[str, float]] | None:
        try:
            found = opened.query(picture, box=(20, 10, 100, 90), k=40, pipeline=pipeline)
        except instsearch.InstsearchError:
            return None
        return [(hit.image, hit.score) for hit in found.hits] if not found.cautions else None

    return ask


def _between(picture: Path, index: Path, pipeline: str, harm: Callable[[], None]) -> Task:
    def task() -> int:
        ask = _asker(picture, index, pipeline)
        first = ask()
        harm()
        for _ in range(3):
            if (second := ask()) not in (first, None):
                print(f"another answer: {second}")
        return 0

    return task


def _while_asked(picture: Path, index: Path, pipeline: str, harm: Callable[[], None]) -> Task:
    def task() -> int:
        ask = _asker(picture, index, pipeline)
        first = ask()
        pid = os.fork()
        if not pid:
            harm()
            os._exit(0)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            if (second := ask()) not in (first, None):
                print(f"another answer: {second}")
        os.waitpid(pid, 0)
        return 0

    return task
