"""Engines kept warm, and questions to them: what `query` and the Python interface do."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.boxes import box_caution, clip_box, refuse_fractions
from instsearch_cli.engine.answer import Answer, Hit
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.choosing import adapted, recorded_pipeline
from instsearch_cli.engine.overview import in_words
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.records import lost, stand_in
from instsearch_cli.engine.stages import SEARCH, TABLE
from instsearch_cli.engine.streaming import side_by_side
from instsearch_cli.errors import UsageError
from instsearch_cli.images import BadImage, Photograph

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import PIL.Image

    from instsearch_cli.data import Hits, Query
    from instsearch_cli.engine.answer import XYWH
    from instsearch_cli.engine.choosing import Choice
    from instsearch_cli.engine.registry import Registry
    from instsearch_formats import Index

    Picture = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | Photograph

WARM = 4  #: engines kept, of the pipelines that were asked last
AGAIN = 20  #: times that a question is asked anew because the index changed meanwhile
TOGETHER = 32  #: questions that are searched at once


@dataclass(frozen=True)
class Wish:
    """What is wanted of an answer.

    k          how many hits
    per_image  hits that an image may give; 0: every region that scores
    min_score  hits that score less are left out; None: as the pipeline says
    """

    k: int = 20
    per_image: int = 1
    min_score: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("per_image", 0)):
            value = vars(self)[name]
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise UsageError(f"{name} is a whole number of at least {least}, not {value!r}")
        if self.min_score is not None and self.min_score != self.min_score:
            raise UsageError("min_score is a number")


class Warm:
    """The engines of an index, by pipeline; one question at a time to each."""

    def __init__(self, index: Index, registry: Registry, device: str) -> None:
        self.index, self.registry, self.device = index, registry, device
        self._lock = threading.Lock()
        self._engines: OrderedDict[str, tuple[Engine, threading.RLock]] = OrderedDict()

    def engine(self, name: str | None, choice: Choice) -> tuple[Engine, threading.RLock]:
        """The engine of a recorded pipeline (None: the last) with what is chosen for a query, up to date."""
        pipeline = adapted(recorded_pipeline(self.index, name), choice.of_a_question())
        key = pipeline.to_toml()
        with self._lock:
            if key not in self._engines:
                assembly = Assembly(pipeline, self.registry, self.device)
                self._engines[key] = Engine(self.index, assembly), threading.RLock()
                while len(self._engines) > WARM:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            engine, lock = self._engines[key]
        with lock:
            engine.refresh()
            engine.caution = (not name and stand_in(self.index)) or lost(self.index, pipeline.name)
        return engine, lock

    def forget(self) -> None:
        """Drop all engines."""
        with self._lock:
            self._engines.clear()

    def ask(
        self, picture: Picture, box: Sequence[float] | None, name: str | None, wish: Wish, choice: Choice
    ) -> Answer:
        """The hits of a picture, or of what is in a box (x, y, w, h) of it."""
        return self._together(*self.engine(name, choice), [Question(picture, box)], wish)[0]

    def ask_many(
        self, questions: Iterable[Any], name: str | None, wish: Wish, choice: Choice
    ) -> Iterator[Answer]:
        """The answer to each question, a picture or (picture, box), in order; encoded and searched many at once."""
        engine, lock = self.engine(name, choice)
        waiting: list[Question] = []
        for question in questions:
            pair: Any = (
                question if isinstance(question, (tuple, list)) and len(question) == 2 else (question, None)
            )
            waiting.append(Question(*pair))
            if len(waiting) == TOGETHER:
                yield from self._together(engine, lock, waiting, wish)
                waiting = []
        yield from self._together(engine, lock, waiting, wish)

    def _together(
        self, engine: Engine, lock: threading.RLock, questions: list[Question], wish: Wish
    ) -> list[Answer]:
        if not questions:
            return []
        _check_least(engine, wish.min_score)
        with lock:
            began = time.perf_counter()
            queries = _encoded(engine, questions, wish)
            hits = engine.search(queries, wish.k)
            for _ in range(AGAIN):
                if engine.current:
                    break
                engine.refresh()
                hits = engine.search(queries, wish.k)
            each = (time.perf_counter() - began) / len(questions)
            return [
                answered(engine, question, query, hits, i, wish, each)
                for i, (question, query) in enumerate(zip(questions, queries, strict=True))
            ]


def _check_least(engine: Engine, least: float | None) -> None:
    """Raises UsageError for a score that is none where scores are probabilities."""
    if least is not None and engine.probabilities and not 0 <= least <= 1:
        share = f": {least / 100:g} for {least:g} %" if 1 < least <= 100 else ""
        raise UsageError(
            f"scores of pipeline '{engine.assembly.pipeline.name}' are probabilities, and a min-score of them is from "
            f"0 to 1{share}"
        )


class Question:
    """A picture and a box in it, checked. Raises InstsearchError or UsageError that says what is wrong."""

    def __init__(self, picture: Picture, box: Sequence[float] | None) -> None:
        self.picture = Photograph.of(picture)
        self.corners, self.cautions = None, []
        if box is not None:
            checked = checked_box(box)
            refuse_fractions(checked, self.picture.size)
            self.corners = clip_box(checked, self.picture.size)
            self.cautions = [text for text in [box_caution(checked, self.picture.size)] if text]

    def encoded(self, engine: Engine, wish: Wish) -> Query:
        """The query that it is."""
        query = engine.query(self.picture.name, self.picture, self.corners)
        return replace(query, per_image=wish.per_image)


def checked_box(box: Sequence[float]) -> XYWH:
    """A box x, y, w, h of numbers. Raises UsageError for another."""
    try:
        x, y, w, h = (float(v) for v in box)
    except (TypeError, ValueError):
        x = y = w = h = float("nan")
    if not np.isfinite((x, y, w, h)).all() or w <= 0 or h <= 0:
        raise UsageError(
            "a box is x, y, width and height in pixels of the upright picture, width and height above 0, "
            f"for example (120, 80, 200, 150); got {box!r}"
        )
    return x, y, w, h


def _encoded(engine: Engine, questions: Sequence[Question], wish: Wish) -> list[Query]:
    """The queries, made side by side where the pipeline's components work in several threads."""

    def encode(question: Question) -> Query:
        return question.encoded(engine, wish)

    described = [part for stage, part in engine.assembly.stages.items() if stage != TABLE[SEARCH].stage]
    if len(questions) == 1 or not all(part.component.concurrent for part in described):
        return [encode(question) for question in questions]
    queries = []
    for _, query in side_by_side(questions, encode):
        if isinstance(query, BadImage):
            raise query
        queries.append(query)
    return queries


def answered(
    engine: Engine, question: Question, query: Query, hits: Hits, i: int, wish: Wish, seconds: float
) -> Answer:
    """Row ``i`` of some hits as people read it."""
    data = engine.data
    least = engine.min_score if wish.min_score is None else wish.min_score
    n = hits.valid(i)
    scores = hits.scores[i, :n].tolist()
    found = []
    for rank, score in enumerate(scores):
        if least is not None and score < least:
            continue
        row, where = int(hits.images[i, rank]), hits.boxes[i, rank]
        corners: Any = None if np.isnan(where).any() else tuple(float(v) for v in where)
        record = data.record(row)
        size = record.width, record.height
        name, root = data.called(row), data.root(row)
        found.append(Hit(rank + 1, name, data.path(row), score, corners, size, root))
    pipeline = engine.assembly.pipeline
    settings = {
        stage: in_words(value)
        for stage, value in pipeline.plain().items()
        if stage not in ("name", "keep_features")
    }
    picture = question.picture
    return Answer(
        query=picture.name,
        picture=picture.path or picture.original(),
        corners=question.corners,
        hits=tuple(found),
        settings={"pipeline": pipeline.name, **settings},
        seconds=seconds,
        n_images=len(data.images),
        min_score=least,
        best=max(scores, default=None),
        cautions=(*question.cautions, *_of_scores(engine, wish), *engine.cautions(query)),
        size=picture.size,
        pipeline=pipeline.name,
        indexes=(engine.index.path,),
        probability=engine.probabilities,
    )


def _of_scores(engine: Engine, wish: Wish) -> list[str]:
    """What a min-score means where scores are no probabilities."""
    if wish.min_score is None or engine.probabilities:
        return []
    return [
        f"scores of pipeline '{engine.assembly.pipeline.name}' are no probabilities, and what a good one is depends "
        f"on the picture: {wish.min_score:g} only cuts the list there"
    ]
