"""Engines kept warm, and questions to them: what `query` and the Python interface do."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import without_equals
from instsearch_cli.engine import jointly, records
from instsearch_cli.engine.answer import Answer, Hit, Wish, unwrapped
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.choosing import adapted, recorded_pipeline
from instsearch_cli.engine.fusion import alone, fuse
from instsearch_cli.engine.overview import in_words
from instsearch_cli.engine.pipeline import SEPARATOR
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.questions import encoded
from instsearch_cli.engine.records import lost, stand_in
from instsearch_cli.engine.turns import Turns
from instsearch_cli.errors import InstsearchError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from instsearch_cli.data import Hits
    from instsearch_cli.engine.choosing import Choice
    from instsearch_cli.engine.fusion import Fused
    from instsearch_cli.engine.jointly import Guide
    from instsearch_cli.engine.questions import Encoded, Question
    from instsearch_cli.engine.registry import Registry
    from instsearch_formats import Index

WARM = 4  #: engines kept, of the pipelines that were asked last
AGAIN = 20  #: times that a question is asked anew because the index changed meanwhile
DEEP = 100  #: hits of each view and each negative that are compared, as deep as rerankers look
DEEPER = 1000  #: the same where there is no reranker
LOOKED_AT = 20  #: hits that count as found whose files are looked at, whether they are what was indexed


class Warm:
    """The engines of an index, by pipeline; one question at a time to each."""

    def __init__(self, index: Index, registry: Registry, device: str) -> None:
        self.index, self.registry, self.device = index, registry, device
        self._lock = threading.Lock()
        self._engines: OrderedDict[str, tuple[Engine, Turns]] = OrderedDict()

    def engine(self, name: str | None, choice: Choice) -> tuple[Engine, Turns]:
        """The engine of a recorded pipeline (None: the last) with what is chosen for a query, up to date."""
        engine, turns = self.at_hand(name, choice)
        with turns.soon():
            self.refresh(engine, name)
        return engine, turns

    def at_hand(self, name: str | None, choice: Choice) -> tuple[Engine, Turns]:
        """The engine as it was when it was asked last, and whose turn it is."""
        pipeline = adapted(recorded_pipeline(self.index, name), choice.of_a_question())
        key = pipeline.to_toml()
        with self._lock:
            if key not in self._engines:
                assembly = Assembly(pipeline, self.registry, self.device)
                self._engines[key] = Engine(self.index, assembly), Turns()
                while len(self._engines) > WARM:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(key)
            return self._engines[key]

    def refresh(self, engine: Engine, name: str | None) -> None:
        """Bring an engine up to date, in its turn."""
        engine.refresh()
        engine.caution = (not name and stand_in(self.index)) or lost(
            self.index, engine.assembly.pipeline.name
        )

    def engines(self, name: str | None, choice: Choice) -> list[Engine]:
        """Those of the pipelines that a name stands for."""
        return [self.engine(each, choice)[0] for each in jointly.chosen_of(self.meant(name), choice)]

    def meant(self, name: str | None) -> str | None:
        """The name of what is asked: where none is named and several pipelines are asked as one, these."""
        if name is not None:
            return name
        several = [record.pipeline.name for record in records.together(self.index) if record.searchable]
        return SEPARATOR.join(several) if len(several) > 1 else None

    def forget(self) -> None:
        """Drop all engines."""
        with self._lock:
            self._engines.clear()

    def ask(self, question: Question, name: str | None, wish: Wish, choice: Choice) -> Answer:
        """The answer to a question."""
        (answer,) = self.ask_each([question], name, wish, choice)
        return unwrapped(answer)

    def answers(
        self, question: Question, name: str | None, wish: Wish, choice: Choice
    ) -> Generator[Answer, None, None]:
        """The answer as it comes: the searcher's, then each reranker's; the last is the one of :meth:`ask`.

        Of several pipelines that are asked as one it is what they find together, after each of them. Between steps of
        one pipeline other questions come to their first, so that many who ask at once all see something soon.
        """
        names = jointly.chosen_of(self.meant(name), choice)
        if len(names) > 1:
            some: list[Answer | InstsearchError] = []
            for each in names:
                some += self._ask_each([question], each, jointly.deep(wish), choice)
                answer = jointly.merged(some, wish, SEPARATOR.join(map(str, names)))
                if isinstance(answer, Answer):
                    yield replace(answer, step=each or "")
            yield unwrapped(self._widened([question], names, [some], wish, choice)[0])
            return
        engine, turns = self.at_hand(name, choice)
        _check_least(engine, wish.min_score)
        with turns.soon():
            self.refresh(engine, name)
            began, state = time.perf_counter(), engine.state
            (asked_for,) = encoded(engine, [question], wish.per_image)
            if isinstance(asked_for, InstsearchError):
                raise asked_for
            for step, fused in in_steps(engine, asked_for, wish):
                if step:
                    yield answered(engine, asked_for, fused, wish, time.perf_counter() - began, step)
                    turns.give_way()
                    if engine.state != state:
                        break
            if engine.state != state or not engine.current:
                (fused,) = of_one_state(engine, [asked_for], wish)
            yield answered(engine, asked_for, fused, wish, time.perf_counter() - began)

    def ask_each(
        self, questions: Sequence[Question], name: str | None, wish: Wish, choice: Choice
    ) -> list[Answer | InstsearchError]:
        """The answers to some questions, searched together; what is wrong with one is in its place."""
        names = jointly.chosen_of(self.meant(name), choice)
        if len(names) == 1:
            return self._ask_each(questions, name, wish, choice)
        found = [self._ask_each(questions, each, jointly.deep(wish), choice) for each in names]
        return self._widened(questions, names, list(zip(*found, strict=True)), wish, choice)

    def _widened(
        self,
        questions: Sequence[Question],
        names: Sequence[str | None],
        found: Sequence[Sequence[Answer | InstsearchError]],
        wish: Wish,
        choice: Choice,
    ) -> list[Answer | InstsearchError]:
        """The answers of several pipelines as one; vectors are asked again with what all found, of each question."""
        guides = [jointly.guide(answers) for answers in found]
        together = [list(answers) for answers in found]
        wide = [i for i, guide in enumerate(guides) if guide]
        for e, each in enumerate(names):
            if wide and not self.at_hand(each, choice)[0].probabilities:
                some = [questions[i] for i in wide]
                again = self._ask_each(some, each, jointly.deep(wish), choice, [guides[i] for i in wide])
                for i, answer in zip(wide, again, strict=True):
                    before = together[i][e]
                    if isinstance(answer, Answer) and isinstance(before, Answer):
                        together[i][e] = replace(answer, seconds=before.seconds + answer.seconds)
        name = SEPARATOR.join(map(str, names))
        return [jointly.merged(answers, wish, name) for answers in together]

    def _ask_each(
        self,
        questions: Sequence[Question],
        name: str | None,
        wish: Wish,
        choice: Choice,
        guides: Sequence[Guide | None] = (),
    ) -> list[Answer | InstsearchError]:
        if not questions:
            return []
        engine, turns = self.at_hand(name, choice)
        _check_least(engine, wish.min_score)
        with turns:
            self.refresh(engine, name)
            began = time.perf_counter()
            every = encoded(engine, questions, wish.per_image)
            if guides:
                every = [_guided(engine, *pair) for pair in zip(every, guides, strict=True)]
            asked_for = [each for each in every if not isinstance(each, InstsearchError)]
            found = of_one_state(engine, asked_for, wish)
            seconds = (time.perf_counter() - began) / len(questions)
            pairs = zip(asked_for, found, strict=True)
            answers = iter([answered(engine, question, fused, wish, seconds) for question, fused in pairs])
            return [each if isinstance(each, InstsearchError) else next(answers) for each in every]


def _guided(
    engine: Engine, question: Encoded | InstsearchError, guide: Guide | None
) -> Encoded | InstsearchError:
    """With views of vectors widened by what several pipelines found together."""
    if isinstance(question, InstsearchError) or guide is None:
        return question
    views = [(part, jointly.widened(query, guide, engine.data)) for part, query in question.views]
    return replace(question, views=views)


def of_one_state(engine: Engine, questions: Sequence[Encoded], wish: Wish) -> list[Fused]:
    """As :func:`searched`, again where something became of the index meanwhile."""
    found = searched(engine, questions, wish)
    for _ in range(AGAIN):
        if engine.current:
            break
        engine.refresh()
        found = searched(engine, questions, wish)
    return found


def searched(engine: Engine, questions: Sequence[Encoded], wish: Wish) -> list[Fused]:
    """The first hits of each question; several views and negatives are compared by their evidence."""
    k = wish.most(engine.data.count)
    found: dict[int, Fused] = {}
    plain = [i for i, question in enumerate(questions) if question.plain]
    if plain:
        hits = engine.search([questions[i].queries[0] for i in plain], k)
        found = {i: alone(hits, q) for q, i in enumerate(plain)}
    several = [i for i, question in enumerate(questions) if not question.plain]
    if several:
        queries = [query for i in several for query in questions[i].queries]
        hits = engine.search(queries, max(k, _deep(engine)), evidence=True)
        first = 0
        for i in several:
            found[i] = _scored(engine, _fused(engine, hits, questions[i], first, k))
            first += len(questions[i].queries)
    return [found[i] for i in range(len(questions))]


def in_steps(engine: Engine, question: Encoded, wish: Wish) -> Iterator[tuple[str, Fused]]:
    """The first hits of a question as they come, after the component of a name; "": the last."""
    k = wish.most(engine.data.count)
    deep = k if question.plain else max(k, _deep(engine))
    names = (part.name for part in engine.assembly.rerankers)
    for step, hits in engine.steps(question.queries, deep, evidence=not question.plain):
        fused = alone(hits, 0) if question.plain else _fused(engine, hits, question, 0, k)
        if next(names, ""):
            yield step, fused
        else:
            yield "", fused if question.plain else _scored(engine, fused)


def _deep(engine: Engine) -> int:
    return DEEP if engine.assembly.rerankers else DEEPER


def _fused(engine: Engine, hits: Hits, question: Encoded, first: int, k: int) -> Fused:
    """One list for a question of several parts, of which ``first`` is the row of the first."""
    middle, last = first + len(question.views), first + len(question.queries)
    views, against = _rows(hits, first, middle), _rows(hits, middle, last)
    rerankers = engine.assembly.rerankers
    return fuse(views, against, k, rerankers[-1].component.contested if rerankers else without_equals)


def _scored(engine: Engine, fused: Fused) -> Fused:
    """With scores in place of evidence."""
    rerankers = engine.assembly.rerankers
    return fused.scored(rerankers[-1].component.score) if rerankers else fused


def _rows(hits: Hits, first: int, last: int) -> Hits:
    rows = slice(first, last)
    return replace(hits, images=hits.images[rows], scores=hits.scores[rows], boxes=hits.boxes[rows])


def _check_least(engine: Engine, least: float | None) -> None:
    """Raises UsageError for a score that is none where scores are probabilities."""
    if least is not None and engine.probabilities and not 0 <= least <= 1:
        share = f": {least / 100:g} for {least:g} %" if 1 < least <= 100 else ""
        raise UsageError(
            f"scores of pipeline '{engine.assembly.pipeline.name}' are probabilities, and a min-score of them is from "
            f"0 to 1{share}"
        )


def answered(
    engine: Engine, question: Encoded, fused: Fused, wish: Wish, seconds: float, step: str = ""
) -> Answer:
    """Hits of a question as people read them; after a ``step`` others come, and scores only order."""
    data, hits = engine.data, fused.hits
    probability = engine.probabilities and not step
    least = engine.min_score if wish.min_score is None else wish.min_score
    if step:
        least = None
    scores = hits.scores[0].tolist()
    found: list[Hit] = []
    near: list[Hit] = []
    for rank, (score, view) in enumerate(zip(scores, fused.views.tolist(), strict=True)):
        row, where = int(hits.images[0, rank]), hits.boxes[0, rank]
        corners: Any = None if np.isnan(where).any() else tuple(float(v) for v in where)
        record = data.record(row)
        size = record.width, record.height
        name, root = data.called(row), data.root(row)
        hit = Hit(rank + 1, name, data.path(row), score, corners, size, root, view, *data.place(row))
        (found if least is None or score >= least else near).append(hit)
    pipeline = engine.assembly.pipeline
    settings = {
        stage: in_words(value)
        for stage, value in pipeline.plain().items()
        if stage not in ("name", "keep_features")
    }
    (first, *also), against = (
        [part.view for part, _ in parts] for parts in (question.views, question.against)
    )
    answer = Answer(
        query=first.name,
        picture=first.picture,
        corners=first.corners,
        hits=tuple(found),
        settings={"pipeline": pipeline.name, **settings},
        seconds=seconds,
        n_images=data.count,
        min_score=least,
        best=max(scores, default=None),
        cautions=(*question.cautions, *(() if step else _of_scores(engine, wish))),
        size=first.size,
        pipeline=pipeline.name,
        indexes=engine.paths,
        probability=probability,
        also=tuple(also),
        against=tuple(against),
        near=tuple(near) if probability else (),
        step=step,
    )
    line = least if answer.line is None else answer.line
    if line is None:  # what would have been shown
        line = scores[-1] if scores and len(scores) == wish.most(data.count) else -np.inf
    dropped = int((fused.dropped >= line).sum())
    if not step:
        rows = hits.images[0, : len(answer.above)][:LOOKED_AT]
        answer = replace(answer, cautions=(*answer.cautions, *_of_files(data, rows)))
    return replace(answer, dropped=dropped, refused=frozenset(fused.refused.tolist()))


def _of_files(data: Any, rows: np.ndarray) -> list[str]:
    """Which of these images are other files now than they were when they were indexed."""
    return [
        f"{printable(data.called(row))} changed since it was indexed, and may not show what was found: run `instsearch "
        "add` on its folder"
        for row in dict.fromkeys(rows.tolist())
        if data.replaced(row)
    ]


def _of_scores(engine: Engine, wish: Wish) -> list[str]:
    """What a min-score means where scores are no probabilities."""
    if wish.min_score is None or engine.probabilities:
        return []
    return [jointly.cuts_only(f"pipeline '{engine.assembly.pipeline.name}'", wish.min_score)]
