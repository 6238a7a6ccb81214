"""The collection as the components see it: layers read lazily, what is missing computed on the way.

This and runner.py are the only code that reads and writes layers.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import Inputs
from instsearch_cli.engine.describe import Described
from instsearch_cli.engine.kept import Kept
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.stages import CACHE, FEATURES, GRID, IMAGE, MAPPED
from instsearch_cli.engine.stamps import Stamps
from instsearch_cli.engine.streaming import Streaming
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import BadImage, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from instsearch_cli.data import Image
    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.storage import Item
    from instsearch_formats import ImageRecord, Index, Layer
    from instsearch_formats.records import ImageRecords

PICTURES = 128 << 20  #: bytes of pictures that are kept
ITEMS = 64 << 20  #: the same of what is stored of them
PARTS = 2048  #: of the image table, some 30 kB each, that are kept


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
        self.hidden: frozenset[int] = frozenset()  #: rows that count as removed
        self.caching = (
            False  #: keep in memory what comes again with queries: pictures, what is stored or made of them
        )
        self.new = range(
            0
        )  #: rows given out in this run: what becomes of their files is no error, they are skipped
        self._stamps: Stamps | None = None
        self._pictures: Kept[int, Image] = Kept(PICTURES)
        self._items: Kept[tuple[str, int], Item] = Kept(ITEMS)
        self._layers: dict[str, Layer] = {}
        self._scratch = contextlib.ExitStack()
        self._images: tuple[tuple[Any, ...], np.ndarray] | None = None
        self._ranges: list[range] = []
        self._roots: list[str] = []
        self._state = index.images.state
        self._streaming = Streaming(assembly, self.at, self._unreadable)

    # -- the Data protocol ----------------------------------------------------------------------------

    @property
    def images(self) -> np.ndarray:
        table = self.index.images
        state = (table.state, self.hidden, self.span)
        if self._images is None or self._images[0] != state:
            live = np.flatnonzero(table.alive()[self.span.start : self.span.stop]) + self.span.start
            self._images = (state, live[~np.isin(live, list(self.hidden))] if self.hidden else live)
        return self._images[1]

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.images)

    @property
    def encoder(self) -> Any:
        return self.assembly.encoder.component if self.assembly.encoder else None

    def read(self, kind: str, row: int) -> Any:
        return vars(next(self.inputs((kind,), [row])))[kind]

    def inputs(self, kinds: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Inputs]:
        unmade = {row.kind for row in MAPPED if row.stage not in self.assembly.stages}  # None: there is none
        kinds = tuple(kind for kind in kinds if kind not in unmade)
        wanted = self.images if rows is None else rows
        for row, described in self.stream([(int(row), kinds) for row in wanted]):
            if described is None:
                continue
            if kinds:
                self.touched.add(row)
            record = self.record(row)
            yield Inputs(
                size=(record.width, record.height),
                row=row,
                name=os.fsdecode(record.name),
                **{kind: described[kind] for kind in kinds},
            )

    def named(self) -> dict[str, int]:
        return self.index.images.named(map(int, self.images))

    @property
    def weighter(self) -> Any:
        return self.assembly.weighting.component if self.assembly.weighting else None

    def blocks(self, kind: str, span: range | None = None) -> Iterator[Mapping[str, Any]]:
        layer, span = self.layer(kind), self.span if span is None else span
        if kind == FEATURES:
            have = sum(len(range(max(r.start, span.start), min(r.stop, span.stop))) for r in layer.ranges())
            if have < len(span):
                raise InstsearchError(
                    f"{self.index.path} keeps the features of {have:,} of {len(span):,} image rows: run "
                    f"`instsearch index --index {self.index.path} --keep-features`"
                )
        yield from layer.blocks(span)

    def scratch(self) -> Path:
        return self._scratch.enter_context(self.index.scratch())

    def cache(self) -> Path | None:
        return self.index.cache(self.assembly.part(CACHE).name, self.assembly.identity(CACHE))

    # -------------------------------------------------------------------------------------------------

    def segment(self, span: range) -> Collection:
        """The same collection within a range of rows."""
        part = Collection(self.index, self.assembly, self.on_bad)
        part.span, part._layers = span, self._layers
        part.hidden, part.new = self.hidden, self.new
        return part

    def refresh(self) -> None:
        """Reach the rows that were given out since, and the folders as they are now called."""
        self.span, self._ranges = range(len(self.index.images)), []
        if self._stamps is not None and not self._stamps.current:
            self._stamps = None
        if (state := self.index.images.state) != self._state:  # images may be called otherwise
            self._state = state
            vars(self).pop("_part", None)
        if "names" in vars(self):
            self.names.refresh()

    def close(self) -> None:
        """Remove scratch files."""
        self._scratch.close()

    @functools.cached_property
    def _part(self) -> Callable[[range], list[ImageRecords]]:
        read = self.index.images.reader()
        return functools.lru_cache(maxsize=PARTS)(lambda span: list(read(span)))

    def record(self, row: int) -> ImageRecord:
        """What the image table says of a row; a whole part of it is read at once."""
        if not self._ranges or row >= self._ranges[-1].stop:
            self._ranges, self._roots = self.index.images.ranges(), self.index.images.roots
        span = self._ranges[bisect.bisect_right(self._ranges, row, key=lambda r: r.start) - 1]
        return next(some[row] for some in self._part(span) if row in some.span)

    def place(self, row: int) -> tuple[int, int]:
        """The number of its index, of those that are asked together, and its row there."""
        return 0, row

    def path(self, row: int) -> Path:
        """Where a row's picture is."""
        record = self.record(row)
        if b".." in record.name.split(b"/"):  # an index from elsewhere is not trusted
            raise InstsearchError(f"row {row} of {self.index.path} names no file below its root")
        return Path(self._roots[record.root], os.fsdecode(record.name))

    @functools.cached_property
    def names(self) -> Names:
        """What images are called."""
        return Names(self.index)

    def called(self, row: int) -> str:
        """What the image of a row is called."""
        return self.names.of(self.record(row))

    def root(self, row: int) -> str:
        """The folder that a row's name is relative to."""
        return self._roots[self.record(row).root]

    def layer(self, kind: str) -> Layer:
        if kind not in self._layers:
            part = self.assembly.part(kind)
            self._layers[kind] = self.index.layer(
                kind, part.name, self.assembly.encoding(kind), self.assembly.identity(kind)
            )
        return self._layers[kind]

    def stored(self, kind: str, row: int) -> bool:
        """Whether a layer holds this row."""
        return self.assembly.makes(kind) and self.layer(kind).covers(row)

    def item(self, kind: str, row: int) -> Item:
        """What a layer holds of a row; nobody writes to it."""
        if (kept := self._items.get((kind, row))) is not None:
            return kept
        item = self.layer(kind).read(row)
        if self.caching:
            self._items.put((kind, row), item, sum(np.asarray(value).nbytes for value in item.values()))
        return item

    def at(self, row: int) -> Described:
        """The layers of a row."""
        return Described(self.assembly, Stored(self, row))

    def stream(
        self, jobs: Sequence[tuple[int, tuple[str, ...]]], by_range: bool = False
    ) -> Generator[tuple[int, Described | None], None, None]:
        """Give each row its kinds, in order; None for a row whose picture does not decode or was removed.

        With ``by_range`` no batch has rows of two ranges, so that a range is made alike by itself and among others.
        """
        alive = self.index.images.alive()
        alive[list(self.hidden)] = False
        starts = [span.start for span in self.index.images.ranges()] if by_range else []
        results = self._streaming.stream([job for job in jobs if alive[job[0]]], self.caching, starts)
        with contextlib.closing(results):
            for row, _ in jobs:
                yield next(results) if alive[row] else (row, None)

    # -- pictures -------------------------------------------------------------------------------------

    def load(self, row: int) -> Image:
        """Read one picture at the size that the extractor wants.

        Raises BadImage if it does not decode, InstsearchError if it is gone or is not what was indexed; BadImage for
        that too where the row was given out in this run.
        """
        record, path = self.record(row), self.path(row)
        self._check_unchanged(row, record, path)
        if (kept := self._pictures.get(row)) is not None:
            return kept
        fit = self.assembly.extractor.component.fit_size
        image = read_image(path, fit, record.width * record.height, os.fsdecode(record.name))
        self._check_unchanged(row, record, path)  # nor was it replaced while it was read
        if self.caching:
            self._pictures.put(row, image, image.pixels.nbytes)
        return image

    def replaced(self, row: int) -> bool:
        """Whether a row's file is another than was indexed; not where it is gone or cannot be read."""
        try:
            return not self._unchanged(row, self.record(row), self.path(row))
        except BadImage:
            return False

    def _unchanged(self, row: int, record: ImageRecord, path: Path) -> bool:
        if self._stamps is None:
            self._stamps = Stamps(self.index)
        return self._stamps.unchanged(row, path, record)

    def _check_unchanged(self, row: int, record: ImageRecord, path: Path) -> None:
        try:
            same = self._unchanged(row, record, path)
        except BadImage as error:
            if row in self.new:
                raise
            raise InstsearchError(
                f"{printable(path)} {error.reason}; if the collection moved, say where to with "
                f"`instsearch relocate`, if the image is gone for good, run `instsearch remove --missing`"
            ) from error
        if not same:
            if row in self.new:
                raise BadImage("changed while it was indexed")
            where = printable(path)
            raise InstsearchError(f"{where} changed since it was indexed: run `instsearch add` on its folder")

    def _unreadable(self, row: int, reason: str) -> None:
        if self.on_bad is None:
            raise InstsearchError(f"{self.called(row)} no longer decodes: {reason}")
        self.on_bad(row, reason)


class Stored:
    """One row of a collection: where its picture is, and what is stored of it."""

    def __init__(self, data: Collection, row: int) -> None:
        self.data, self.row = data, row
        self._record = data.record(row)
        self.name = os.fsdecode(self._record.name)

    @property
    def size(self) -> tuple[int, int]:
        return self._record.width, self._record.height

    def image(self) -> Image:
        return self.data.load(self.row)

    def has(self, kind: str) -> bool:
        return kind not in (IMAGE, GRID) and self.data.stored(kind, self.row)

    def item(self, kind: str) -> Any:
        return self.data.item(kind, self.row)

    def head(self, kind: str) -> Any:
        return self.data.layer(kind).head(self.row)
