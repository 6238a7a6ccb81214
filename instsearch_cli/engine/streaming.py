"""How images are worked on: one by one, side by side, or in batches; what comes again is kept for a while."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import BadImage, Reader
from instsearch_cli.storage import numbers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from instsearch_cli.data import Features, Image
    from instsearch_cli.engine.collection import Collection

CACHE_BYTES = 512 << 20
WORKERS = 2
MOST_WORKERS = 32  #: images worked on side by side: each holds a picture and its activations

Got = dict[str, Any]
"""What is known of one image so far, by layer kind; "image" and "grid" among them."""


class Job(NamedTuple):
    """What is wanted of a row, what must be had from its picture for that, and what is known."""

    row: int
    kinds: tuple[str, ...]
    reads: frozenset[str]
    got: Got


MANY = {"regions": "detect_many", "weights": "weigh_many"}
"""What a component may have that makes a layer of several images at once."""

Done = tuple[Job, BadImage | None]
"""A job with all its kinds in ``got``, or what was wrong with the picture."""


class Streaming:
    """Gives rows of a collection the layers that are asked for, in whatever way is fastest."""

    def __init__(self, data: Collection) -> None:
        self.data = data
        self._kept: OrderedDict[int, tuple[Features, int]] = OrderedDict()
        self._bytes = 0

    def stream(
        self, jobs: Sequence[tuple[int, tuple[str, ...]]]
    ) -> Generator[tuple[int, Got | None], None, None]:
        """Give each row its kinds, in order; None for a row whose picture does not decode or was removed.

        Where every component involved is ``concurrent``, images are worked on side by side, one thread each;
        else pictures are read ahead and those of equal shape extracted together.
        """
        alive = self.data.index.images.alive()
        planned = (self._plan(row, kinds) for row, kinds in jobs if alive[row])
        if len(jobs) == 1:
            results = self._one_by_one(planned)
        elif self._concurrent({kind for _, kinds in jobs for kind in kinds}):
            results = self._side_by_side(planned)
        else:
            results = self._in_batches(planned)
        with contextlib.closing(results):
            for row, _ in jobs:
                if not alive[row]:
                    yield row, None
                    continue
                job, bad = next(results)
                if bad is not None:
                    if self.data.on_bad is None:
                        name = self.data.index.images.name(row)
                        raise InstsearchError(f"{name} no longer decodes: {bad.reason}")
                    self.data.on_bad(row, bad.reason)
                    yield row, None
                    continue
                if self.data.caching and "features" in job.reads:
                    self._remember(row, job.got["features"])
                yield row, job.got

    def _plan(self, row: int, kinds: tuple[str, ...]) -> Job:
        reads: frozenset[str] = frozenset().union(*(self.data.reads(k, row) for k in kinds))
        if "features" in reads and row in self._kept:
            return Job(row, kinds, reads - {"features"}, {"features": self._kept[row][0]})
        return Job(row, kinds, reads, {})

    def _concurrent(self, kinds: set[str]) -> bool:
        """Whether the components that may have to make these kinds all work in several threads at once."""
        involved = {"features"}
        while kinds:
            involved |= kinds
            computed = kinds - {"image", "features"}
            kinds = set().union(*(self.data.sources(k) for k in computed)) - involved
        parts = [self.data.assembly.part(kind) for kind in involved - {"image", "grid"}]
        return all(getattr(part.component, "concurrent", False) for part in parts)

    def _one_by_one(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        for job in jobs:
            try:
                yield self._work(job), None
            except BadImage as bad:
                yield job, bad

    def _side_by_side(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """One image a thread, from the file to the last layer, each with one thread of torch's.

        So has the consumer meanwhile: threads of torch's that wait for work take a core from the others.
        """
        threads = torch.get_num_threads()
        workers = min(threads, MOST_WORKERS)
        alone = functools.partial(torch.set_num_threads, 1)
        alone()
        try:
            with Reader(jobs, self._work, workers, 2 * workers, alone) as reader:
                for job, result in reader:
                    yield job, result if isinstance(result, BadImage) else None
        finally:
            torch.set_num_threads(threads)

    def _work(self, job: Job) -> Job:
        with torch.inference_mode():
            if job.reads:
                job.got["image"] = self.data.load(job.row)
            for kind in job.kinds:
                self.data.obtain(job.row, kind, job.got)
        return job

    def _in_batches(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """Read ahead in threads, extract pictures of equal shape together, make the rest one by one.

        But for the layers that a component makes of several images at once (MANY).
        """
        extractor = self.data.assembly.extractor.component
        width = 4 * extractor.batch if extractor.batch > 1 else 1
        window: list[tuple[Job, Image | BadImage | None]] = []

        def load(job: Job) -> Image | None:
            return self.data.load(job.row) if job.reads else None

        with Reader(jobs, load, WORKERS, max(2 * width, 8)) as reader:
            for loaded in reader:
                window.append(loaded)
                if len(window) == width:
                    yield from self._extract(window)
                    window = []
            yield from self._extract(window)

    def _extract(self, window: list[tuple[Job, Image | BadImage | None]]) -> Iterator[Done]:
        extractor = self.data.assembly.extractor.component
        by_shape: dict[tuple[int, ...], list[Job]] = {}
        for job, image in window:
            if isinstance(image, BadImage) or image is None:
                continue
            job.got["image"] = image
            if "features" in job.reads:
                shape = () if extractor.encoding == "keypoints" else image.pixels.shape
                by_shape.setdefault(shape, []).append(job)
        for members in by_shape.values():
            for start in range(0, len(members), extractor.batch):
                batch = members[start : start + extractor.batch]
                made = self.data.extract([job.got["image"] for job in batch])
                for job, features in zip(batch, made, strict=True):
                    job.got["features"] = features
        self._many([job for job, image in window if not isinstance(image, BadImage)])
        for job, image in window:
            if isinstance(image, BadImage):
                yield job, image
                continue
            with torch.inference_mode():
                for kind in job.kinds:
                    self.data.obtain(job.row, kind, job.got)
            yield job, None

    @torch.inference_mode()
    def _many(self, jobs: list[Job]) -> None:
        """Make what is made of several images at once, and what it is made of."""
        for kind in [kind for kind in self.data.assembly.kinds if kind in MANY]:
            make = getattr(self.data.assembly.part(kind).component, MANY[kind], None)
            wanting = [job for job in jobs if kind in job.kinds and not self.data.stored(kind, job.row)]
            if make is None or not wanting:
                continue
            for job in wanting:
                for source in self.data.sources(kind):
                    self.data.obtain(job.row, source, job.got)
            inputs = [self.data.inputs_of(job.row, job.got, job.got.get("grid")) for job in wanting]
            with self.data.noted(kind, inputs):
                for job, made in zip(wanting, make(inputs), strict=True):
                    job.got[kind] = made

    def _remember(self, row: int, features: Features) -> None:
        """Keep features that had to be extracted again, within CACHE_BYTES."""
        size = 4 * numbers(features)
        self._kept[row] = (features, size)
        self._bytes += size
        while self._bytes > CACHE_BYTES and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1][1]
