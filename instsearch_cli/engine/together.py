"""Several indexes asked as one: their answers merged by score, where scores of all of them mean the same."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from instsearch_cli.engine.answer import Wish, unwrapped
from instsearch_cli.engine.questions import Question
from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.engine.workers import workers_in
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import Photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.answer import Answer, Hit
    from instsearch_cli.engine.askable import Askable
    from instsearch_cli.engine.query import Engine

T = TypeVar("T")

TOGETHER = 16  #: questions that are searched at once
MOST = 16  #: indexes that are asked at once
ASKING = ("also", "against", "pipeline", "k", "per_image", "min_score")
"""What :meth:`Index.query` takes that is no choice of components."""


def query(indexes: Sequence[Askable], picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer:
    """The answer of several indexes together, as :meth:`Index.query` gives that of one; hits say of which they are.

    With ``engine`` "ray", or "ray://HOST:PORT", workers of Ray ask them, ``workers`` at most. Raises UsageError where
    scores cannot be compared: pipelines differ, or learn from their collections.
    """
    began = time.perf_counter()
    with asking(indexes, wishes) as askable:
        check_comparable(askable, wishes)
        found = _of_each(askable, lambda index: index.query(picture, box, k, **wishes))
        return merged(found, k, time.perf_counter() - began)


@contextlib.contextmanager
def asking(indexes: Sequence[Askable], wishes: dict[str, Any]) -> Iterator[Sequence[Askable]]:
    """The indexes, or what has workers ask them, where the wishes say so; that is taken out of these."""
    workers = workers_in(wishes)
    if workers is None:
        yield indexes
        return
    from instsearch_cli.engine.ray_asking import on_workers

    with on_workers(indexes, workers) as askable:
        yield askable


def _of_each(indexes: Sequence[Askable], ask: Callable[[Askable], T]) -> list[T]:
    """What each index says, asked at once, in a thread each, MOST of them."""
    if len(indexes) == 1:
        return [ask(indexes[0])]
    with ThreadPoolExecutor(min(len(indexes), MOST), "asking") as pool:
        return list(pool.map(ask, indexes))


def answers(
    indexes: Sequence[Askable], picture: Any, box: Any = None, k: int = 20, **wishes: Any
) -> Generator[Answer, None, None]:
    """The answer as it comes, as :meth:`Index.answers` gives that of one: the last is the one of :func:`query`."""
    check_comparable(indexes, wishes)
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        coming = {
            i: stack.enter_context(contextlib.closing(indexes[i].answers(picture, box, k, **wishes)))
            for i in sorted(
                range(len(indexes)), key=lambda i: indexes[i].path
            )  # engines are locked in one order
        }
        each = {i: next(answers) for i, answers in coming.items()}
        while True:
            yield merged([each[i] for i in range(len(indexes))], k, time.perf_counter() - began)
            if not any(answer.step for answer in each.values()):
                return
            each = {i: next(answers) for i, answers in coming.items()}


def query_many(
    indexes: Sequence[Askable], questions: Iterable[Any], k: int = 20, **wishes: Any
) -> list[Answer]:
    """The answers of several indexes together to each question, as :meth:`Index.query_many` takes them.

    Raises UsageError as :func:`query` does.
    """
    return [unwrapped(answer) for answer in answers_to(indexes, questions, k, **wishes)]


def answers_to(
    indexes: Sequence[Askable], questions: Iterable[Any], k: int = 20, **wishes: Any
) -> Iterator[Answer | InstsearchError]:
    """The answers of one or several indexes, in order; what is wrong with a question comes in place of its answer.

    TOGETHER questions are encoded and searched at once. Raises UsageError as :func:`query` does.
    """
    with asking(indexes, wishes) as askable:
        yield from _answers_to(askable, questions, k, wishes)


def _answers_to(
    indexes: Sequence[Askable], questions: Iterable[Any], k: int, wishes: dict[str, Any]
) -> Iterator[Answer | InstsearchError]:
    choice = check_comparable(indexes, wishes)
    wish = Wish(k, wishes.get("per_image", 1), wishes.get("min_score"))
    if isinstance(questions, (str, os.PathLike)) or not isinstance(questions, Iterable):
        raise UsageError("questions are a list of pictures, of pairs of a picture and a box, or of dicts")
    remaining = iter(questions)
    while some := list(islice(remaining, TOGETHER)):
        checked = [_checked(question) for question in some]
        sound = [each for each in checked if not isinstance(each, InstsearchError)]
        ask = partial(_ask_each, sound, wish, wishes.get("pipeline"), choice)
        began = time.perf_counter()
        found = iter(zip(*_of_each(indexes, ask), strict=True))
        seconds = (time.perf_counter() - began) / max(1, len(sound))
        for each in checked:
            if isinstance(each, InstsearchError):
                yield each
                continue
            answers: list[Answer] = []
            wrong = None
            for answer in next(found):
                if isinstance(answer, InstsearchError):
                    wrong = wrong or answer
                else:
                    answers.append(answer)
            yield wrong or merged(answers, k, seconds)


def _ask_each(
    questions: Sequence[Question], wish: Wish, pipeline: str | None, choice: dict[str, Any], index: Askable
) -> list[Answer | InstsearchError]:
    return index.query_each(questions, wish, pipeline, **choice)


def _checked(question: Any) -> Question | InstsearchError:
    try:
        return Question.of(question)
    except InstsearchError as error:
        return error


def besides(
    indexes: Sequence[Askable], answer: Answer, most: int = 6, pipeline: str | None = None, **choice: Any
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


def check_comparable(indexes: Sequence[Askable], wishes: dict[str, Any]) -> dict[str, Any]:
    """What of the wishes is a choice of components. Raises UsageError where indexes cannot be asked together so."""
    if not indexes:
        raise UsageError("there is no index to ask")
    choice = {name: value for name, value in wishes.items() if name not in ASKING}
    engines = [index.engines(wishes.get("pipeline"), **choice) for index in indexes]
    if len(engines) > 1:
        if len(engines[0]) > 1:
            raise UsageError("several indexes are asked by one pipeline: leave out all but one --pipeline")
        check_alike([engine for (engine,) in engines])
    return choice


def check_alike(engines: Sequence[Engine]) -> None:
    """Raises UsageError where the scores of several engines do not mean the same."""
    first, *others = engines
    for engine in engines:
        if engine.assembly.learnt:
            part = engine.assembly.part(engine.assembly.learnt[0])
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


def merged(answers: Sequence[Answer], k: int, seconds: float) -> Answer:
    """The first k of all hits, by score, then by index and rank; what is said of an index is said with its folder.

    ``seconds`` passed while the indexes were asked, side by side perhaps; an answer alone keeps its own.
    """
    if len(answers) == 1:
        return answers[0]
    hits, near = _ranked([a.hits for a in answers], k), _ranked([a.near for a in answers], k)
    near = tuple(replace(hit, rank=hit.rank + len(hits)) for hit in near[: k - len(hits)])
    cautions = [
        f"{a.indexes[0]}: {text}" if _own(text, answers) else text for a in answers for text in a.cautions
    ]
    return replace(
        answers[0],
        hits=hits,
        near=near,
        seconds=seconds,
        n_images=sum(answer.n_images for answer in answers),
        best=max((answer.best for answer in answers if answer.best is not None), default=None),
        dropped=sum(answer.dropped for answer in answers),
        cautions=tuple(dict.fromkeys(cautions)),
        indexes=tuple(path for answer in answers for path in answer.indexes),
    )


def _own(text: str, answers: Sequence[Answer]) -> bool:
    """Whether something is said of some of the indexes only."""
    return not all(text in answer.cautions for answer in answers)


def _ranked(lists: Sequence[Sequence[Hit]], k: int) -> tuple[Hit, ...]:
    every = [(-hit.score, i, hit.rank, hit) for i, hits in enumerate(lists) for hit in hits]
    best = sorted(every, key=lambda each: each[:3])[:k]
    return tuple(replace(hit, rank=r, index=i) for r, (_, i, _, hit) in enumerate(best, 1))
