"""Several indexes asked as one collection, here or by workers, where scores of all of them mean the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.answer import Wish, unwrapped
from instsearch_cli.engine.looking import check_open
from instsearch_cli.engine.questions import Question
from instsearch_cli.engine.several import as_one
from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.engine.workers import workers_in
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import Photograph

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.answer import Answer
    from instsearch_cli.engine.answering import Answering, Opened
    from instsearch_cli.engine.query import Engine

TOGETHER = 16  #: questions that are searched at once
PARTS = ("also", "against")  #: what is said of one question
ASKING = (*PARTS, "pipeline", "k", "per_image", "min_score")
"""What :meth:`Index.query` takes that is no choice of components."""


def query(indexes: Sequence[Opened], picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer:
    """The answer of several indexes together, as :meth:`Index.query` gives that of one; hits say of which they are.

    With ``engine`` "ray", or "ray://HOST:PORT", a worker of Ray asks them. Raises UsageError where scores cannot be
    compared: pipelines differ, or learn from their collections.
    """
    with asking(indexes, wishes) as one:
        return one.query(picture, box, k, **wishes)


@contextlib.contextmanager
def asking(indexes: Sequence[Opened], wishes: dict[str, Any]) -> Iterator[Answering]:
    """The indexes as one, or workers that ask them, where the wishes say so; that is taken out of these.

    Raises UsageError where they cannot be asked together so.
    """
    workers = workers_in(wishes)
    check_comparable(indexes, wishes)
    if workers is None:
        yield as_one(indexes)
        return
    from instsearch_cli.engine.ray_asking import on_workers

    with on_workers(indexes, workers) as one:
        yield one


def answers(
    indexes: Sequence[Opened], picture: Any, box: Any = None, k: int = 20, **wishes: Any
) -> Generator[Answer, None, None]:
    """The answer as it comes, as :meth:`Index.answers` gives that of one: the last is the one of :func:`query`."""
    check_comparable(indexes, wishes)
    yield from as_one(indexes).answers(picture, box, k, **wishes)


def query_many(
    indexes: Sequence[Opened], questions: Iterable[Any], k: int = 20, **wishes: Any
) -> list[Answer]:
    """The answers of several indexes together to each question, as :meth:`Index.query_many` takes them.

    Raises UsageError as :func:`query` does.
    """
    with asking(indexes, wishes) as one:
        return [unwrapped(answer) for answer in answers_of(one, questions, k, **wishes)]


def answers_of(
    one: Answering, questions: Iterable[Any], k: int = 20, **wishes: Any
) -> Iterator[Answer | InstsearchError]:
    """The answers to questions, in order; what is wrong with a question comes in place of its answer.

    TOGETHER questions are encoded and searched at once.
    """
    wish, pipeline = Wish(k, wishes.get("per_image", 1), wishes.get("min_score")), wishes.get("pipeline")
    choice = _choice(wishes)
    if stray := [name for name in PARTS if name in wishes]:
        raise UsageError(
            f"{stray[0]} is of one question: give it with each, {{'picture': 'mug.jpg', '{stray[0]}': [...]}}"
        )
    if isinstance(questions, (str, os.PathLike)) or not isinstance(questions, Iterable):
        raise UsageError("questions are a list of pictures, of pairs of a picture and a box, or of dicts")
    remaining = iter(questions)
    while some := list(islice(remaining, TOGETHER)):
        checked = [_checked(question) for question in some]
        sound = [each for each in checked if not isinstance(each, InstsearchError)]
        found = iter(one.query_each(sound, wish, pipeline, **choice))
        for each in checked:
            yield each if isinstance(each, InstsearchError) else next(found)


def _checked(question: Any) -> Question | InstsearchError:
    try:
        return Question.of(question)
    except InstsearchError as error:
        return error


def besides(
    indexes: Sequence[Opened], answer: Answer, most: int = 6, pipeline: str | None = None, **choice: Any
) -> dict[int, Beside]:
    """The first hits that count as found beside the view that each fits best, by rank; those that can be aligned.

    Empty where no reranker of the pipeline compares hits with the query.
    """
    read = [Photograph.of(view.picture) for view in answer.views]
    found: dict[int, Beside] = {}
    for hit in answer.above[:most]:
        view = answer.views[hit.view]
        try:
            one = indexes[hit.index].beside(read[hit.view], view.box, hit.path, pipeline, **choice)
        except UsageError:
            return {}
        except InstsearchError:  # a picture that is gone
            continue
        if one is not None:
            found[hit.rank] = one
    return found


def check_comparable(indexes: Sequence[Opened], wishes: dict[str, Any]) -> None:
    """Raises UsageError where indexes cannot be asked together so."""
    if not isinstance(indexes, (list, tuple)):
        raise UsageError("indexes are a list, [instsearch.open('my-index')] say")
    check_open(*indexes)
    if not indexes:
        raise UsageError("there is no index to ask")
    paths = [os.path.realpath(index.path) for index in indexes]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UsageError(f"{twice[0]}: an index is asked once, and this is given twice")
    engines = [index.engines(wishes.get("pipeline"), **_choice(wishes)) for index in indexes]
    if len(engines) > 1:
        if len(engines[0]) > 1:
            names = [engine.assembly.pipeline.name for engine in engines[0]]
            raise UsageError(
                f"several indexes are asked by one pipeline, and {indexes[0].path} by {' and '.join(names)} together: "
                f"give one, --pipeline {names[0]}"
            )
        check_alike([engine for (engine,) in engines])


def _choice(wishes: dict[str, Any]) -> dict[str, Any]:
    """What of the wishes is a choice of components."""
    return {name: value for name, value in wishes.items() if name not in ASKING}


def check_alike(engines: Sequence[Engine]) -> None:
    """Raises UsageError where the scores of several engines do not mean the same."""
    first, *others = engines
    for engine in engines:
        if engine.learnt:
            part = engine.assembly.part(engine.learnt[0])
            raise UsageError(
                f"{engine.index.path}: {part.stage} '{part.name}' of pipeline '{engine.assembly.pipeline.name}' learnt "
                "from its own photographs, so that scores of several indexes cannot be compared. Ask one "
                "at a time"
            )
    for engine in others:
        if _meaning(engine) != _meaning(first):
            raise UsageError(
                f"{first.index.path} and {engine.index.path} are asked by different pipelines, "
                f"'{first.assembly.pipeline.name}' and '{engine.assembly.pipeline.name}': give --pipeline, or ask one "
                "at a time"
            )


def _meaning(engine: Engine) -> Any:
    """Equal where scores mean the same: what is searched, and how hits are ranked."""
    assembly = engine.assembly
    return assembly.fingerprint(SEARCH), assembly.pipeline.rerank, assembly.part(SEARCH).config
