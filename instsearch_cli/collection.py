"""The collection as the components see it: layers read lazily, what is missing computed on the way.

This and runner.py are the only code that reads and writes layers.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from instsearch_cli.data import Inputs
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import BadImage, Reader, read_image
from instsearch_cli.storage import as_stored, from_item, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from instsearch_cli.assembly import Assembly, Part
    from instsearch_cli.data import Features, Grid, Image
    from instsearch_formats import ImageRecord, Index, Layer

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


class Collection:
    """An index and an assembly together: the ``Data`` of components.py.

    A layer that is stored is read; one that is not is computed from what it is made of, down to the
    pictures themselves if need be. ``on_bad`` is told of pictures that turn out not to decode.
    """

    def __init__(
        self, index: Index, assembly: Assembly, on_bad: Callable[[int, str], None] | None = None
    ) -> None:
        self.index, self.assembly = index, assembly
        self.on_bad = on_bad
        self.span = range(len(index.images))
        self.touched: set[int] = set()  #: rows streamed since it was last emptied
        self.caching = False  #: keep re-extracted features in memory: for queries, where rows come again
        self.rounding = True  #: extracted features are brought to stored precision; needless if only stored
        self._layers: dict[str, Layer] = {}
        self._cache: OrderedDict[int, tuple[Features, int]] = OrderedDict()
        self._cached = 0
        self._scratch = contextlib.ExitStack()
        self._images: tuple[tuple[int, int], np.ndarray] | None = None
        self._ranges: list[range] = []
        self._roots: list[str] = []
        self._part = functools.lru_cache(maxsize=64)(self._records)

    # -- the Data protocol ----------------------------------------------------------------------------

    @property
    def images(self) -> np.ndarray:
        table = self.index.images
        state = (len(table), len(table.removed()))
        if self._images is None or self._images[0] != state:
            live = np.flatnonzero(table.alive()[self.span.start : self.span.stop]) + self.span.start
            self._images = (state, live)
        return self._images[1]

    @property
    def encoder(self) -> Any:
        return self.assembly.encoder.component if self.assembly.encoder else None

    def read(self, kind: str, row: int) -> Any:
        return getattr(next(self.inputs((kind,), [row])), kind)

    def inputs(self, kinds: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Inputs]:
        wanted = self.images if rows is None else rows
        unmade = {"weights", "regions"} - set(self.assembly.kinds)  # None: the pipeline has none
        kinds = tuple(kind for kind in kinds if kind not in unmade)
        for row, got in self.stream([(int(row), kinds) for row in wanted]):
            if got is None:
                continue
            if kinds:
                self.touched.add(row)
            yield self._inputs(row, {kind: got[kind] for kind in kinds}, got.get("grid"))

    def blocks(self, kind: str) -> Iterator[Mapping[str, Any]]:
        yield from self.layer(kind).blocks(self.span)

    def scratch(self) -> Path:
        return self._scratch.enter_context(self.index.scratch())

    # -------------------------------------------------------------------------------------------------

    def segment(self, span: range) -> Collection:
        """The same collection within a range of rows."""
        part = Collection(self.index, self.assembly, self.on_bad)
        part.span, part._layers = span, self._layers
        return part

    def close(self) -> None:
        """Remove scratch files."""
        self._scratch.close()

    def _records(self, span: range) -> list[ImageRecord]:
        return [record for _, record in self.index.images.records(span)]

    def record(self, row: int) -> ImageRecord:
        """What the image table says of a row; a whole part of it is read at once."""
        if not self._ranges or row >= self._ranges[-1].stop:
            self._ranges, self._roots = self.index.images.ranges(), self.index.images.roots
        span = self._ranges[bisect.bisect_right(self._ranges, row, key=lambda r: r.start) - 1]
        return self._part(span)[row - span.start]

    def path(self, row: int) -> Path:
        """Where a row's picture is."""
        record = self.record(row)
        if b".." in record.name.split(b"/"):  # an index from elsewhere is not trusted
            raise InstsearchError(f"row {row} of {self.index.path} names no file below its root")
        return Path(self._roots[record.root], os.fsdecode(record.name))

    def layer(self, kind: str) -> Layer:
        if kind not in self._layers:
            part = self.assembly.part(kind)
            self._layers[kind] = self.index.layer(
                kind, part.offer.spec.name, self.assembly.encoding(kind), self.assembly.identity(kind)
            )
        return self._layers[kind]

    def stored(self, kind: str, row: int) -> bool:
        """Whether a layer holds this row."""
        if kind == "image" or (kind != "features" and kind not in self.assembly.kinds):
            return False
        return self.layer(kind).covers(row)

    def sources(self, kind: str) -> tuple[str, ...]:
        """The kinds that a layer is computed from, "grid" for the cells it lies on."""
        assembly = self.assembly
        if kind == "local":
            return ("features",)
        if kind == "codes":
            first = "local" if "local" in assembly.kinds else "features"
            return (first, *(k for k in ("weights", "regions") if k in assembly.kinds))
        if kind == "grid":
            return ("local",) if "local" in assembly.kinds else ("features",)
        return (*assembly.part(kind).needs, "grid")

    def reads(self, kind: str, row: int) -> set[str]:
        """What must be had from the picture itself to give a layer of a row: "image", "features"."""
        if kind in ("image", "features"):
            return set() if self.stored(kind, row) else {kind}
        if kind == "grid" and (self.stored("features", row) or self.stored("local", row)):
            return set()
        if kind != "grid" and self.stored(kind, row):
            return set()
        sources = ("features",) if kind == "grid" else self.sources(kind)
        return set().union(*(self.reads(s, row) for s in sources))

    def stream(
        self, jobs: Sequence[tuple[int, tuple[str, ...]]]
    ) -> Generator[tuple[int, Got | None], None, None]:
        """Give each row its kinds, in order; None for a row whose picture does not decode or was removed.

        Where every component involved is ``concurrent``, images are worked on side by side, one thread each;
        else pictures are read ahead and those of equal shape extracted together.
        """
        alive = self.index.images.alive()
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
                    if self.on_bad is None:
                        name = self.index.images.name(row)
                        raise InstsearchError(f"{name} no longer decodes: {bad.reason}")
                    self.on_bad(row, bad.reason)
                    yield row, None
                    continue
                if self.caching and "features" in job.reads:
                    self._remember(row, job.got["features"])
                yield row, job.got

    def _plan(self, row: int, kinds: tuple[str, ...]) -> Job:
        reads: frozenset[str] = frozenset().union(*(self.reads(k, row) for k in kinds))
        if "features" in reads and row in self._cache:
            return Job(row, kinds, reads - {"features"}, {"features": self._cache[row][0]})
        return Job(row, kinds, reads, {})

    def _concurrent(self, kinds: set[str]) -> bool:
        """Whether the components that may have to make these kinds all work in several threads at once."""
        involved = {"features"}
        while kinds:
            involved |= kinds
            computed = kinds - {"image", "features"}
            kinds = set().union(*(self.sources(k) for k in computed)) - involved
        parts = [self.assembly.part(kind) for kind in involved - {"image", "grid"}]
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
                job.got["image"] = self.load(job.row)
            for kind in job.kinds:
                self._obtain(job.row, kind, job.got)
        return job

    def _obtain(self, row: int, kind: str, got: Got) -> Any:
        """One layer of one row: known, stored or computed."""
        if kind in got:
            return got[kind]
        if kind == "grid":
            got[kind] = self._grid(row, got)
        elif self.stored(kind, row):
            got[kind] = from_item(self.assembly.encoding(kind), self.layer(kind).read(row))
        elif kind == "image":
            got[kind] = self.load(row)
        elif kind == "features":
            got[kind] = self._features([self._obtain(row, "image", got)])[0]
        else:
            for source in self.sources(kind):
                self._obtain(row, source, got)
            got[kind] = self.compute(kind, self._inputs(row, got, got.get("grid")))
        return got[kind]

    def _grid(self, row: int, got: Got) -> Grid:
        for kind in ("features", "local"):
            if kind in got:
                known: Grid = got[kind].grid
                return known
            if kind in ("features", *self.assembly.kinds) and self.stored(kind, row):
                return grid_of(self.layer(kind).head(row))
        made: Grid = self._obtain(row, "features", got).grid
        return made

    def compute(self, kind: str, inputs: Inputs) -> Any:
        """Let the component make a layer of one image; what it raises is told with its name and the image's."""
        part = self.assembly.part(kind)
        component = part.component
        with noted(part, [inputs]):
            if kind == "regions":
                return component.detect(inputs)
            if kind == "weights":
                return component.weigh(inputs)
            if kind == "local":
                return component.embed(inputs.features)
            local = inputs.features if component.local is None else inputs.local
            return component.aggregate(local, inputs.weights, inputs.regions)

    def _inputs(self, row: int, got: Got, grid: Grid | None) -> Inputs:
        record = self.record(row)
        known = {k: v for k, v in got.items() if k != "grid"}
        return Inputs(
            size=(record.width, record.height), row=row, name=os.fsdecode(record.name), grid=grid, **known
        )

    # -- pictures -------------------------------------------------------------------------------------

    def load(self, row: int) -> Image:
        """Read one picture at the size that the extractor wants.

        Raises BadImage if it does not decode, InstsearchError if it is gone or is not what was indexed.
        """
        record, path = self.record(row), self.path(row)
        try:
            stat = path.stat()
        except OSError as error:
            raise InstsearchError(
                f"{path} cannot be read: {error.strerror}; if the collection moved, say where to with "
                f"`instsearch relocate`, if the image is gone for good, run `instsearch remove --missing`"
            ) from error
        if stat.st_size != record.nbytes:
            raise InstsearchError(f"{path} changed since it was indexed: run `instsearch add` on its folder")
        fit = self.assembly.extractor.component.fit_size
        return read_image(path, fit, record.width * record.height, os.fsdecode(record.name))

    def _in_batches(self, jobs: Iterable[Job]) -> Generator[Done, None, None]:
        """Read ahead in threads, extract pictures of equal shape together, make the rest one by one.

        But for the layers that a component makes of several images at once (MANY).
        """
        extractor = self.assembly.extractor.component
        width = 4 * extractor.batch if extractor.batch > 1 else 1
        window: list[tuple[Job, Image | BadImage | None]] = []

        def load(job: Job) -> Image | None:
            return self.load(job.row) if job.reads else None

        with Reader(jobs, load, WORKERS, max(2 * width, 8)) as reader:
            for loaded in reader:
                window.append(loaded)
                if len(window) == width:
                    yield from self._extract(window)
                    window = []
            yield from self._extract(window)

    def _extract(self, window: list[tuple[Job, Image | BadImage | None]]) -> Iterator[Done]:
        extractor = self.assembly.extractor.component
        by_shape: dict[tuple[int, ...], list[Job]] = {}
        for job, image in window:
            if isinstance(image, BadImage) or image is None:
                continue
            job.got["image"] = image
            if "features" in job.reads:
                shape = image.pixels.shape if extractor.encoding == "dense-map" else ()
                by_shape.setdefault(shape, []).append(job)
        for members in by_shape.values():
            for start in range(0, len(members), extractor.batch):
                batch = members[start : start + extractor.batch]
                made = self._features([job.got["image"] for job in batch])
                for job, features in zip(batch, made, strict=True):
                    job.got["features"] = features
        self._many([job for job, image in window if not isinstance(image, BadImage)])
        for job, image in window:
            if isinstance(image, BadImage):
                yield job, image
                continue
            with torch.inference_mode():
                for kind in job.kinds:
                    self._obtain(job.row, kind, job.got)
            yield job, None

    @torch.inference_mode()
    def _many(self, jobs: list[Job]) -> None:
        """Make what is made of several images at once, and what it is made of."""
        for kind in [kind for kind in self.assembly.kinds if kind in MANY]:
            part = self.assembly.part(kind)
            make = getattr(part.component, MANY[kind], None)
            wanting = [job for job in jobs if kind in job.kinds and not self.stored(kind, job.row)]
            if make is None or not wanting:
                continue
            for job in wanting:
                for source in self.sources(kind):
                    self._obtain(job.row, source, job.got)
            inputs = [self._inputs(job.row, job.got, job.got.get("grid")) for job in wanting]
            with noted(part, inputs):
                for job, made in zip(wanting, make(inputs), strict=True):
                    job.got[kind] = made

    def _features(self, images: list[Any]) -> list[Features]:
        part = self.assembly.extractor
        with noted(part, images), torch.inference_mode():
            found = part.component.extract(images)
            return [as_stored(features) for features in found] if self.rounding else list(found)

    def _remember(self, row: int, features: Features) -> None:
        """Keep features that had to be extracted again, within CACHE_BYTES."""
        size = features.values.numel() * 4
        self._cache[row] = (features, size)
        self._cached += size
        while self._cached > CACHE_BYTES and self._cache:
            self._cached -= self._cache.popitem(last=False)[1][1]


@contextlib.contextmanager
def noted(part: Part, images: Sequence[Image | Inputs]) -> Iterator[None]:
    """What a component raises is told with its name and the images'."""
    try:
        yield
    except Exception as error:
        names = ", ".join(image.name for image in images)
        error.add_note(f"{describe(part)}, image{'s' * (len(images) > 1)} {names}")
        raise


def describe(part: Part) -> str:
    """ "weighting 'x' of some-package 1.2", for messages."""
    return f"{part.stage} '{part.offer.spec.name}' of {part.offer.distribution} {part.offer.version}"
