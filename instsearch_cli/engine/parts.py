"""Parts of layers, range of rows by range: the same function makes them in this process and in a worker elsewhere."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from instsearch_cli.engine.filling import Filling
from instsearch_cli.engine.stages import CODES
from instsearch_cli.storage import blank
from instsearch_formats.files import put

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from instsearch_cli.engine.collection import Collection
    from instsearch_formats import PartWriter


class Task(NamedTuple):
    """A range of rows, and the layers that it lacks: what is made in one go, for they share the features."""

    span: range
    kinds: tuple[str, ...]


@dataclass
class Result:
    """What became of a task.

    parts    each whole under the first of its names, and not there before it has the second
    sums     the SHA-256 of each that has to come here first
    blank    images whose codes are empty
    skipped  rows whose picture does not decode, and why, of which nobody has been told yet
    """

    parts: list[tuple[Path, Path]]
    sums: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)

    def put(self) -> None:
        """Let the parts appear; the caller holds the index's lock."""
        for aside, path in self.parts:
            put(aside, path)


class Makers(Protocol):
    """Who makes parts."""

    def make(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result], None, None]:
        """Each task with what became of it, as they are done."""
        ...

    def close(self) -> None:
        """Let go of what was needed for it."""
        ...


class Here:
    """This process makes them, one after the other: the next images are computed while one thread writes."""

    def __init__(self, collection: Collection, advance: Callable[[], None]) -> None:
        self.collection, self.advance = collection, advance

    def make(self, tasks: Sequence[Task]) -> Generator[tuple[Task, Result], None, None]:
        stream = self.collection.stream([(row, t.kinds) for t in tasks for row in t.span], by_range=True)
        with contextlib.closing(stream), ThreadPoolExecutor(1, "writer") as writer:
            for task in tasks:
                yield task, _fill(self.collection, task, stream, writer, self.advance)

    def close(self) -> None:
        """Nothing was."""


def _fill(
    collection: Collection,
    task: Task,
    stream: Iterator[Any],
    pool: Executor,
    advance: Callable[[], None],
) -> Result:
    """Write the parts of a task from what the stream has of its rows."""
    assembly, names = collection.assembly, []
    parts: dict[str, PartWriter] = {}
    with contextlib.ExitStack() as stack:
        stack.push(lambda kind, *_: _drop(parts.values()) if kind else None)  # those that are whole, too
        for kind in task.kinds:
            parts[kind] = stack.enter_context(collection.layer(kind).writer(task.span, held=True))
        fillings = {kind: Filling(assembly.encoding(kind), part) for kind, part in parts.items()}
        pending: list[Any] = []
        try:
            for _ in task.span:
                _, described = next(stream)
                if described is not None and blank(described.items.get(CODES, {})):
                    names.append(collection.called(described.source.row))
                for kind, filling in fillings.items():
                    item = None if described is None else described.items[kind]
                    pending.append(pool.submit(filling.append, item))
                while len(pending) > 4 * len(fillings):
                    pending.pop(0).result()
                advance()
            pending += [pool.submit(filling.close) for filling in fillings.values()]
        finally:
            errors = [e for f in pending if (e := f.exception()) is not None]
        if errors:
            raise errors[0]
    return Result([(part.aside, part.path) for part in parts.values()], blank=names)


def _drop(parts: Iterable[PartWriter]) -> None:
    for part in parts:
        part.aside.unlink(missing_ok=True)
