"""Making layers: fit what has to be fitted, then map every image that a layer lacks, part by part."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_cli.engine import mirrors
from instsearch_cli.engine.answer import counted
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.intake import outdated
from instsearch_cli.engine.parts import Here, Task
from instsearch_cli.engine.records import contents, read_all, unrecorded
from instsearch_cli.engine.stages import CODES, FEATURES, SEARCH, TABLE
from instsearch_cli.engine.tensors import inference
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.storage import Mirror, to_state
from instsearch_formats import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from instsearch_cli.engine.assembly import Assembly, Part
    from instsearch_cli.engine.parts import Makers
    from instsearch_cli.engine.workers import Workers
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Layer

PASSING_FEATURES = 2048
"""A collection of at most so many images keeps its features on disk while `index` runs, so that fitting
and mapping extract once between them; a larger one is fitted on a sample and extracted again."""


FITTING, MAPPING, SEARCHING = "fitting", "mapping", "searching"
"""The steps of a run that are timed: what is learnt, what is made of each image, what is searched."""


class Took(NamedTuple):
    """Seconds that a step took, and those that all cores of this process worked meanwhile."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass
class Outcome:
    """What a run wrote and what it could not read."""

    written: dict[str, int] = field(default_factory=dict)  #: layer -> images
    fitted: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  #: (image, reason)
    blank: list[str] = field(default_factory=list)  #: images whose codes are empty: no query finds them
    reread: int = 0  #: images read again because a stage needed features that are not kept
    took: defaultdict[str, Took] = field(default_factory=lambda: defaultdict(Took))  #: by step


class Runner:
    """Runs an assembly over an index. The caller holds the index's lock.

    workers  who makes the layers of pictures; None: this process
    """

    def __init__(
        self,
        index: Index,
        assembly: Assembly,
        progress: Quiet,
        strict: bool = False,
        workers: Workers | None = None,
    ) -> None:
        self.index, self.assembly, self.progress, self.strict = index, assembly, progress, strict
        self.workers = workers
        self.outcome = Outcome()
        self._loaded: set[str] = set()
        self.before = 0  #: rows that the index had before this run
        self.collection = Collection(index, assembly, self._bad)
        self.outdated = outdated(index) if unrecorded(index) or index.images.replacing() else {}
        self.collection.hidden = frozenset(self.outdated)

    def _bad(self, row: int, reason: str) -> None:
        """A picture that does not decode: removed from the index with its reason, or the end, if strict."""
        name = printable(self.collection.path(row))
        if self.strict:
            raise InstsearchError(f"{name}: {reason} (--strict)")
        self.index.images.remove([row], f"skipped: {reason}")
        self.outcome.skipped.append((name, reason))

    def extract(self) -> Outcome:
        """Write the features layer."""
        with self._working():
            self._map([FEATURES])
        return self.outcome

    def index_all(self) -> Outcome:
        """Fit and map every layer of the pipeline, and build the search structure if it has a searcher."""
        with self._working():
            self._index_all()
        return self.outcome

    def _index_all(self) -> None:
        kinds = self.assembly.kinds
        # those that do not wait for features may find that files lack
        self.load_models(lambda kind: FEATURES not in self.assembly.part(kind).fit_needs)
        if self.assembly.pipeline.keep_features or self._features_pass(kinds):
            self._map([FEATURES])
            self._map_for_fit(kinds)
        self.load_models()
        self._map(kinds)
        with self._timed(SEARCHING):
            self._build_search()
        if not self.assembly.pipeline.keep_features:
            self._drop_passing_features()

    # -- fitting --------------------------------------------------------------------------------------

    def load_models(self, wanted: Callable[[str], bool] = lambda kind: True) -> None:
        """Load every fitted model that is not loaded, fitting what is not there yet, left to right."""
        for kind in self.assembly.learnt:
            if kind not in self._loaded and wanted(kind):
                self._loaded.add(kind)
                self.assembly.part(kind).component.load(self._model(kind))

    def _model(self, kind: str) -> dict[str, np.ndarray]:
        part, identity = self.assembly.part(kind), self.assembly.model_identity(kind)
        name = part.name
        found = self.index.read_model(name, identity, part.component.learns)
        if found is not None:
            return found[0]
        attrs: dict[str, Any] = {"images-then": int(self.index.images.alive().sum())}
        if "fit-on" in identity:
            state, rows = self._fitted_elsewhere(part, identity)
            attrs |= {"fitted-on": len(rows), "fitted-in": self.assembly.pipeline.fit.on}
            rows, where = rows[:0], f" of {self.assembly.pipeline.fit.on}"
        else:
            state, rows = self._fitted(part, self.collection)
            attrs["fitted-on"], where = len(rows), ""
        self.index.write_model(name, identity, {**state, "fitted-rows": rows}, attrs)
        self.outcome.fitted.append(f"{part.stage} '{name}' on {counted(attrs['fitted-on'], 'image')}{where}")
        return state

    def _fitted(self, part: Part, data: Collection) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What a component learns from a collection, and the rows that it looked at."""
        data.touched = set()
        try:
            with inference(), self._timed(FITTING):
                state = to_state(part.component.fit(data, self.progress))
        except Exception as error:
            error.add_note(f"{part}, while fitting")
            raise
        finally:
            data.close()
            self.progress.close()
        return state, np.asarray(sorted(data.touched), np.int64)

    def _fitted_elsewhere(
        self, part: Part, identity: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """A model fitted on another index: taken over if that index has the same one, else fitted there."""
        fit = self.assembly.pipeline.fit
        other = Index.open(Path(fit.on))
        if contents(other) != fit.digest:
            raise InstsearchError(
                f"{fit.on} holds other images than when this pipeline was made: give it again with "
                f"--fit-on {fit.on}"
            )
        found = other.read_model(
            part.name, {k: v for k, v in identity.items() if k != "fit-on"}, part.component.learns
        )
        if found is None:
            return self._fitted(part, Collection(other, self.assembly))
        state = dict(found[0])
        return state, np.asarray(state.pop("fitted-rows"))

    # -- mapping --------------------------------------------------------------------------------------

    def _missing(self, kinds: list[str]) -> list[Task]:
        spans = self.index.images.ranges()
        todo = [Task(s, tuple(k for k in kinds if not self.collection.layer(k).has(s))) for s in spans]
        return [task for task in todo if task.kinds]

    def _map(self, kinds: list[str]) -> None:
        """Write every part that is missing from these layers; a part appears only when it is whole."""
        todo = self._missing(kinds)
        if not todo:
            return
        if not self.assembly.pipeline.keep_features:
            self.outcome.reread += sum(
                any(map(self.collection.at(row).wants, task.kinds))
                for task in todo
                for row in task.span
                if row < self.before
            )
        self.progress.start(_label(kinds), sum(len(task.span) for task in todo))
        with self._timed(MAPPING), contextlib.closing(self._makers.make(todo)) as results:
            for task, result in results:
                for row, reason in result.skipped:
                    self._bad(row, reason)
                result.put()
                self.outcome.blank += result.blank
                for kind in task.kinds:
                    self.outcome.written[kind] = self.outcome.written.get(kind, 0) + self._images(task.span)
        self.progress.close()

    def _images(self, span: range) -> int:
        """How many rows are images: those of what was removed, or did not decode, are none."""
        removed = self.index.images.removed()
        return sum(row not in removed for row in span)

    @functools.cached_property
    def _makers(self) -> Makers:
        """Who makes the parts: known when the first of them is wanted."""
        if self.workers is None:
            return Here(self.collection, self.progress.advance)
        from instsearch_cli.engine.on_ray import OnRay

        return OnRay(self.collection, self.workers, self.progress)

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        before = self.outcome.took[step]
        took = time.perf_counter() - wall, time.process_time() - cpu
        self.outcome.took[step] = Took(before.wall + took[0], before.cpu + took[1])

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        try:
            yield
        finally:
            if "_makers" in vars(self):
                self._makers.close()

    def _map_for_fit(self, kinds: list[str]) -> None:
        """Write weights and regions that a fit is to read, so that they are not made once for it and once more.

        Features have to be on disk: a pass over them is cheaper then than weighing or detecting twice.
        """
        read = {k for kind in kinds if self._fit_due(kind) for k in self.assembly.part(kind).fit_needs}
        first = [kind for kind in kinds if TABLE[kind].stage != TABLE[CODES].stage]
        while first and first[-1] not in read:
            first.pop()
        self.load_models(lambda kind: kind in first)
        self._map(first)

    # -- search ---------------------------------------------------------------------------------------

    def _build_search(self) -> None:
        part = self.assembly.searcher
        if part is None or not part.fits:
            return
        layer, n = self.collection.layer(SEARCH), len(self.index.images)
        cover = layer.cover(n)
        start = cover[-1].stop if cover else 0
        if isinstance(part.component, Mirror):
            self._fill(part.component, layer, range(n), self._images(range(start, n)))
            return
        if start >= n:
            return
        while (
            cover and len(cover[-1]) <= n - start
        ):  # merge like sizes: the segments stay logarithmic in number
            start = cover.pop().start
        segment = self.collection.segment(range(start, n))
        try:
            state = part.component.fit(segment, self.progress)
            layer.write_arrays(segment.span, to_state(state))
        finally:
            segment.close()
            self.progress.close()
        self.outcome.written[SEARCH] = self._images(range(start, n))

    def _fill(self, mirror: Mirror, layer: Layer, span: range, new: int) -> None:
        """Bring a copy that is kept elsewhere up to date; its rows are searchable once it is whole."""
        data: Any = self.collection.segment(span)
        origin = mirrors.origin(self.index, self.assembly.fingerprint(SEARCH))
        try:
            filled = mirror.fill(data, origin, self.progress)
            if not layer.has(span):
                layer.write_arrays(span, to_state(filled.state))
        finally:
            data.close()
            self.progress.close()
        wrote = {SEARCH: new, "mirror": filled.changed}
        self.outcome.written |= {kind: count for kind, count in wrote.items() if count}

    # -- features that only pass through --------------------------------------------------------------

    def _features_pass(self, kinds: list[str]) -> bool:
        """Whether to keep features on disk during this run: a fit is due and the collection is small."""
        if len(self.index.images) > PASSING_FEATURES or not self._missing(kinds):
            return False
        return any(self._fit_due(kind) and FEATURES in self.assembly.part(kind).fit_needs for kind in kinds)

    def _fit_due(self, kind: str) -> bool:
        """Whether the component behind a layer has to be fitted first."""
        part = self.assembly.part(kind)
        if not part.fits:
            return False
        return not self.index.has_model(part.name, self.assembly.model_identity(kind))

    def _drop_passing_features(self) -> None:
        """Remove the features layer, unless a recorded pipeline keeps it."""
        layer = self.collection.layer(FEATURES)
        found, damaged = read_all(self.index)
        kept = {name for record in found for name in record.layers}
        if (
            not damaged
            and layer.path.is_dir()
            and layer.path.relative_to(self.index.path).as_posix() not in kept
        ):
            layer.delete()
            self.outcome.written.pop(FEATURES, None)


def _label(kinds: list[str]) -> str:
    return "extracting" if kinds == [FEATURES] else "indexing" if CODES in kinds else "computing"
