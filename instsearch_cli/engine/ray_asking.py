"""Indexes asked by workers of a Ray cluster: a plain task for some questions."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli import __version__
from instsearch_cli.engine.answer import unwrapped
from instsearch_cli.engine.questions import asked_for
from instsearch_cli.engine.ray_cluster import POLL, Cluster, environment, reason
from instsearch_cli.engine.ray_worker import begin, reported
from instsearch_cli.engine.several import as_one
from instsearch_cli.engine.workers import INSTALL
from instsearch_cli.errors import InstsearchError
from instsearch_cli.interrupt import check

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from instsearch_cli.engine.answer import Answer, Wish
    from instsearch_cli.engine.answering import Opened
    from instsearch_cli.engine.questions import Question
    from instsearch_cli.engine.workers import Workers

TRIES = 3  #: workers that may end over one task


@contextlib.contextmanager
def on_workers(indexes: Sequence[Opened], workers: Workers) -> Iterator[OnWorkers]:
    """The indexes, asked by workers; a cluster that this process is part of already is used and left."""
    cluster = Cluster(workers)
    try:
        yield OnWorkers(indexes, cluster)
    finally:
        cluster.close()


class OnWorkers:
    """Indexes that workers ask, each worker all of them, and one worker some questions.

    Workers see them, and the pictures that are asked with, by the same paths.
    """

    def __init__(self, indexes: Sequence[Opened], cluster: Cluster) -> None:
        self.kind, self.cluster = type(indexes[0]), cluster
        self.paths = [str(Path(index.path).absolute()) for index in indexes]

    def query(self, picture: Any, box: Any = None, k: int = 20, **wishes: Any) -> Answer:
        question, pipeline, wish, choice = asked_for(picture, box, k, wishes)
        return unwrapped(self.query_each([question], wish, pipeline, **choice)[0])

    def answers(
        self, picture: Any, box: Any = None, k: int = 20, **wishes: Any
    ) -> Generator[Answer, None, None]:
        """The answer alone, at once."""
        yield self.query(picture, box, k, **wishes)

    def query_each(
        self, questions: Sequence[Question], wish: Wish, pipeline: str | None = None, **choice: Any
    ) -> list[Answer | InstsearchError]:
        """What a worker says. Raises InstsearchError where TRIES of them end over it."""
        given = self.kind, self.paths, list(questions), wish, pipeline, choice
        errors = self.cluster.ray.exceptions
        for tries in range(1, TRIES + 1):
            reference = self.cluster.call(ask, *given, environment(), __version__)
            try:
                while not self.cluster.ray.wait([reference], timeout=POLL)[0]:
                    check()
                answers: list[Answer | InstsearchError] = self.cluster.ray.get(reference)
                return answers
            except errors.RayTaskError as error:
                if isinstance(error.cause, ImportError):
                    raise InstsearchError(
                        f"a worker has no instsearch of this version: run `{INSTALL[:-1]}=={__version__}'` there, in "
                        "the Python that Ray runs in"
                    ) from error
                raise error.cause from error
            except errors.RayError as error:
                if tries == TRIES:
                    raise InstsearchError(
                        f"{', '.join(self.paths)}: {TRIES} workers ended over a question, {reason(error)}: take "
                        "fewer with --workers"
                    ) from error
            except BaseException:
                self.cluster.cancel([reference])
                raise
        raise AssertionError


_here: dict[str, Opened] = {}
"""The indexes that this worker has been asked about, open and warm."""


def ask(
    kind: type[Any],
    paths: Sequence[str],
    questions: Sequence[Question],
    wish: Wish,
    pipeline: str | None,
    choice: dict[str, Any],
    variables: Mapping[str, str],
    version: str,
) -> list[Answer | InstsearchError]:
    """What indexes of some kind, as one, say to some questions, in a worker."""
    with reported():
        if version != __version__:
            raise InstsearchError(f"instsearch {__version__} is there: install {version}, as here")
        if any(os.environ.get(name) != value for name, value in variables.items()):
            _here.clear()
        for path in paths:
            if path not in _here:
                begin(variables)
                _here[path] = kind.open(path)
        return as_one([_here[path] for path in paths]).query_each(questions, wish, pipeline, **choice)
