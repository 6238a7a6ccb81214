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
import torch

from instsearch_cli.data import Inputs
from instsearch_cli.engine.streaming import Got, Streaming
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import read_image
from instsearch_cli.storage import as_stored, from_item, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from instsearch_cli.data import Features, Grid, Image
    from instsearch_cli.engine.assembly import Assembly, Part
    from instsearch_formats import ImageRecord, Index, Layer


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
        self._scratch = contextlib.ExitStack()
        self._images: tuple[tuple[int, int], np.ndarray] | None = None
        self._ranges: list[range] = []
        self._roots: list[str] = []
        self._part = functools.lru_cache(maxsize=64)(self._records)
        self.stream = Streaming(self).stream

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
            yield self.inputs_of(row, {kind: got[kind] for kind in kinds}, got.get("grid"))

    @property
    def weighter(self) -> Any:
        return self.assembly.weighting.component if self.assembly.weighting else None

    def blocks(self, kind: str, span: range | None = None) -> Iterator[Mapping[str, Any]]:
        layer, span = self.layer(kind), self.span if span is None else span
        if kind == "features":
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
        return self.index.cache(self.assembly.part("cache").offer.spec.name, self.assembly.identity("cache"))

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

    def obtain(self, row: int, kind: str, got: Got) -> Any:
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
            got[kind] = self.extract([self.obtain(row, "image", got)])[0]
        else:
            for source in self.sources(kind):
                self.obtain(row, source, got)
            got[kind] = self.compute(kind, self.inputs_of(row, got, got.get("grid")))
        return got[kind]

    def _grid(self, row: int, got: Got) -> Grid:
        for kind in ("features", "local"):
            if kind in got:
                known: Grid = got[kind].grid
                return known
            if kind in ("features", *self.assembly.kinds) and self.stored(kind, row):
                return grid_of(self.layer(kind).head(row))
        made: Grid = self.obtain(row, "features", got).grid
        return made

    def compute(self, kind: str, inputs: Inputs) -> Any:
        """Let the component make a layer of one image; what it raises is told with its name and the image's."""
        component = self.assembly.part(kind).component
        with self.noted(kind, [inputs]):
            if kind == "regions":
                return component.detect(inputs)
            if kind == "weights":
                return component.weigh(inputs)
            if kind == "local":
                return component.embed(inputs.features)
            local = inputs.features if component.local is None else inputs.local
            return component.aggregate(local, inputs.weights, inputs.regions)

    @contextlib.contextmanager
    def noted(self, kind: str, images: Sequence[Image | Inputs]) -> Iterator[None]:
        """What the component behind a layer raises is told with its name and the images'."""
        try:
            yield
        except Exception as error:
            names = ", ".join(image.name for image in images)
            part = describe(self.assembly.part(kind))
            error.add_note(f"{part}, image{'s' * (len(images) > 1)} {names}")
            raise

    def inputs_of(self, row: int, got: Got, grid: Grid | None) -> Inputs:
        """What a component is given of a row."""
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

    def extract(self, images: list[Image]) -> list[Features]:
        """The features of pictures of equal shape, as the index has them."""
        with self.noted("features", images), torch.inference_mode():
            found = self.assembly.extractor.component.extract(images)
            return [as_stored(features) for features in found] if self.rounding else list(found)


def describe(part: Part) -> str:
    """ "weighting 'x' of some-package 1.2", for messages."""
    return f"{part.stage} '{part.offer.spec.name}' of {part.offer.distribution} {part.offer.version}"
