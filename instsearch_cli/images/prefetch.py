"""Loading ahead: threads read and decode while the consumer computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

from instsearch_cli.images.opening import BadImage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

T = TypeVar("T")
R = TypeVar("R")


class Reader(Generic[T, R]):
    """Iterate over ``(job, load(job))`` in the order of the jobs, ``workers`` threads loading ahead.

    At most ``ahead`` results are held or under way beside the one handed out, so memory is bounded. ``jobs``
    is drawn from in the consumer's thread; each thread calls ``begin`` first. A :class:`BadImage` takes the
    result's place; any other exception of ``load`` is raised where its result would have come. Leaving early,
    by an exception or :meth:`close` (use it as a context manager), drops what has not begun and waits for the
    loads under way.
    """

    def __init__(
        self,
        jobs: Iterable[T],
        load: Callable[[T], R],
        workers: int,
        ahead: int,
        begin: Callable[[], None] | None = None,
    ) -> None:
        if workers < 1 or ahead < 1:
            raise ValueError(f"workers and ahead are at least 1, not {workers} and {ahead}")
        self._results = self._run(jobs, load, workers, ahead, begin)

    def __iter__(self) -> Iterator[tuple[T, R | BadImage]]:
        return self

    def __next__(self) -> tuple[T, R | BadImage]:
        return next(self._results)

    def __enter__(self) -> Reader[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        self._results.close()

    @staticmethod
    def _run(
        jobs: Iterable[T],
        load: Callable[[T], R],
        workers: int,
        ahead: int,
        begin: Callable[[], None] | None,
    ) -> Generator[tuple[T, R | BadImage], None, None]:
        def attempt(job: T) -> R | BadImage:
            try:
                return load(job)
            except BadImage as error:
                return BadImage(error.reason)  # without the traceback, which holds half-decoded pixels

        pool = ThreadPoolExecutor(workers, thread_name_prefix="reader", initializer=begin)
        pending: deque[tuple[T, Future[R | BadImage]]] = deque()
        try:
            for job in jobs:
                pending.append((job, pool.submit(attempt, job)))
                if len(pending) > ahead:
                    yield _first(pending)
            while pending:
                yield _first(pending)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _first(pending: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    job, future = pending.popleft()
    return job, future.result()
