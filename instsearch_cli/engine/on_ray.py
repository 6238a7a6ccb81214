"""Parts made by workers of Ray: a plain task each, given out again when its worker dies; the driver holds no arrays."""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.exchange import Exchange
from instsearch_cli.engine.parts import Result, Task
from instsearch_cli.engine.ray_cluster import POLL, Cluster, environment, reason
from instsearch_cli.engine.ray_worker import INDEX, PARTS, NodeError, Plan, clear, look, make
from instsearch_cli.errors import InstsearchError
from instsearch_cli.interrupt import check
from instsearch_cli.networks.weights import sha256

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from instsearch_cli.engine.collection import Collection
    from instsearch_cli.engine.workers import Workers
    from instsearch_cli.progress import Quiet

TRIES = 3  #: workers that a picture may end before it is skipped
CLEARING = 5.0  #: seconds that machines have to remove their copies of an index


@dataclass
class Search:
    """The search for the pictures of a task that end their workers: how many looks are under way, what they found."""

    looks: int = 0
    found: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Work:
    """A task to give out, or a look at some of its rows; ``deaths`` of its workers so far.

    search  of a look: the one that it is part of; of a task: one that has ended
    """

    task: Task
    rows: tuple[int, ...] = ()
    search: Search | None = None
    deaths: int = 0


class OnRay:
    """Workers make the parts of a collection.

    A task whose worker died is given out again, at the second time after a search by halves: rows that end their worker
    whenever they are looked at, TRIES times alone, are skipped. A machine whose disk is full gets no more tasks.
    """

    def __init__(self, collection: Collection, workers: Workers, progress: Quiet) -> None:
        self.collection, self.workers, self.progress = collection, workers, progress
        self.exchange = None
        if workers.through:
            self.exchange = Exchange(workers.through).below(uuid.uuid4().hex)
        self.cluster = Cluster(workers)
        self.avoid: list[str] = []
        self.again = 0
        try:
            if self.exchange or not self.cluster.alone:
                for line in self.cluster.check(collection.index, self.exchange.url if self.exchange else ""):
                    progress.say(f"warning: {line}")
            counts = self.cluster.fitting()
        except BaseException:
            self.close()
            raise
        self.side = min(max(counts), workers.count or max(counts))
        n, at_once = len(counts), min(sum(counts), workers.count or sum(counts))
        progress.say(f"Ray: {n:,} machine{'s' * (n > 1)}, {at_once:,} task{'s' * (at_once > 1)} at once")

    def close(self) -> None:
        """Leave the cluster, and nothing in the storage."""
        if self.exchange:
            self.exchange.clear()
        self.cluster.close()

    def make(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result], None, None]:
        """Each task with what became of it, as they end; one of no layers says which rows are to be skipped first."""
        if self.exchange:
            self.exchange.below(INDEX).send_index(self.collection.index.path)
        whole = self._plan({kind for task in tasks for kind in task.kinds})
        plan = self.cluster.ray.put(whole)
        waiting = deque(Work(task) for task in tasks)
        running: dict[Any, Work] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._at_once():
                    work = waiting.popleft()
                    running[self._give(plan, work)] = work
                check()
                ready, _ = self.cluster.ray.wait(list(running), num_returns=1, timeout=POLL)
                for reference in ready:
                    work = running.pop(reference)
                    result = self._result(reference, work, waiting)
                    if work.rows:
                        yield from self._looked(work, waiting)
                    elif result is not None:
                        self.progress.advance(len(work.task.span))
                        yield work.task, result
        finally:
            self.cluster.cancel(list(running))
            if self.exchange:
                self.exchange.clear()
                self._forget(whole.id)
            if self.again:
                ranges = f"{self.again:,} range{'s' * (self.again > 1)} of rows"
                self.progress.say(f"workers ended before their time: {ranges} given out again")
                self.again = 0
            for work in running.values():
                self._clear(work.task)

    def _plan(self, kinds: set[str]) -> Plan:
        collection, assembly = self.collection, self.collection.assembly
        return Plan(
            uuid.uuid4().hex,
            collection.index.path.absolute(),
            assembly.pipeline,
            assembly.asked_device,
            collection.index.images.foreseen,
            collection.hidden,
            collection.new,
            {kind: assembly.fingerprint(kind) for kind in kinds},
            environment=environment(),
            memory=self.workers.memory,
            side=self.side,
            through=self.exchange.url if self.exchange else "",
        )

    def _at_once(self) -> int:
        there = sum(self.cluster.fitting(self.avoid))
        return max(1, min(there, self.workers.count or there))

    def _give(self, plan: Any, work: Work) -> Any:
        if work.rows:
            return self.cluster.call(look, plan, work.task, work.rows, avoid=self.avoid)
        return self.cluster.call(make, plan, work.task, avoid=self.avoid)

    def _result(self, reference: Any, work: Work, waiting: deque[Work]) -> Result | None:
        """What a worker gave; None where it has to be given out again, which is among the waiting then."""
        errors = self.cluster.ray.exceptions
        try:
            result: Result | None = self.cluster.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, NodeError):
                raise cause from error
            self._leave(cause)
            waiting.appendleft(work)
            if work.rows and work.search:
                work.search.looks += 1  # it is looked at again
            return None
        except errors.RayError as error:
            self._died(work, reason(error), waiting)
            return None
        if self.exchange and result is not None:
            self._arrived(self.exchange.below(PARTS), result)
        return result

    def _arrived(self, exchange: Exchange, result: Result) -> None:
        """Get parts into the index, whole and yet without their names. Raises InstsearchError for a changed one."""
        folder = self.collection.index.path.absolute()
        exchange.fetch(folder, [str(aside) for aside, _ in result.parts])
        result.parts = [(folder / aside, folder / path) for aside, path in result.parts]
        for (aside, _), wanted in zip(result.parts, result.sums, strict=True):
            if sha256(aside) != wanted:
                aside.unlink()
                raise InstsearchError(
                    f"{exchange.url}: {aside.name} did not arrive as it was sent: run it again"
                )

    def _leave(self, error: NodeError) -> None:
        """Give a machine no more tasks. Raises the error where it is the last."""
        if error.node not in self.avoid:
            self.avoid.append(error.node)
            if not self.cluster.fitting(self.avoid):
                raise error
            self.progress.say(f"warning: {error}\nIt gets no more tasks; the others go on.")

    def _died(self, work: Work, reason: str, waiting: deque[Work]) -> None:
        work.deaths += 1
        span = work.task.span
        if not work.rows:
            self._clear(work.task)
            self.again += 1
            if work.deaths < (TRIES if work.search else 2):
                waiting.appendleft(work)
            elif work.search is None:
                search, alive = Search(), self.collection.index.images.alive()
                rows = tuple(row for row in span if alive[row] and row not in self.collection.hidden)
                self._halve(work, rows, search, waiting)
            else:
                raise InstsearchError(
                    f"rows {span.start:,} to {span.stop - 1:,} end their worker, {reason}, and none of their pictures "
                    "alone does: take fewer workers a machine with --workers"
                )
        elif len(work.rows) > 1:
            assert work.search is not None
            self._halve(work, work.rows, work.search, waiting)
        elif work.search is not None and work.deaths == TRIES:
            work.search.found += [(row, f"its worker ended {TRIES} times, {reason}") for row in work.rows]
        elif work.search is not None:
            work.search.looks += 1
            waiting.appendleft(work)

    def _halve(self, work: Work, rows: tuple[int, ...], search: Search, waiting: deque[Work]) -> None:
        middle = len(rows) // 2
        for half in filter(None, (rows[:middle], rows[middle:])):
            search.looks += 1
            waiting.appendleft(Work(work.task, half, search))

    def _looked(self, work: Work, waiting: deque[Work]) -> Generator[tuple[Task, Result], None, None]:
        """A look has ended: after the last of a search its task is given out again, without what was found."""
        search = work.search
        assert search is not None
        search.looks -= 1
        if search.looks == 0:
            if search.found:
                yield Task(work.task.span, ()), Result([], skipped=sorted(search.found))
            waiting.appendleft(Work(work.task, search=None if search.found else search))

    def _forget(self, run: str) -> None:
        """Have every machine remove its copies of the index, as far as it answers."""
        with contextlib.suppress(self.cluster.ray.exceptions.RayError):
            clearing = list(self.cluster.everywhere(clear, run).values())
            self.cluster.ray.wait(clearing, num_returns=len(clearing), timeout=CLEARING)

    def _clear(self, task: Task) -> None:
        for kind in task.kinds:
            self.collection.layer(kind).abandon(task.span)
