"""How images are worked on: one by one, side by side, or in batches; what comes again is kept for a while."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from instsearch_cli.engine.describe import make
from instsearch_cli.engine.kept import Kept
from instsearch_cli.engine.stages import FEATURES, GRID, IMAGE, TABLE
from instsearch_cli.engine.tensors import free_threads, one_thread_each
from instsearch_cli.images import BadImage, Reader
from instsearch_cli.storage import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from instsearch_cli.data import Features, Image
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.engine.describe import Described

J = TypeVar("J")
R = TypeVar("R")

CACHE_BYTES = 512 << 20
WORKERS = 2
MOST_WORKERS = 32  #: images worked on side by side: each holds a picture and its activations


class Job(NamedTuple):
    """What is wanted of a row, and what must be had from its picture for that."""

    row: int
    kinds: tuple[str, ...]
    wants: frozenset[str]
    described: Described

    def lacks(self) -> bool:
        """Whether something is to be made, or a picture read."""
        return any(map(self.described.lacks, self.kinds))


Done = tuple[Job, BadImage | None]
"""A job with all its kinds made, or what was wrong with the picture."""


def side_by_side(jobs: Iterable[J], work: Callable[[J], R]) -> Generator[tuple[J, R | BadImage], None, None]:
    """Jobs done several at once, in their order, each in a thread of its own that computes in one thread."""
    workers = min(free_threads(), MOST_WORKERS)
    with one_thread_each() as alone, Reader(jobs, work, workers, 2 * workers, alone) as reader:
        yield from reader


class Streaming:
    """Gives rows of a collection the layers that are asked for, in whatever way is fastest.

    at          the layers of a row
    unreadable  is told of a row whose picture does not decode, and why
    """

    def __init__(
        self,
        assembly: Assembly,
        at: Callable[[int], Described],
        unreadable: Callable[[int, str], None],
    ) -> None:
        self.assembly, self.at, self.unreadable = assembly, at, unreadable
        self._kept: Kept[int, Features] = Kept(CACHE_BYTES)

    def stream(
        self,
        jobs: Sequence[tuple[int, tuple[str, ...]]],
        keep: bool = False,
        starts: Sequence[int] = (),
    ) -> Generator[tuple[int, Described | None], None, None]:
        """Give each row its kinds, in order; None for a row whose picture does not decode.

        Where every component involved is ``concurrent``, images are worked on side by side, one thread each;
        else pictures are read ahead and those of equal shape extracted together, no rows before one of ``starts`` with
        rows from it on. What is stored is read one by one: threads would take longer to start. With ``keep`` extracted
        features stay in memory, for rows that come again.
        """
        planned = (self._plan(row, kinds) for row, kinds in jobs)
        alone = len(jobs) == 1
        concurrent = not alone and self._concurrent({kind for _, kinds in jobs for kind in kinds})
        with contextlib.closing(self._worked_on(planned, alone, concurrent, starts)) as results:
            for job, bad in results:
                if bad is not None:
                    self.unreadable(job.row, bad.reason)
                    yield job.row, None
                    continue
                if keep and FEATURES in job.wants:
                    features = job.described[FEATURES]
                    self._kept.put(job.row, features, 4 * numbers(features))
                yield job.row, job.described

    def _worked_on(
        self, jobs: Iterable[Job], alone: bool, concurrent: bool, starts: Sequence[int]
    ) -> Generator[Done, None, None]:
        for lacking, some in itertools.groupby(jobs, Job.lacks):
            if alone or not lacking:
                results = self._one_by_one(some)
            elif concurrent:
                results = self._side_by_side(some)
            else:
                results = self._in_batches(some, starts)
            with contextlib.closing(results):
                yield from results

    def _plan(self, row: int, kinds: tuple[str, ...]) -> Job:
        described = self.at(row)
        if (features := self._kept.get(row)) is not None:
            described.take(FEATURES, features)
        return Job(row, kinds, frozenset().union(*map(described.wants, kinds)), described)

    def _concurrent(self, kinds: set[str]) -> bool:
        """Whether the components that may have to make these kinds all work in several threads at once."""
        involved = {FEATURES}
        while kinds:
            involved |= kinds
            kinds = {read for kind in kinds & TABLE.keys() for read in self.assembly.reads(kind)} - involved
        parts = [self.assembly.part(kind) for kind in involved - {IMAGE, GRID}]
        return all(part.component.concurrent for part in parts)

    def _one_by_one(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        for job in jobs:
            try:
                yield self._work(job), None
            except BadImage as bad:
                yield job, bad

    def _side_by_side(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """One image a thread, from the file to the last layer."""
        with contextlib.closing(side_by_side(jobs, self._work)) as results:
            for job, result in results:
                yield job, result if isinstance(result, BadImage) else None

    def _work(self, job: Job) -> Job:
        if job.wants:
            job.described[IMAGE]
        for kind in job.kinds:
            job.described[kind]
        return job

    def _in_batches(self, jobs: Iterable[Job], starts: Sequence[int]) -> Generator[Done, None, None]:
        """Read ahead in threads, extract pictures of equal shape together, make the rest one by one.

        But for the layers that a component makes of several images at once.
        """
        extractor = self.assembly.extractor.component
        width = 4 * extractor.batch if extractor.batch > 1 else 1
        window: list[tuple[Job, Any]] = []

        def load(job: Job) -> Image | None:
            image: Image | None = job.described[IMAGE] if job.wants else None
            return image

        with Reader(jobs, load, WORKERS, max(2 * width, 8)) as reader:
            for loaded in reader:
                if window and (len(window) == width or _parted(window[-1][0].row, loaded[0].row, starts)):
                    yield from self._extract(window)
                    window = []
                window.append(loaded)
            yield from self._extract(window)

    def _extract(self, window: list[tuple[Job, Any]]) -> Iterator[Done]:
        readable = [job for job, image in window if not isinstance(image, BadImage)]
        self._features([job.described for job in readable if FEATURES in job.wants])
        for kind in self.assembly.kinds:
            self._many(kind, [job.described for job in readable if kind in job.kinds])
        for job, image in window:
            if isinstance(image, BadImage):
                yield job, image
            else:
                yield self._work(job), None

    def _features(self, wanting: list[Described]) -> None:
        """Extract pictures of equal shape together; those with keypoints need not be of one."""
        extractor = self.assembly.extractor.component
        by_shape: dict[tuple[int, ...], list[Described]] = {}
        for described in wanting:
            shape = () if extractor.encoding == "keypoints" else described[IMAGE].pixels.shape
            by_shape.setdefault(shape, []).append(described)
        for members in by_shape.values():
            for start in range(0, len(members), extractor.batch):
                make(self.assembly, FEATURES, members[start : start + extractor.batch])

    def _many(self, kind: str, wanting: list[Described]) -> None:
        """Make what is made of several images at once."""
        lacking = [described for described in wanting if described.lacks(kind)]
        if lacking and TABLE[kind].batched(self.assembly.part(kind).component):
            make(self.assembly, kind, lacking)


def _parted(one: int, other: int, starts: Sequence[int]) -> bool:
    """Whether a range begins after one row and not after the other."""
    return bisect.bisect_right(starts, one) != bisect.bisect_right(starts, other)
