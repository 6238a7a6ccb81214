"""Questions to an index that others write to, and to one whose files are cut short while they are mapped."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fuzzing.child import command, forked, hits
from fuzzing.shelf import KINDS, Shelf, draw, texture

if TYPE_CHECKING:
    from pathlib import Path

WRITERS = 20


def writers(shelf: Shelf, index: Path, photos: Path, log: Path, seed: int) -> int:
    """Twenty commands that change an index, one after the other; the answer of each state goes to the log."""
    rng = np.random.default_rng((5, seed))
    with log.open("w") as file:
        for i in range(WRITERS):
            texture(200 + 7 * seed % 50 + i).save(photos / f"w{i:02}.png")
            names = sorted(p.name for p in photos.iterdir())
            verbs = {
                "add": ("add", photos, "--quiet"),
                "remove": ("remove", names[int(rng.integers(len(names) - 3))]),
                "stage": ("index", *KINDS["hamming"], "--set", f"searcher.ht={20 + i}"),
                "gc": ("gc",),
                "sync": ("sync", "--max-remove", "100%", "--quiet"),
            }
            verb = list(verbs)[int(rng.integers(len(verbs)))]
            command(verbs[verb][0], *verbs[verb][1:], "--index", index)
            found = hits(command("query", shelf.picture, "--index", index, "--json", "-k", "60"))
            file.write(json.dumps(found) + "\n")
            file.flush()
    return 0


def crowd(shelf: Shelf, seed: int, work: Path) -> tuple[str, str]:
    """Questions while twenty writers come and go: each answer is that of a state."""
    made = shelf.index("hamming")
    index, photos, log = (
        shelf.copy(made, work / "crowd"),
        draw(work / "crowd photos", range(3)),
        work / "states",
    )
    log.write_text("")
    pid = os.fork()
    if pid == 0:
        os._exit(writers(shelf, index, photos, log, seed))
    answers: list[Any] = []
    fault = ""
    while True:
        ended = command("query", shelf.picture, "--index", index, "--json", "-k", "60")
        fault = fault or ended.fault or (ended.err.strip()[-200:] if ended.status not in (0, 3) else "")
        if ended.status == 0:
            answers.append(json.loads(json.dumps(hits(ended))))
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.01)
    states = [json.loads(json.dumps(made.answer)), *map(json.loads, log.read_text().splitlines())]
    odd = [answer for answer in answers if answer not in states]
    if odd and not fault:
        fault = f"{len(odd)} of {len(answers)} answers are of no state"
    return f"{len(answers)} questions, {WRITERS} writers", fault


def mapped(shelf: Shelf, seed: int, work: Path) -> tuple[str, str]:
    """A file is cut short, or goes, between two questions to an index that is open."""
    rng = np.random.default_rng((6, seed))
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    made = shelf.index(kind)
    index = shelf.copy(made, work / "mapped")
    files = sorted(f for f in index.rglob("*.h5"))
    path = files[int(rng.integers(len(files)))]
    length = int(rng.integers(path.stat().st_size))

    def ask() -> int:
        import instsearch

        with instsearch.Index.open(index) as opened:
            first = opened.query(shelf.picture, k=30)
            os.truncate(path, length)
            try:
                second = opened.query(shelf.picture, k=30)
            except instsearch.InstsearchError:
                return 1
            same = [(h.image, h.score) for h in first.hits] == [(h.image, h.score) for h in second.hits]
            if not same:
                print("another answer without a word", flush=True)
            return 0

    ended = forked(ask)
    return f"{kind}: {path.relative_to(index)} cut to {length:,}", ended.fault or ended.out.strip()
