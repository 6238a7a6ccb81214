"""One measurement in a process of its own: `python -m instsearch_cli.measure.trials`, a request in, lines of JSON out.

A process of its own has its own start, its own memory, and nothing of an earlier measurement warm.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.questions import Question, encoded
from instsearch_cli.engine.runner import FITTING, MAPPING, SEARCHING
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.engine.workers import Workers
from instsearch_cli.errors import InstsearchError, NoImages, UsageError
from instsearch_cli.images import Photograph
from instsearch_cli.measure.crowding import crowd
from instsearch_cli.progress import Quiet
from instsearch_formats import FormatError
from instsearch_formats.part import MAPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from instsearch_cli.engine.making import Indexed
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.questions import Encoded

EVERY = 0.2  #: seconds after which progress is told
WARMING = 4  #: questions that are asked before those that are timed
QUERIED = 20  #: hits of a question


def tried(name: str, progress: Quiet, **request: Any) -> dict[str, Any]:
    """What a measurement gives, by its name in :data:`TRIALS`; ``seconds`` that its process took beside it.

    Raises the error that it ended with, InstsearchError where its process died.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-m", __name__]
    began = time.perf_counter()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, **pipes
    ) as process:  # Ctrl-C is ours
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has died, which its status says
                process.stdin.write(json.dumps({"trial": name, **request}))
                process.stdin.close()
            said: dict[str, Any] = {}
            for line in process.stdout:
                said = json.loads(line)
                if "start" in said:
                    progress.start(*said["start"])
                progress.advance(said.get("done", 0))
        except BaseException:
            process.kill()
            raise
    took = time.perf_counter() - began
    progress.close()
    if "error" in said:
        raise (UsageError if said["status"] == UsageError.exit_status else InstsearchError)(said["error"])
    if process.returncode or "result" not in said:
        raise InstsearchError(
            f"the process that measured ended with status {process.returncode}: run it again"
        )
    return {"process": took, **said["result"]}


class Relay(Quiet):
    """Progress as lines of JSON."""

    def __init__(self, label: str) -> None:
        self.label, self.done, self.at = label, 0, 0.0

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None:
        self.close()
        _tell({"start": [f"{self.label}: {label}", total, unit]})

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        self.done += n
        if time.perf_counter() - self.at > EVERY:
            self.close()

    def close(self) -> None:
        if self.done:
            _tell({"done": self.done})
        self.done, self.at = 0, time.perf_counter()


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), file=_ANSWERS, flush=True)


_ANSWERS = sys.stdout


# -- what is measured -------------------------------------------------------------------------------------


def index(
    index: str, photographs: Sequence[str], choices: Sequence[dict[str, Any]], device: str, label: str
) -> dict[str, Any]:
    """Index photographs, with one pipeline or several: seconds by step, and the names of what is asked then.

    cpu   seconds of one core for what is made of each image; core, for all
    """
    opened = Index.create(index, device, Relay(label))
    runs: list[Indexed] = []
    for i, choice in enumerate(choices):
        try:
            done = opened.index(list(photographs) if i == 0 else (), **choice)
        except NoImages as error:
            raise InstsearchError(
                f"of {len(photographs):,} photographs none could be read: give others to measure with (--sample)"
            ) from error
        runs += [done, *done.beside]
    took = [run.outcome.took for run in runs]
    steps = {step: sum(each[step].wall for each in took) for step in (FITTING, MAPPING, SEARCHING)}
    steps["cpu"] = sum(each[MAPPING].cpu for each in took)
    steps["core"] = time.process_time()
    names = [run.pipeline.name for run in runs]
    return {**steps, "names": names, "images": len(opened), "fitted": [f for run in runs for f in run.fitted]}


def grow(index: str, names: Sequence[str], own: int, images: int, device: str, label: str) -> dict[str, Any]:
    """Repeat the first ``own`` rows of an index until it has so many; how many images it has then."""
    with Index.open(index, device) as opened:
        crowd(opened, names, own, images, Relay(label))
        return {"images": len(opened)}


def ask(
    index: str, names: Sequence[str], pictures: Sequence[str], own: int, device: str, label: str
) -> dict[str, Any]:
    """Ask for the middle of each picture: mean seconds by stage; bytes of memory, and of what is searched in it.

    own  rows that are no copies of others; 0: all
    """
    opened = Index.open(index, device)
    engines = [engine for name in names for engine in opened.engines(name)]
    progress = Relay(label)
    progress.start("asking", len(pictures), "questions")
    seconds: dict[str, float] = dict.fromkeys(("describe", SEARCH, "rerank", "core"), 0.0)
    count = 0
    for number, picture in enumerate(pictures):
        every = [_stages(engine, picture, own) for engine in engines]
        progress.advance()
        if number >= WARMING and all(every):
            count += 1
            for stages in every:
                for stage, value in stages.items():
                    seconds[stage] += value
    progress.close()
    if not count:
        raise InstsearchError(
            "nothing could be described in the middle of any of the photographs: give others"
        )
    searched = [nbytes for engine in engines for nbytes in _searched(engine)]
    held = sum(nbytes for nbytes in searched if nbytes < MAPPED)
    means = {stage: value / count for stage, value in seconds.items()}
    needed = _peak(mapped=max(searched, default=0) >= MAPPED) - held
    return {**means, "images": len(opened), "memory": needed, "searched": sum(searched)}


def _searched(engine: Engine) -> Iterator[int]:
    """Bytes of each array that is searched: in memory, from MAPPED on mapped."""
    if engine.assembly.part(SEARCH).fits:
        layer = engine.data.layer(SEARCH)
        for span in layer.cover(len(engine.index.images)):
            yield from (array.nbytes for array in layer.arrays(span).values())


def _stages(engine: Engine, picture: str, own: int) -> dict[str, float]:
    """Seconds by stage of one question; none where nothing is in its middle to describe."""
    began, core = time.perf_counter(), time.process_time()
    (question,) = encoded(engine, [Question(Path(picture), _middle(engine, picture))], 1)
    described, core = time.perf_counter() - began, time.process_time() - core
    if isinstance(question, InstsearchError):
        return {}
    queries = _without_copies(engine, question, own) if own else question.queries
    before, start = replace(engine.timing), time.process_time()
    engine.search(queries, QUERIED)
    now = engine.timing
    again = now.again - before.again
    took = {SEARCH: now.search - before.search + again, "rerank": now.rerank - before.rerank - again}
    return {"describe": described, **took, "core": core + time.process_time() - start}


def _middle(engine: Engine, picture: str) -> tuple[float, float, float, float]:
    """The box in the middle of a picture that has half its width and height."""
    w, h = Photograph.of(Path(picture)).size
    return w / 4, h / 4, w / 2, h / 2


def _without_copies(engine: Engine, question: Encoded, own: int) -> list[Any]:
    """A question's queries, without the copies of what is most like them, the picture itself."""
    n = len(engine.index.images)
    queries = []
    for query in question.queries:
        _, hits = next(engine.steps([replace(query, exclude=frozenset(range(own, n)))], 1))
        copies = (range(int(row) + own, n, own) for row in hits.images[0] if row >= 0)
        queries.append(replace(query, exclude=frozenset(chain.from_iterable(copies))))
    return queries


def _peak(mapped: bool) -> int:
    """The most bytes that this process held; where what is searched is ``mapped``, without files.

    What the system says of a process counts that of the one that started it, too; Linux knows its own.
    """
    peak, files = _status("VmHWM"), _status("RssFile")
    if not peak:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak - (files if mapped else 0)


def _status(name: str) -> int:
    """Bytes that Linux says of this process; 0 elsewhere."""
    try:
        text = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


def ray(index: str, workers: int, label: str) -> dict[str, Any]:
    """Seconds until so many workers of Ray on this machine answer; None where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        return {"start": None}
    from instsearch_cli.engine.ray_cluster import Cluster

    began = time.perf_counter()
    cluster = Cluster(Workers(count=min(workers, os.cpu_count() or 1)))
    try:
        cluster.check(Index.open(index).store)
    finally:
        took = time.perf_counter() - began
        cluster.close()
    return {"start": took}


TRIALS: dict[str, Callable[..., dict[str, Any]]] = {"index": index, "grow": grow, "ask": ask, "ray": ray}


def main() -> None:
    """Do what the request on standard input says."""
    global _ANSWERS
    _ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like
    request = json.load(sys.stdin)
    trial = TRIALS[request.pop("trial")]
    try:
        _tell({"result": trial(**request)})
    except BrokenPipeError:  # nobody waits for it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), _ANSWERS.fileno())
    except Exception as error:
        text = str(error) if isinstance(error, (InstsearchError, FormatError, OSError)) else repr(error)
        _tell({"error": text, "status": getattr(error, "exit_status", 1)})


if __name__ == "__main__":
    main()
