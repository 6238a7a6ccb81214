"""Photographs into an index: rows for what is new, and every layer that the pipeline makes of them."""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import records, skipped
from instsearch_cli.engine.answer import counted
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.choosing import Choice, choose, inherited, refitted
from instsearch_cli.engine.estimate import check_space
from instsearch_cli.engine.intake import Intake, take_in
from instsearch_cli.engine.overview import pipeline_lines
from instsearch_cli.engine.pipeline import SEPARATOR, Pipeline
from instsearch_cli.engine.runner import Outcome, Runner
from instsearch_cli.engine.stages import FEATURES
from instsearch_cli.errors import NoImages, UsageError
from instsearch_cli.images import MAX_PIXELS, discover
from instsearch_cli.progress import Quiet
from instsearch_formats import Index
from instsearch_formats.changes import Change
from instsearch_formats.files import vacant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.workers import Workers
    from instsearch_cli.images import Discovery


@contextlib.contextmanager
def writing(path: Path, create: bool = False) -> Iterator[Index]:
    """Open an index, or create it, and hold its lock."""
    index = Index.create(path) if create and vacant(path) else Index.open(path)
    with index.lock():
        yield index


@dataclass(frozen=True, repr=False)
class Indexed:
    """What a run did: found = new + there + skipped of its ``intake`` (None: no images were given).

    inherited  the stages and settings of the pipeline that came from the last one
    beside     what was done for the pipelines that are asked as one with it
    """

    pipeline: Pipeline
    outcome: Outcome
    seconds: float
    intake: Intake | None = None
    inherited: tuple[str, ...] = ()
    beside: tuple[Indexed, ...] = ()

    @property
    def written(self) -> dict[str, int]:
        """The layers that were written, of how many images."""
        return self.outcome.written

    @property
    def fitted(self) -> list[str]:
        """What was fitted, on how many images."""
        return self.outcome.fitted

    def __repr__(self) -> str:
        wrote = ", ".join(f"{kind} {n:,}" for kind, n in self.written.items()) or "nothing: all there"
        return f"<pipeline {self.pipeline.name} wrote {wrote} in {self.seconds:.1f} s>"

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        report: dict[str, Any] = {
            "pipeline": self.pipeline.name,
            "config": self.pipeline.plain(),
            "inherited": list(self.inherited),
            "written": self.outcome.written,
            "fitted": self.outcome.fitted,
            "blank": self.outcome.blank,
            "seconds": round(self.seconds, 3),
        }
        if self.intake is not None:
            report |= {
                "found": self.intake.found,
                "indexed": self.intake.new,
                "there": self.intake.there,
                "renamed": self.intake.renamed,
                "others": self.intake.others,
                "skipped": [{"image": n, "reason": r} for n, r in self.intake.skipped],
            }
        if self.beside:
            report["beside"] = [each.plain() for each in self.beside]
        return report


@dataclass(frozen=True)
class How:
    """How a run goes about it; nothing of this changes what is made.

    strict      stop at the first image that cannot be read
    max_pixels  larger images are skipped
    recheck     read every file again, whatever its size and times say
    workers     who makes the layers of pictures; None: this process
    """

    device: str = "auto"
    strict: bool = False
    max_pixels: int = MAX_PIXELS
    recheck: bool = False
    progress: Quiet = field(default_factory=Quiet)
    workers: Workers | None = None


@dataclass(frozen=True)
class Start:
    """What a pipeline is made from: one that there is, and what is chosen in it."""

    base: Pipeline | None
    choice: Choice = field(default_factory=Choice)


def index_each(
    index: Index,
    registry: Registry,
    images: Sequence[Path],
    starts: Sequence[Start],
    how: How,
    keep_features: bool | None = None,
    refit: bool = False,
    take: Callable[[], Intake] | None = None,
) -> Indexed:
    """As :func:`index_images` for each of some pipelines, which are asked as one where no other is named."""
    names = [choose(registry, start.base, start.choice).name for start in starts]
    if len(set(names)) < len(names):
        raise UsageError(f"pipelines that are asked as one need names of their own, not twice '{names[0]}'")
    for start in starts[1:]:  # that weights are there is known before the first is made
        records.folders(Assembly(choose(registry, start.base, start.choice), registry, how.device))
    together, how_and = SEPARATOR.join(names), (how, None, keep_features, refit)
    done: list[Indexed] = []
    for start in starts:
        fresh: Sequence[Path] = () if done else images
        one = (start.base, start.choice, *how_and, None if done else take, together)
        done.append(index_images(index, registry, fresh, *one))
    return replace(done[0], beside=tuple(done[1:]))


def index_images(
    index: Index,
    registry: Registry,
    images: Sequence[Path],
    base: Pipeline | None,
    choice: Choice,
    how: How,
    name: str | None = None,
    keep_features: bool | None = None,
    refit: bool = False,
    take: Callable[[], Intake] | None = None,
    together: str = "",
) -> Indexed:
    """Give new images rows and make every layer of the pipeline that is missing; the caller holds the lock.

    It is recorded, under ``name`` if given, as the index's last one, or as one of ``together``. ``take`` gives the rows
    in place of ``images``. Without either, files that a killed run was replacing are so for this pipeline alone, as
    long as another one answers with their rows from before.
    """
    began = time.perf_counter()
    pipeline = choose(registry, base, choice, name=name)
    if keep_features is not None:
        pipeline = replace(pipeline, keep_features=keep_features)
    if refit:
        pipeline = refitted(pipeline, registry)
    assembly = Assembly(pipeline, registry, how.device)
    from_last = inherited(base, choice, pipeline)
    table, before, found = index.images, len(index.images), discover(list(images)) if images else None
    for line in pipeline_lines(assembly, from_last):
        how.progress.say(line)
    since = _seen(index)
    if found:
        take = functools.partial(_take, index, found, how)
    intake = take() if take else None
    with table.foreseeing(intake.change if intake else Change()):
        if not table.alive().any():
            raise NoImages(f"{index.path} holds no image that can be read: give folders or files to index")
        runner = Runner(index, assembly, how.progress, how.strict, how.workers)
        runner.before = before
        runner.collection.new = range(before, len(table))
        if table.foreseen and len(table) > since:
            table.replace(runner.outdated, since)
        elif runner.outdated:
            table.replace(runner.outdated)
        check_space(index, assembly, pipeline.keep_features, how.progress)
        outcome = runner.index_all()
        records.record(index, assembly, together)
        if take or not records.awaited(index, runner.outdated, pipeline.name):
            table.replaced(runner.outdated)
    _say(assembly, outcome, how.progress)
    return replace(_indexed(index, assembly, outcome, intake, began), inherited=tuple(from_last))


def _seen(index: Index) -> int:
    """How many rows those who ask see: not those that a killed run gave out, to count with its other changes."""
    run = index.images.replacement()
    return min([run.since] if run.id else run.rows.values(), default=len(index.images))


def extract_images(
    index: Index, registry: Registry, images: Sequence[Path], choice: Choice, how: How
) -> Indexed:
    """Give new images rows and keep their features; the caller holds the lock.

    Files that changed are replaced at once where nothing can be asked, else when they are indexed.
    """
    began = time.perf_counter()
    try:
        last = records.last(index)
    except records.RecordError as error:
        how.progress.say(f"warning: {error}")
        last = None
    base = last.pipeline if last else None
    pipeline = choose(registry, base, choice, extract_only=True)
    if base is None or base.encoder is None or base.extractor != pipeline.extractor:
        pipeline = Pipeline("extract", pipeline.extractor, query=pipeline.query, fit=pipeline.fit)
    assembly = Assembly(replace(pipeline, keep_features=True), registry, how.device)
    before = len(index.images)
    intake = _take(index, discover(list(images)), how)
    index.images.change(intake.change)
    runner = Runner(index, assembly, how.progress, how.strict, how.workers)
    if runner.outdated:
        index.images.replace(runner.outdated)
    check_space(index, assembly, True, how.progress)
    runner.collection.new = range(before, len(index.images))
    outcome = runner.extract()
    if not any(record.searchable and record.by == records.INDEX for record in records.recorded(index)):
        index.images.replaced(runner.outdated)
    records.record(index, assembly)
    return _indexed(index, assembly, outcome, intake, began)


def _take(index: Index, found: Discovery, how: How) -> Intake:
    return take_in(index, found, how.progress, how.strict, how.max_pixels, how.recheck)


def _indexed(
    index: Index, assembly: Assembly, outcome: Outcome, intake: Intake | None, began: float
) -> Indexed:
    if intake is not None:
        intake.skip_later(outcome.skipped)
        skipped.note(index, intake.skipped, (found.path for found in intake.places), intake.folders)
    return Indexed(assembly.pipeline, outcome, time.perf_counter() - began, intake)


def _say(assembly: Assembly, outcome: Outcome, progress: Quiet) -> None:
    if outcome.reread:
        were = "was" if outcome.reread == 1 else "were"
        progress.say(
            f"{counted(outcome.reread, 'image')} {were} read again: features are not kept (--keep-features)"
        )
    again = [part.name for part in assembly.rerankers if FEATURES in part.needs]
    if again and not assembly.pipeline.keep_features:
        progress.say(
            f"'{again[0]}' reads the images of its candidates at every query; --keep-features spares it"
        )
