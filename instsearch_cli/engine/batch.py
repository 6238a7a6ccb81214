"""Many questions to one or several indexes, by one process or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.memory import reuse_memory
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.several import as_one
from instsearch_cli.engine.tensors import compute_in_one_thread, free_threads
from instsearch_cli.engine.together import answers_of, asking, check_comparable
from instsearch_cli.engine.workers import LOCAL
from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from instsearch_cli.engine.answer import Answer
    from instsearch_cli.engine.answering import Answering
    from instsearch_cli.engine.batch_file import Entry

GROUP = 8  #: questions that a process is given at once
USUAL = (
    4  #: processes at most, where nobody says how many: each has its own vocabulary and pictures in memory
)


def usual_workers(questions: int) -> int:
    """As many processes as there are cores, USUAL at most, where each has several groups to do."""
    return max(1, min(USUAL, free_threads(), questions // (4 * GROUP)))


def answers(
    indexes: Sequence[Index], entries: Sequence[Entry], workers: int = 1, **wishes: Any
) -> Generator[tuple[Entry, Answer | InstsearchError], None, None]:
    """Each entry with its answer, or what is wrong with it, in order; wishes as :func:`together.query` takes them.

    Raises InstsearchError where none can be asked.
    """
    engine = wishes.pop("engine", LOCAL)
    groups = [list(entries[first : first + GROUP]) for first in range(0, len(entries), GROUP)]
    if engine != LOCAL:
        with (
            asking(indexes, {**wishes, "engine": engine, "workers": workers}) as one,
            ThreadPoolExecutor(workers, "asking") as threads,
        ):
            yield from _in_order(groups, lambda group: threads.submit(_ask, one, wishes, group), workers)
        return
    if workers == 1 or len(groups) < 2:
        with asking(indexes, {**wishes}) as one:
            for group in groups:
                yield from zip(group, _ask(one, wishes, group), strict=True)
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    given = [(index.path, index.device) for index in indexes], wishes
    with ProcessPoolExecutor(min(workers, len(groups)), context, _begin, given) as pool:
        try:
            yield from _in_order(groups, lambda group: pool.submit(_ask_here, group), workers)
        except BaseException:  # stopped: what is being answered is not waited for
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _in_order(
    groups: Sequence[list[Entry]], submit: Callable[[list[Entry]], Any], workers: int
) -> Iterator[tuple[Entry, Answer | InstsearchError]]:
    """What became of the groups that were handed to workers, in order, not many ahead of who reads it."""
    waiting: deque[tuple[list[Entry], Any]] = deque()
    for group in groups:
        waiting.append((group, submit(group)))
        if len(waiting) > 2 * workers:
            yield from _ended(*waiting.popleft())
    while waiting:
        yield from _ended(*waiting.popleft())


def _ended(group: list[Entry], work: Any) -> Iterator[tuple[Entry, Answer | InstsearchError]]:
    try:
        yield from zip(group, work.result(), strict=True)
    except BrokenProcessPool as error:
        raise InstsearchError(
            "a worker ended before its time, killed perhaps for the memory that it took: take fewer with --workers"
        ) from error


def _ask(one: Answering, wishes: dict[str, Any], group: list[Entry]) -> list[Answer | InstsearchError]:
    sound = [entry for entry in group if not entry.wrong]
    found = answers_of(one, [entry.question for entry in sound], **wishes)
    return [UsageError(entry.wrong) if entry.wrong else next(found) for entry in group]


# -- in a process of its own --------------------------------------------------------------------------------

_here: list[tuple[Answering, dict[str, Any]]] = []


def _begin(places: Sequence[tuple[Path, str]], wishes: dict[str, Any]) -> None:
    """Open the indexes; Ctrl-C is for the process that asked, whose end is this one's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    indexes = [Index.open(path, device) for path, device in places]
    check_comparable(indexes, wishes)  # which loads all components
    _here.append((as_one(indexes), wishes))
    compute_in_one_thread()
    reuse_memory()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _ask_here(group: list[Entry]) -> list[Answer | InstsearchError]:
    return _ask(*_here[0], group)
