"""A dataset's images into an index, a pipeline over them, and how good it is: what measuring commands share."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.engine import records
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.choosing import Choice, absolute, inherited
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.describe import Described, Picture
from instsearch_cli.engine.estimate import check_space
from instsearch_cli.engine.intake import take_in
from instsearch_cli.engine.jointly import Ensemble
from instsearch_cli.engine.making import writing
from instsearch_cli.engine.matching import SKIPPED
from instsearch_cli.engine.overview import pipeline_lines
from instsearch_cli.engine.pipeline import SEPARATOR
from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.stages import CODES, REGIONS
from instsearch_cli.engine.stamps import Stamps
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import MAX_PIXELS, BadImage, Discovery, Found, read_header
from instsearch_cli.measure.evaluation import evaluate
from instsearch_cli.measure.guard import Careful, answering, check_whole
from instsearch_cli.measure.localisation import coverage
from instsearch_cli.options import make_config, parse_assignment
from instsearch_cli.outside.files import is_there
from instsearch_formats.images import location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from instsearch_cli.components import Dataset, ImageRef
    from instsearch_cli.data import Box
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.workers import Workers
    from instsearch_cli.measure.evaluation import Absent, Evaluation, Tops
    from instsearch_cli.measure.localisation import Coverage
    from instsearch_cli.progress import Quiet
    from instsearch_formats import ImageRecord, Index

EVAL = "eval"
TIMED = 32  #: images that the time of an image is measured on


@dataclass(frozen=True)
class Measured:
    """An evaluation and what it was made on."""

    evaluation: Evaluation
    dataset: Dataset
    pipeline: Pipeline
    present: int  #: images of the dataset that are there
    indexed: int  #: of these, images that could be read
    values: float  #: mean number of values that an image's codes have, zeros left out
    also: tuple[Pipeline, ...] = ()  #: the pipelines that were asked as one with it

    @property
    def metrics(self) -> dict[str, float | None]:
        """mAP and the others, by name."""
        return self.evaluation.metrics

    @property
    def name(self) -> str:
        """What the pipeline is called, or what those that were asked as one are."""
        return SEPARATOR.join(pipeline.name for pipeline in (self.pipeline, *self.also))

    @property
    def queries(self) -> list[dict[str, Any]]:
        """The numbers of each query."""
        return self.evaluation.queries

    @property
    def total(self) -> int:
        """How many images the dataset should have."""
        return size(self.dataset)

    def plain(self, present_only: bool = False) -> dict[str, Any]:
        """What `instsearch eval --json` prints."""
        evaluation = self.evaluation
        report: dict[str, Any] = {
            "dataset": self.dataset.name,
            "name": self.name,
            "config": self.pipeline.plain(),
            **({"also": [pipeline.plain() for pipeline in self.also]} if self.also else {}),
            "metrics": evaluation.metrics,
            "queries": evaluation.queries,
            "timing": evaluation.timing,
            "images": {"dataset": self.total, "indexed": self.indexed},
            "protocol": self.dataset.protocol,
        }
        if present_only:
            report["present_only"] = {
                "missing_images": self.total - self.present,
                "missing_positives": evaluation.lost,
                "dropped_queries": evaluation.dropped,
            }
        return report


@dataclass(frozen=True)
class Prepared:
    """A dataset's images in an index, with every layer that a pipeline makes of them."""

    index: Index
    assembly: Assembly
    rows: dict[str, int]  #: image name -> row, of the images that could be read
    present: int  #: images of the dataset that are there
    seconds: float


@dataclass
class Covered:
    """How well the regions of some pipelines, by name, cover a dataset's annotated boxes."""

    dataset: Dataset
    by_pipeline: dict[str, Coverage] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    indexed: int = 0

    def add(self, prepared: Prepared, annotated: Mapping[str, Sequence[Box]]) -> None:
        """Measure one more pipeline."""
        boxes = {prepared.rows[name]: its for name, its in annotated.items() if name in prepared.rows}
        pipeline, blocks = (
            prepared.assembly.pipeline,
            Collection(prepared.index, prepared.assembly).blocks(REGIONS),
        )
        self.by_pipeline[pipeline.name] = coverage(blocks, boxes)
        self.configs[pipeline.name] = pipeline.plain()
        self.indexed = len(prepared.rows)


def prepare(
    registry: Registry,
    dataset: Dataset,
    index_path: Path,
    choose: Callable[[Pipeline | None], Pipeline],
    progress: Quiet,
    device: str = "auto",
    strict: bool = False,
    present_only: bool = False,
    by: str = EVAL,
    choice: Choice | None = None,
    workers: Workers | None = None,
) -> Prepared:
    """Index what is missing. ``choose`` gives the pipeline, from the index's last one; ``choice`` is what it goes by.

    The pipeline is recorded as one that the verb ``by`` measured, the last one stays the last, and an index that can be
    asked gets no images: what it answers is as it was.

    Raises InstsearchError if images are missing, unless ``present_only``.
    """
    began = time.perf_counter()
    refs = present(dataset, present_only)
    with writing(index_path, create=True) as index:
        last = records.last(index)
        base = last.pipeline if last else None
        assembly = Assembly(choose(base), registry, pick_device(device) if workers is None else device)
        name = records.name_of_measured(index, assembly, EVAL if by == EVAL else "")
        assembly.pipeline = replace(assembly.pipeline, name=name)
        if choice is not None:
            for line in pipeline_lines(assembly, inherited(base, choice, assembly.pipeline)):
                progress.say(line)
        rows = take_dataset(index, dataset, refs, strict, progress)
        check_whole(index, assembly)
        check_space(index, assembly, assembly.pipeline.keep_features, progress)
        Careful(index, assembly, progress, strict, workers).index_all()
        records.record_measured(index, assembly, by)
    seconds = time.perf_counter() - began
    alive = index.images.alive()
    rows = {image: row for image, row in rows.items() if alive[row]}
    absent = [ref.name for ref in refs if ref.name not in rows]
    if absent:
        progress.say(
            f"warning: {len(absent):,} of the {len(refs):,} images of '{dataset.name}' are not in the index: "
            f"{_first(absent)}"
        )
    return Prepared(index, assembly, rows, len(refs), seconds)


def measure(
    registry: Registry,
    dataset: Dataset,
    index_path: Path,
    choose: Callable[[Pipeline | None], Pipeline],
    progress: Quiet,
    device: str = "auto",
    strict: bool = False,
    present_only: bool = False,
    tops: Tops | None = None,
    timed: bool = False,
    absent: Absent | None = None,
    by: str = EVAL,
    choice: Choice | None = None,
    keep: int = 0,
    also: Sequence[Callable[[Pipeline | None], Pipeline]] = (),
    workers: Workers | None = None,
) -> Measured:
    """:func:`prepare`, then run every query, of which ``keep`` hits are kept; if ``timed``, measure an image's time.

    ``also`` gives further pipelines, which are asked as one with the first.
    """
    how = (progress, device, strict, present_only, by, choice, workers)
    every = [prepare(registry, dataset, index_path, each, *how) for each in (choose, *also)]
    prepared = every[0]
    index, rows = prepared.index, prepared.rows
    within = np.fromiter(rows.values(), np.int64, len(rows))
    engines = [Engine(each.index, each.assembly, within) for each in every]
    engine, asked_for = engines[0], Ensemble(engines) if also else engines[0]
    evaluation = evaluate(asked_for, dataset, rows, progress, present_only, tops, absent, keep)
    evaluation.timing["indexing"] = sum(each.seconds for each in every)
    if timed:
        evaluation.timing["image"] = seconds_an_image(engine)
    values = sum(
        len(block["data"] if "data" in block else block["vectors"].ravel())
        for block in engine.data.blocks(CODES)
    )
    each = values / max(1, len(index.images))
    pipelines = tuple(one.assembly.pipeline for one in every)
    return Measured(evaluation, dataset, pipelines[0], prepared.present, len(rows), each, pipelines[1:])


def seconds_an_image(engine: Engine, limit: int = TIMED) -> float:
    """The median time from an image's pixels to its codes, whatever is stored, over some of the collection's images.

    They are worked on one by one, after one that does not count: a network is read when it is first used.
    """
    data, assembly = engine.data, engine.assembly
    rows, seconds = data.images, []
    chosen = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]
    for row in (chosen[0], *chosen):
        image = data.load(int(row))
        began = time.perf_counter()
        described = Described(assembly, Picture(image))
        for kind in described.kinds:
            described[kind]
        if assembly.device.type == "cuda":
            torch.cuda.synchronize(assembly.device)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


def load_dataset(
    registry: Registry,
    name: str,
    root: Path | None,
    boxes: Path | None = None,
    assignments: Iterable[str] = (),
) -> Dataset:
    """A dataset by name, or the one that a manifest describes; ``assignments`` are "dataset.option=value"."""
    given = [parse_assignment(assignment) for assignment in assignments]
    values: dict[str, Any] = {each.option_of_one: each.value for each in given}
    kind = kind_of(registry, name)
    if kind != name:
        values[kind] = name
    if boxes is not None:
        values["boxes"] = str(boxes)
    cls = registry.get("dataset", kind).load()
    dataset: Dataset = cls(make_config(cls, values, "dataset"), root)
    return dataset


def kind_of(registry: Registry, name: str) -> str:
    """The dataset that a name is of, or that reads a file that is called so."""
    suffix = Path(name).suffix
    return registry.default("dataset", suffix) if suffix == ".json" else name


def default_index(name: str, root: Path | None) -> Path:
    """Where `eval` keeps its index if not told: the user's cache, one folder a dataset."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instsearch"
    what = str(absolute(Path(name))) if name.endswith(".json") else name
    where = what + "\0" + (str(absolute(root)) if root else "")
    return cache / f"{Path(name).stem}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def size(dataset: Dataset) -> int:
    """How many images the dataset should have."""
    return max(len(dataset.images()), dataset.size)


def present(dataset: Dataset, present_only: bool) -> list[ImageRef]:
    """The dataset's images that are there. Raises InstsearchError if others are missing, unless told to go on."""
    refs, total = dataset.images(), size(dataset)
    if not refs:
        raise InstsearchError(f"dataset '{dataset.name}' has no images")
    missing = [ref for ref in refs if not is_there(ref.path)]
    missing_paths = {ref.path for ref in missing}
    there = [ref for ref in refs if ref.path not in missing_paths]
    queries = dataset.queries()
    gone = [ref for ref in queries if ref.image not in missing_paths and not is_there(ref.image)]
    if (len(there) == total and not gone) or (present_only and there):
        return there
    what = []
    if len(there) < total:
        first = f": {_first([ref.name for ref in missing])}" if missing else ""
        what.append(
            f"{total - len(there):,} of the {total:,} images of '{dataset.name}' are not there{first}"
        )
    if gone:
        what.append(
            f"{len(gone):,} of the {len(queries):,} query images not there, first that of query "
            f"'{gone[0].id}': {gone[0].image}"
        )
    raise InstsearchError(
        "; ".join(what)
        + (f"\nLooked for {missing[0].path}; say" if missing else "\nSay")
        + " where they are with --root"
        + (", or take those that are there with --present-only" if there else "")
        + (f"; they come from {source}" if (source := dataset.source) else "")
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(printable(name)[:80] for name in names[:5]) + (", …" if len(names) > 5 else "")


def take_dataset(
    index: Index, dataset: Dataset, refs: Sequence[ImageRef], strict: bool, progress: Quiet
) -> dict[str, int]:
    """The rows of these images of a dataset, by name, of those that can be read; those that have none are given one.

    An image is known by its file, whatever folder it was indexed under. Raises InstsearchError where some have no row,
    or another content, and the index is one that can be asked: it would find them, too.
    """
    table, files = index.images, {ref.name: os.fsencode(absolute(ref.path)) for ref in refs}
    indexed, stamps = _indexed(index), Stamps(index)
    fresh = [
        ref
        for ref in refs
        if files[ref.name] not in indexed or _changed(stamps, ref, *indexed[files[ref.name]])
    ]
    unread: list[tuple[str, str]] = []
    if fresh and answering(index):
        added = [ref for ref in fresh if files[ref.name] in indexed or _readable(ref, unread, strict)]
        if added:
            raise InstsearchError(
                f"{len(added):,} of the {len(refs):,} images of '{dataset.name}' are not in {index.path}, or have "
                f"changed: {_first([ref.name for ref in added])}\n"
                "Measuring adds none where `query` would find them: `instsearch add` them, or measure without --index."
            )
        fresh = []
    if fresh:
        table.remove([indexed[files[r.name]][0] for r in fresh if files[r.name] in indexed], "changed")
        folders = {
            ref.path.parent for ref in dataset.images()
        }  # of those not there, too: the root stays the same
        root = Path(os.path.commonpath([absolute(folder) for folder in folders]))
        found = [Found(root, os.fsencode(os.path.relpath(absolute(r.path), root)), r.path) for r in fresh]
        found.sort(key=lambda f: f.name)
        table.change(take_in(index, Discovery(found, []), progress, strict).change)
        indexed = _indexed(index)
    removed = table.removed()
    rows = {ref.name: indexed[files[ref.name]][0] for ref in refs if files[ref.name] in indexed}
    skipped = [(name, removed[row].removeprefix(SKIPPED)) for name, row in rows.items() if row in removed]
    for name, reason in [*unread, *skipped][:10]:
        progress.say(f"warning: skipped {printable(name)}: {reason}")
    return {name: row for name, row in rows.items() if row not in removed}


def _indexed(index: Index) -> dict[bytes, tuple[int, ImageRecord]]:
    """The row and the record of every file that is in an index, or was and cannot be read."""
    table, removed = index.images, index.images.removed()
    roots = table.roots
    return {
        location(roots, record): (row, record)
        for row, record in table.records()
        if row not in removed or removed[row].startswith(SKIPPED)
    }


def _readable(ref: ImageRef, unread: list[tuple[str, str]], strict: bool) -> bool:
    """Whether a file could be taken in; if not, ``unread`` gets its name and why. Raises InstsearchError if strict."""
    try:
        read_header(ref.path, MAX_PIXELS)
    except BadImage as error:
        if strict:
            raise InstsearchError(f"{ref.name}: {error.reason} (--strict)") from error
        unread.append((ref.name, error.reason))
        return False
    return True


def _changed(stamps: Stamps, ref: ImageRef, row: int, record: ImageRecord) -> bool:
    """Whether a file is not what was indexed, or cannot be read, which is said when it is looked at as new."""
    try:
        return not stamps.unchanged(row, ref.path, record)
    except BadImage:
        return True
