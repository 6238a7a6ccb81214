"""Several indexes asked as one collection: each is searched by itself, and what they find is reranked together.

A row of the whole is an index's number and a row of its own, in one integer.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from instsearch_cli.engine.asking import Warm
from instsearch_cli.engine.choosing import chosen
from instsearch_cli.engine.opened import lasting
from instsearch_cli.engine.query import Engine, Timing, merge
from instsearch_cli.engine.questions import asked_for
from instsearch_cli.engine.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from instsearch_cli.data import Hits, Inputs, Query
    from instsearch_cli.engine.answer import Answer, Wish
    from instsearch_cli.engine.answering import Answering, Opened
    from instsearch_cli.engine.choosing import Choice
    from instsearch_cli.engine.collection import Collection
    from instsearch_cli.engine.questions import Question
    from instsearch_cli.errors import InstsearchError
    from instsearch_formats import ImageRecord

OWN = 40  #: bits of a row that are its index's own
MOST = 16  #: indexes that are searched at once


def row_of(index: int, row: int) -> int:
    """A row of the whole: ``row`` of the index of that number."""
    return index << OWN | row


class Collections:
    """What rerankers and answers see of several collections."""

    def __init__(self, each: Sequence[Collection]) -> None:
        self.each = each
        self.encoder, self.weighter = each[0].encoder, each[0].weighter

    @property
    def images(self) -> np.ndarray:
        """The live rows, ascending."""
        return np.concatenate([data.images + row_of(i, 0) for i, data in enumerate(self.each)])

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(data.count for data in self.each)

    def place(self, row: int) -> tuple[int, int]:
        """The number of its index, and its row there."""
        return row >> OWN, row & (1 << OWN) - 1

    def _at(self, row: int) -> tuple[Collection, int]:
        index, own = self.place(row)
        return self.each[index], own

    def read(self, kind: str, row: int) -> Any:
        """One image's item of a layer."""
        data, own = self._at(row)
        return data.read(kind, own)

    def inputs(self, kinds: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Inputs]:
        """Images with these layers, in order, each collection's streamed by itself."""
        wanted = [self.place(int(row)) for row in (self.images if rows is None else rows)]
        with contextlib.ExitStack() as stack:
            streams: dict[int, Iterator[Inputs]] = {}
            for i in dict.fromkeys(index for index, _ in wanted):
                stream = self.each[i].inputs(kinds, [own for index, own in wanted if index == i])
                streams[i] = stack.enter_context(contextlib.closing(cast("Generator[Inputs]", stream)))
            ahead: dict[int, Inputs | None] = {}
            for i, own in wanted:
                found = ahead.pop(i, None) or next(streams[i], None)
                if found is None or found.row != own:  # this one cannot be read: it is left out
                    ahead[i] = found
                    continue
                yield replace(found, row=row_of(i, own))

    def record(self, row: int) -> ImageRecord:
        """What the image table says of a row."""
        data, own = self._at(row)
        return data.record(own)

    def path(self, row: int) -> Path:
        """Where a row's picture is."""
        data, own = self._at(row)
        return data.path(own)

    def replaced(self, row: int) -> bool:
        """Whether a row's file is another than was indexed."""
        data, own = self._at(row)
        return data.replaced(own)

    def called(self, row: int) -> str:
        """What the image of a row is called in its index."""
        data, own = self._at(row)
        return data.called(own)

    def root(self, row: int) -> str:
        """The folder that a row's name is relative to."""
        data, own = self._at(row)
        return data.root(own)


class Engines(Engine):
    """Engines of one pipeline, of several indexes, that answer as the engine of one index of all their images."""

    def __init__(self, each: Sequence[Engine]) -> None:
        self.each = each
        self.index, self.assembly, self._pictures = each[0].index, each[0].assembly, each[0]._pictures
        self.within, self.timing, self.segments = None, Timing(), []
        self.data = cast("Any", Collections([engine.data for engine in each]))
        self.caution = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(engine.index.path for engine in self.each)

    @property
    def state(self) -> tuple[Any, ...]:
        return tuple(engine.state for engine in self.each)

    @property
    def current(self) -> bool:
        return all(engine.current for engine in self.each)

    def refresh(self) -> None:
        for engine in self.each:
            engine.refresh()

    def cautions(self, query: Query) -> list[str]:
        """What is said of one index is said with its folder."""
        said = [(engine.index.path, engine.cautions(query)) for engine in self.each]
        common = set(said[0][1]).intersection(*(texts for _, texts in said))
        each = [text if text in common else f"{path}: {text}" for path, texts in said for text in texts]
        return list(dict.fromkeys(each))

    def _first(self, queries: Sequence[Query], k: int) -> Hits:
        def search(i: int) -> Hits:
            hits = self.each[i]._first([_own(query, i) for query in queries], k)
            return replace(hits, images=np.where(hits.images < 0, hits.images, hits.images + row_of(i, 0)))

        once = len(set(map(id, self.each))) == len(self.each)  # an engine answers one question at a time
        with ThreadPoolExecutor(min(len(self.each), MOST) if once else 1, "asking") as pool:
            return merge(list(pool.map(search, range(len(self.each)))), k)


def _own(query: Query, index: int) -> Query:
    """With the rows to exclude that are an index's own."""
    if not query.exclude:
        return query
    own = frozenset(row & (1 << OWN) - 1 for row in query.exclude if row >> OWN == index)
    return replace(query, exclude=own)


class WarmTogether(Warm):
    """The engines of several indexes, which are locked in one order."""

    def __init__(self, each: Sequence[Warm]) -> None:
        self.each = each

    def at_hand(self, name: str | None, choice: Choice) -> tuple[Engine, Turns]:
        pairs = [warm.at_hand(name, choice) for warm in self.each]
        every = [turns for _, turns in sorted(pairs, key=lambda pair: pair[0].index.path)]
        gates = [gate for turns in every for gate in turns.gates]
        return Engines([engine for engine, _ in pairs]), Turns(*gates)

    def refresh(self, engine: Engine, name: str | None) -> None:
        engines = cast("Engines", engine).each
        for warm, each in zip(self.each, engines, strict=True):
            warm.refresh(each, name)
        cautions = {each.caution for each in engines}
        engine.caution = cautions.pop() if len(cautions) == 1 else ""

    def meant(self, name: str | None) -> str | None:
        return name


def as_one(indexes: Sequence[Opened]) -> Answering:
    """An index, or several that are asked as one."""
    return indexes[0] if len(indexes) == 1 else Several(indexes)


class Several:
    """Open indexes that are asked as one; see :class:`instsearch_cli.engine.answering.Answering`."""

    def __init__(self, indexes: Sequence[Opened]) -> None:
        self._indexes = indexes

    @property
    def _warm(self) -> WarmTogether:
        return WarmTogether([index._warm for index in self._indexes])

    def _lasting(self) -> AbstractContextManager[None]:
        return lasting(*(index._loaded for index in self._indexes))

    def query(self, picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer:
        question, pipeline, wish, choice = asked_for(picture, box, k, wishes)
        warm = self._warm
        with self._lasting():
            return warm.ask(question, pipeline, wish, chosen(choice))

    def answers(
        self, picture: Any, box: Any = None, k: int = 20, **wishes: Any
    ) -> Generator[Answer, None, None]:
        question, pipeline, wish, choice = asked_for(picture, box, k, wishes)
        warm = self._warm
        with self._lasting():
            yield from warm.answers(question, pipeline, wish, chosen(choice))

    def query_each(
        self, questions: Sequence[Question], wish: Wish, pipeline: str | None = None, **choice: Any
    ) -> list[Answer | InstsearchError]:
        warm = self._warm
        with self._lasting():
            return warm.ask_each(questions, pipeline, wish, chosen(choice))
