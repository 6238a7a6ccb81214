"""Loading ahead: order, bounds, errors, and threads that end."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import pytest

from instsearch_cli.images import BadImage, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_the_order_of_the_jobs(workers: int, ahead: int) -> None:
    def load(job: int) -> int:
        time.sleep(0.001 * (job * 7 % 3))
        return job * job

    with Reader(range(40), load, workers, ahead) as reader:
        assert list(reader) == [(job, job * job) for job in range(40)]
    assert not threads()


def test_no_jobs() -> None:
    assert list(Reader([], str, 2, 2)) == []


def test_workers_load_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)

    def load(job: int) -> int:
        together.wait()
        return job

    assert [job for job, _ in Reader(range(8), load, 2, 4)] == list(range(8))


def test_loading_goes_on_while_the_consumer_computes() -> None:
    loaded = [threading.Event() for _ in range(10)]

    def load(job: int) -> int:
        loaded[job].set()
        return job

    with Reader(range(10), load, 1, 3) as reader:
        for job, _ in reader:
            for later in loaded[job : job + 4]:
                assert later.wait(30)


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_than_ahead_is_loaded(ahead: int) -> None:
    begun = []

    def jobs() -> Iterator[int]:
        yield from itertools.count()

    def load(job: int) -> int:
        begun.append(job)
        return job

    with Reader(jobs(), load, 2, ahead) as reader:
        for job, _ in itertools.islice(reader, 50):
            time.sleep(0.001)
            assert len(begun) <= job + 1 + ahead


def test_bad_images_are_results_without_a_traceback() -> None:
    def load(job: int) -> int:
        if job % 2:
            try:
                raise OSError("below")
            except OSError as error:
                raise BadImage(f"bad {job}") from error
        return job

    results = dict(Reader(range(4), load, 2, 2))
    assert (results[0], results[2]) == (0, 2)
    for job in 1, 3:
        bad = results[job]
        assert isinstance(bad, BadImage)
        assert bad.reason == f"bad {job}"
        assert bad.__traceback__ is bad.__cause__ is bad.__context__ is None


def test_other_exceptions_come_where_the_result_would() -> None:
    def load(job: int) -> int:
        if job == 3:
            raise ZeroDivisionError("a bug")
        return job

    with Reader(itertools.count(), load, 2, 5) as reader:
        assert [next(reader)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError, match="a bug"):
            next(reader)
    assert not threads()


def test_an_exception_of_the_jobs_ends_the_threads() -> None:
    def jobs() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(Reader(jobs(), lambda job: job, 2, 2))
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaving_early_drops_what_has_not_begun(error: type[BaseException]) -> None:
    begun = []
    go = threading.Event()

    def load(job: int) -> int:
        begun.append(job)
        if job > 0:
            go.wait(30)
        return job

    def leave() -> None:
        with Reader(range(1000), load, 2, 100) as reader:
            next(reader)
            threading.Timer(0.05, go.set).start()
            raise error

    with pytest.raises(error):
        leave()
    assert not threads()
    assert len(begun) <= 3
    assert begun[0] == 0


def test_closing_before_beginning_and_twice() -> None:
    reader = Reader(range(3), str, 1, 1)
    reader.close()
    reader.close()
    assert list(reader) == []
    assert not threads()


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 0)])
def test_senseless_numbers(workers: int, ahead: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Reader([], str, workers, ahead)
