"""Questions while twenty writers come and go: each is answered as before or as after each writer, and whole."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fuzzing.children import Child, FaultError, Outcome, task_of
from fuzzing.shelf import QUERY, TINY, photographs, texture

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzzing.bench import Bench

WRITERS = 20
ALIKE = 1e-4  #: by how much a score may differ between searches of more and of fewer vectors

Scores = dict[str, float]


class Write(NamedTuple):
    """A writer: its command, and the images that are there before it and after it, by name and score.

    change  what happens to files just before it
    """

    words: tuple[object, ...]
    gone: tuple[str, ...] = ()
    come: tuple[str, ...] = ()
    change: Callable[[], None] = lambda: None


class Answer(NamedTuple):
    """Images and scores that a question gave, and when it was asked and answered."""

    began: float
    ended: float
    scores: Scores


def trial(bench: Bench) -> None:
    """Start the writers, some of them killed, ask on the command line and by the library, and judge every answer."""
    bench.row = f"{WRITERS} writers"
    index, writes = _start(bench)
    before = _ask(bench, index).scores
    after = _after(bench, index, writes)
    library = Child(
        "a library that asks", lambda: _library(bench.shelf.picture, index, bench.folder / "stop")
    )
    waiting, running = list(writes), dict[int, Child]()
    times: dict[int, tuple[float, float, Outcome]] = {}
    answers: list[Answer] = []
    deaths = {
        i: time.monotonic() + bench.chance.uniform(0, 8) for i in bench.chance.sample(range(WRITERS), 3)
    }
    while waiting or running or len(answers) < WRITERS:
        for write in waiting[: bench.chance.choice((0, 1, 1, 2, 5))]:
            waiting.remove(write)
            write.change()
            running[writes.index(write)] = Child(*task_of(*write.words))
        answers.append(_ask(bench, index))
        for i, child in list(running.items()):
            if i in deaths and time.monotonic() > deaths[i]:
                child.kill()
            if (outcome := child.ended()) is not None:
                times[i] = child.began, time.monotonic(), bench.add(outcome, may_die=i in deaths)
                del running[i]
    (bench.folder / "stop").touch()
    asked = library.ended(wait=True)
    assert asked is not None
    bench.outcomes.append(asked)
    answers += [Answer(*line) for line in map(json.loads, asked.out.splitlines())]
    for i, (_, _, outcome) in times.items():
        waits_for_add = "changed since it was indexed" in outcome.err  # as a stage does that finds it so
        if outcome.status not in (0, 3) and not outcome.killed and not waits_for_add:
            raise FaultError(
                f"a writer ends with {outcome.status}: {writes[i].words[0]} {outcome.err[-200:]}"
            )
    bench.note(f"{len(answers)} answers")
    start = min(began for began, _, _ in times.values())
    for i, (began, ended, outcome) in sorted(times.items(), key=lambda item: item[1]):
        words = " ".join(str(word).replace(str(bench.folder), ".") for word in writes[i].words)
        bench.note(f"{began - start:.2f} to {ended - start:.2f}, status {outcome.status}: {words}")
    for answer in answers:
        _judge(answer, writes, times, before, after)
    if asked.status:
        raise FaultError(f"the library fails: {asked.fault} {asked.err[-100:]}")
    if (sound := bench.run("verify", "--index", index, "--quiet")).status:
        raise FaultError(f"verify in the end: {sound.out[:300]}")


def _start(bench: Bench) -> tuple[Path, list[Write]]:
    """An index of two folders, and the writers to it in an order by chance."""
    first = photographs(bench.folder / "first", 2000, 16)
    second = bench.folder / "second"
    for i in range(4):
        second.mkdir(exist_ok=True)
        texture(2100 + i).save(second / f"s{i}.png")
    index = bench.folder / "index"
    how = (*TINY, "--searcher", "scan", "--name", "scan", "--quiet")
    _well(bench, "index", first, second, "--index", index, *how)
    whole: tuple[object, ...] = ("--index", index, "--wait", "60")
    writes = []
    for i in range(6):
        folder = bench.folder / f"new{i}"
        names = (f"n{i}a.png", f"n{i}b.png")
        folder.mkdir()
        for j, name in enumerate(names):
            texture(2200 + 2 * i + j).save(folder / name)
        writes.append(Write(("add", folder, "--pipeline", "scan", "--quiet", *whole), come=names))
    for i in range(4):
        names = (f"{i:02}.png", f"{i + 8:02}.png")
        given = [f"{'ab'[int(name[:2]) % 2]}/{name}" for name in names]
        writes.append(Write(("remove", *given, *whole), gone=names))
    for i in range(2):
        path = second / f"s{i}.png"
        change = _changing(path, 2300 + i)
        add = ("add", path, "--pipeline", "scan", "--quiet", *whole)
        writes.append(Write(add, gone=(path.name,), come=(path.name,), change=change))
    for i in range(4):
        stage = ("--set", f"extractor.side={5 + i}", "--name", f"other{i}", "--quiet")
        writes.append(Write(("index", "--index", index, *TINY, *stage, "--searcher", "scan", "--wait", "60")))
    moved = bench.folder / "moved"
    shutil.copytree(first, moved)
    writes += [Write(("gc", *whole)), Write(("gc", "--cache", *whole)), Write(("gc", *whole))]
    writes.append(Write(("relocate", first, moved, *whole)))
    bench.chance.shuffle(writes)
    assert len(writes) == WRITERS
    return index, writes


def _changing(path: Path, seed: int) -> Callable[[], None]:
    return lambda: texture(seed, 140, 110).save(path)


def _well(bench: Bench, *words: object) -> None:
    outcome = bench.run(*words)
    if outcome.status:
        raise FaultError(f"the trial itself: {outcome.what} {outcome.err[-300:]}")


def _after(bench: Bench, index: Path, writes: list[Write]) -> Scores:
    """What is answered when each writer has done its work, undisturbed, one after the other: in a copy."""
    copy = bench.folder / "undisturbed"
    shutil.copytree(index, copy)
    kept = bench.folder / "kept"
    shutil.copytree(bench.folder / "second", kept)
    for write in writes:
        write.change()
        _well(bench, *(copy if word == index else word for word in write.words))
    scores = _ask(bench, copy).scores
    shutil.rmtree(copy)
    for path in kept.iterdir():  # as they were, times included
        shutil.copy2(path, bench.folder / "second" / path.name)
    return scores


def _ask(bench: Bench, index: Path) -> Answer:
    began = time.monotonic()
    outcome = bench.query(index, "scan")
    if outcome.status:
        raise FaultError(f"a query ends with {outcome.status}: {outcome.err[-300:]}")
    hits = outcome.json["hits"]
    return Answer(began, time.monotonic(), {Path(h["path"]).name: h["score"] for h in hits})


def _library(picture: Path, index: Path, stop: Path) -> int:
    """An index that stays open, asked again and again; a line an answer."""
    import instsearch

    x, y, width, height = (int(number) for number in QUERY[1].split(","))
    failed = 0
    with instsearch.Index.open(index) as opened:
        while not stop.exists():
            began = time.monotonic()
            try:
                found: Any = opened.query(picture, box=(x, y, width, height), k=40, pipeline="scan")
            except Exception as error:
                print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
                failed = 1
                continue
            scores = {Path(hit.path).name: hit.score for hit in found.hits}
            print(json.dumps([began, time.monotonic(), scores]), flush=True)
            time.sleep(0.02)
    return failed


def _judge(
    answer: Answer,
    writes: list[Write],
    times: dict[int, tuple[float, float, Outcome]],
    before: Scores,
    after: Scores,
) -> None:
    """Whether an answer is of a state: of each writer all or nothing. Raises FaultError."""
    found = {name: round(score, 6) for name, score in answer.scores.items()}
    rest = dict(answer.scores)
    for i, write in enumerate(writes):
        if not (write.gone or write.come):
            continue
        began, ended, outcome = times[i]
        had = all(_same(rest, name, before) for name in write.gone)
        had = had and all(name not in rest for name in write.come if name not in write.gone)
        has = all(_same(rest, name, after) for name in write.come)
        has = has and all(name not in rest for name in write.gone if name not in write.come)
        may_have = outcome.status != 3 and answer.ended > began
        must_have = outcome.status == 0 and answer.began >= ended
        if not ((has and may_have) or (had and not must_have)):
            words = " ".join(map(str, write.words))
            state = "half done" if not has and not had else "done" if has else "not done"
            start = min(began for began, _, _ in times.values())
            when = f"an answer of {answer.began - start:.2f} to {answer.ended - start:.2f}"
            raise FaultError(f"in {when} `{words}` is {state}: {found}")
        for name in write.gone + write.come:
            rest.pop(name, None)
    untouched = {name: score for name, score in before.items() if not any(name in w.gone for w in writes)}
    if rest.keys() != untouched.keys() or not all(_same(rest, name, before) for name in untouched):
        raise FaultError(f"images that no writer touched differ: {sorted(rest.keys() ^ untouched.keys())}")


def _same(scores: Scores, name: str, wanted: Scores) -> bool:
    return name in scores and abs(scores[name] - wanted[name]) < ALIKE
