"""Several indexes asked as one: their answers merged by score, where scores of all of them mean the same."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from instsearch_cli.engine.answer import Answer, Hit
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.engine.session import Index

ASKING = ("also", "against", "pipeline", "per_image", "min_score")
"""What :meth:`Index.query` takes that is no choice of components."""


def query(indexes: Sequence[Index], picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer:
    """The answer of several indexes together, as :meth:`Index.query` gives that of one; hits say of which they are.

    Raises UsageError where scores cannot be compared: pipelines differ, or learn from their collections.
    """
    _check(indexes, wishes)
    return merged([index.query(picture, box, k, **wishes) for index in indexes], k)


def answers(
    indexes: Sequence[Index], picture: Any, box: Any = None, k: int = 20, **wishes: Any
) -> Generator[Answer, None, None]:
    """The answer as it comes, as :meth:`Index.answers` gives that of one: the last is the one of :func:`query`."""
    _check(indexes, wishes)
    with contextlib.ExitStack() as stack:
        coming = {
            i: stack.enter_context(contextlib.closing(indexes[i].answers(picture, box, k, **wishes)))
            for i in sorted(
                range(len(indexes)), key=lambda i: indexes[i].path
            )  # engines are locked in one order
        }
        each = {i: next(answers) for i, answers in coming.items()}
        while True:
            yield merged([each[i] for i in range(len(indexes))], k)
            if not any(answer.step for answer in each.values()):
                return
            each = {i: next(answers) for i, answers in coming.items()}


def _check(indexes: Sequence[Index], wishes: dict[str, Any]) -> None:
    """Raises UsageError where there is no index, or several whose scores do not mean the same."""
    if not indexes:
        raise UsageError("there is no index to ask")
    if len(indexes) > 1:
        choice = {name: value for name, value in wishes.items() if name not in ASKING}
        check_alike([index.engine(wishes.get("pipeline"), **choice) for index in indexes])


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


def merged(answers: Sequence[Answer], k: int) -> Answer:
    """The first k of all hits, by score, then by index and rank; what is said of an index is said with its folder."""
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
        seconds=sum(answer.seconds for answer in answers),
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
