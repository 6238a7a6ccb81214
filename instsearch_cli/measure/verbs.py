"""The verbs that measure, as functions: what `eval`, `saliency`, `reproduce` and `pairs` do."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.components import Dataset
from instsearch_cli.engine.assembly import Assembly, pick_device
from instsearch_cli.engine.choosing import Choice, as_path, choose, chosen, of_each
from instsearch_cli.engine.looking import check_open
from instsearch_cli.engine.opened import format_errors
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.workers import workers_in
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.measure import saliency as fixated
from instsearch_cli.measure import saliency_precision as annotated
from instsearch_cli.measure.datasets import Covered, default_index, load_dataset, measure, prepare
from instsearch_cli.measure.evaluation import Absent, Tops
from instsearch_cli.measure.fixations import MOST_PIXELS, Fixations
from instsearch_cli.measure.fixations import split as divided
from instsearch_cli.measure.named import by_name, last_of_several
from instsearch_cli.measure.pairs import Miner, write_csv
from instsearch_cli.measure.reproduce import Runs, Wanted
from instsearch_cli.measure.runs import score_run
from instsearch_cli.measure.tables import of_dataset, select
from instsearch_cli.options import parse_assignment
from instsearch_cli.progress import Quiet
from instsearch_formats.files import vacant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.measure.datasets import Measured
    from instsearch_cli.measure.pairs import Mined
    from instsearch_cli.measure.runs import ScoredRun
    from instsearch_cli.measure.tables import Value

    Anywhere = str | os.PathLike[str]


def evaluate(
    index: Index | Anywhere | None,
    dataset: str | os.PathLike[str] | Dataset,
    *,
    pipeline: str | None = None,
    root: Anywhere | None = None,
    boxes: Anywhere | None = None,
    present_only: bool = False,
    strict: bool = False,
    keep_features: bool | None = None,
    tops: Sequence[int] = (),
    top_of: str = "positives",
    absent: bool = False,
    min_score: float | None = None,
    keep: int = 0,
    device: str | None = None,
    progress: Quiet | None = None,
    **choice: Any,
) -> Measured:
    """How good a pipeline is on a dataset, by name or a MANIFEST.json, whose images are indexed as far as they are not.

    index     None: the dataset's own, in the user's cache
    keep      how many of the first hits of each query the evaluation's ``rankings`` have
    pipeline  one that the index knows by name, or a preset, or "a+b" for two that are asked as one; else what
              ``choice`` chooses, as ``Index.index`` takes it, with ``engine`` and ``workers``
    """
    crew = workers_in(choice)
    registry, selection = load_registry(), _rest(choice)
    of = _dataset(registry, dataset, root, boxes, choice)
    place, on = _place(index, dataset, root), _device(index, device)
    if pipeline is not None and selection.stages:
        raise UsageError("a pipeline by name is as it was recorded: leave out what chooses another")
    if pipeline is None and not selection.stages:
        pipeline = last_of_several(place)
    named = [] if pipeline is None else by_name(registry, place, pipeline)

    def which(last: Pipeline | None, one: Pipeline | Choice) -> Pipeline:
        found = choose(registry, last, one) if isinstance(one, Choice) else one
        return found if keep_features is None else replace(found, keep_features=keep_features)

    every = [partial(which, one=one) for one in named or of_each(selection, registry)]

    with format_errors():
        return measure(
            registry,
            of,
            place,
            every[0],
            progress or Quiet(),
            on,
            strict,
            present_only,
            Tops(tuple(tops), top_of),
            absent=Absent(min_score) if absent else None,
            keep=keep,
            choice=Choice(preset=pipeline) if named else selection,
            also=every[1:],
            workers=crew,
        )


def evaluate_run(
    run: Anywhere,
    dataset: str | os.PathLike[str] | Dataset,
    *,
    root: Anywhere | None = None,
    boxes: Anywhere | None = None,
    options: Sequence[str] = (),
    present_only: bool = False,
    tops: Sequence[int] = (),
    top_of: str = "positives",
    keep: int = 0,
) -> ScoredRun:
    """How good the ranked lists of another program are, a TREC run file: on a dataset as ``evaluate`` takes it."""
    of = _dataset(load_registry(), dataset, root, boxes, {"options": options})
    return score_run(of, as_path(run, "a run"), Tops(tuple(tops) or of.tops, top_of), keep, present_only)


def coverage(
    index: Index | Anywhere | None,
    dataset: str | os.PathLike[str] | Dataset,
    *,
    root: Anywhere | None = None,
    boxes: Anywhere | None = None,
    present_only: bool = False,
    strict: bool = False,
    keep_features: bool | None = None,
    device: str | None = None,
    progress: Quiet | None = None,
    **choice: Any,
) -> Covered:
    """How well detectors' regions cover a dataset's annotated boxes: of the pipeline that ``choice`` chooses, or of all
    that the index knows and that have a detector."""
    crew = workers_in(choice)
    registry, selection = load_registry(), _rest(choice)
    of = _dataset(registry, dataset, root, boxes, choice)
    place, on = _place(index, dataset, root), _device(index, device)
    annotated_boxes = of.boxes()
    if not annotated_boxes:
        raise InstsearchError(
            f"'{of.name}' has no annotated boxes; those of a manifest are in boxes.csv beside it, "
            "or name them with --boxes FILE"
        )

    def chosen_one(last: Pipeline | None) -> Pipeline:
        found = choose(registry, last, selection)
        if found.detector is None:
            raise UsageError("the pipeline finds no regions: name a detector with --detector")
        return found if keep_features is None else replace(found, keep_features=keep_features)

    with format_errors():
        there = [] if selection.stages or vacant(place) else Index.open(place).pipelines.values()
        kept = [pipeline for pipeline in there if pipeline.encoder and pipeline.detector]
        which: list[Callable[[Pipeline | None], Pipeline]]
        which = [partial(_itself, pipeline) for pipeline in kept] or [chosen_one]
        covered = Covered(of)
        for choosing in which:
            how = (progress or Quiet(), on, strict, present_only)
            covered.add(prepare(registry, of, place, choosing, *how, workers=crew), annotated_boxes)
        return covered


def _itself(pipeline: Pipeline, last: Pipeline | None) -> Pipeline:
    return pipeline


def _rest(choice: dict[str, Any]) -> Choice:
    """A choice without the options of the dataset."""
    options = choice.get("options", ())
    return chosen(choice | {"options": [o for o in options if not of_dataset(o)]})


def _place(index: Index | Anywhere | None, dataset: Any, root: Anywhere | None) -> Path:
    if isinstance(index, Index):
        return index.store.path
    if index is not None:
        return as_path(index, "an index")
    if not isinstance(dataset, (str, os.PathLike)):
        raise UsageError("say which index: this dataset has no place of its own")
    return default_index(os.fspath(dataset), None if root is None else Path(root))


def _device(index: Index | Anywhere | None, device: str | None) -> str:
    return device or (index.device if isinstance(index, Index) else "auto")


def check_names(index: Index | Anywhere | None, dataset: Any, names: Sequence[str]) -> None:
    """Raise UsageError for a name that ``evaluate`` takes for no pipeline, before any is measured."""
    for each in names:
        by_name(load_registry(), _place(index, dataset, None), each)


def _dataset(
    registry: Registry,
    dataset: Any,
    root: Anywhere | None,
    boxes: Anywhere | None,
    choice: Mapping[str, Any],
) -> Dataset:
    """A dataset, if need be by its name, with the "dataset.option=value" among the options."""
    if isinstance(dataset, Dataset):
        return dataset
    as_path(dataset, "a dataset")
    own = [o for o in choice.get("options", ()) if of_dataset(o)]
    place, csv = (None if path is None else Path(path) for path in (root, boxes))
    return load_dataset(registry, os.fspath(dataset), place, csv, own)


def saliency(
    weightings: Sequence[str],
    data: Anywhere,
    *,
    extractor: str | None = None,
    options: Sequence[str] = (),
    weights: Anywhere | None = None,
    split: str | None = None,
    held_out: int | None = None,
    limit: int | None = None,
    sigma: float | None = None,
    blur: float = 0.0,
    jitter: bool = True,
    max_pixels: int | None = None,
    device: str = "auto",
    progress: Quiet | None = None,
    chosen: Callable[[Sequence[str]], None] | None = None,
    watch: fixated.Watch | None = None,
) -> fixated.Report:
    """How well saliency maps agree with where people looked, in a folder with fixations.json, or SALICON's.

    ``chosen`` is told the names of the images that are scored, ``watch`` shown each; the rest is as
    `instsearch saliency --help` has it.
    """
    registry = load_registry()
    pipelines = weighting_pipelines(registry, weightings, extractor, options, weights)
    fixations = Fixations(Path(data), split, sigma, max_pixels or MOST_PIXELS)
    names = fixations.names if held_out is None else divided(fixations.names, held_out)[1]
    names = evenly(names, limit or len(names))
    if chosen is not None:
        chosen(names)
    assemblies = [Assembly(pipeline, registry, pick_device(device)) for pipeline in pipelines]
    parted = 1e-7 if jitter else 0.0
    report = fixated.measure(fixations, names, assemblies, progress or Quiet(), blur, parted, watch)
    report.data = os.fspath(data)
    report.protocol = {"split": split, "held_out": held_out, "limit": limit}
    report.protocol |= {"sigma": sigma, "blur": blur, "jitter": jitter}
    return report


def precision(
    weightings: Sequence[str],
    dataset: str | os.PathLike[str] | Dataset,
    index: Index | Anywhere | None = None,
    *,
    root: Anywhere | None = None,
    boxes: Anywhere | None = None,
    extractor: str | None = None,
    options: Sequence[str] = (),
    weights: Anywhere | None = None,
    limit: int | None = None,
    keep_features: bool = False,
    present_only: bool = False,
    device: str | None = None,
    progress: Quiet | None = None,
    chosen: Callable[[Sequence[str]], None] | None = None,
    watch: annotated.Watch | None = None,
) -> annotated.Report:
    """What share of each map's saliency lies inside a dataset's annotated boxes; the maps stay in its index."""
    registry = load_registry()
    rest = [option for option in options if not of_dataset(option)]
    pipelines = [
        replace(pipeline, keep_features=keep_features)
        for pipeline in weighting_pipelines(registry, weightings, extractor, rest, weights)
    ]
    of, place = _dataset(registry, dataset, root, boxes, {"options": options}), _place(index, dataset, root)

    def some(names: Sequence[str]) -> Sequence[str]:
        names = evenly(names, limit or len(names))
        if chosen is not None:
            chosen(names)
        return names

    with format_errors():
        report = annotated.measure(
            registry,
            of,
            place,
            pipelines,
            progress or Quiet(),
            _device(index, device),
            some,
            present_only,
            watch,
        )
    report.protocol = {"limit": limit, "present_only": present_only}
    return report


def reproduce(
    paper: str,
    *,
    tables: Sequence[str] = (),
    figures: Sequence[str] = (),
    values: Sequence[Value] | None = None,
    progress: Quiet | None = None,
    **wanted: Any,
) -> Iterator[dict[str, Any]]:
    """A paper's tables and figures measured again, one by one, as `instsearch reproduce --json` prints them.

    ``values`` are those of the option that the only figure sweeps; ``wanted`` the fields of ``reproduce.Wanted``.
    """
    registry, fields = load_registry(), Wanted.__dataclass_fields__
    for name in wanted:
        if name not in fields:
            raise UsageError(f"there is no option '{name}'.{nearest(name, fields)}")
    for name in {"root", "index_path", "weights"} & wanted.keys():
        wanted[name] = None if wanted[name] is None else as_path(wanted[name], f"{name} of a reproduction")
    selection = select(registry, paper, tables, figures, values)
    return Runs(registry, Wanted(**wanted), progress or Quiet()).all(selection, values is not None)


def pairs(
    index: Index,
    out: Anywhere | None = None,
    *,
    pipeline: str | None = None,
    images: int = 0,
    seed: int = 0,
    top: int = 20,
    min_inliers: int = 15,
    per_image: int | None = None,
    options: Sequence[str] = (),
) -> Mined:
    """Pairs of an index's images that show the same thing, found without labels; written to the CSV file ``out``."""
    check_open(index)
    miner = Miner.of(index, pipeline, options)
    mined = miner.mine(miner.sample(images, seed), top, min_inliers, index.progress, per_image)
    if out is not None:
        write_csv(as_path(out, "a file"), miner, mined)
    return mined


def weighting_pipelines(
    registry: Registry,
    weightings: Sequence[str],
    extractor: str | None,
    options: Sequence[str],
    weights: Anywhere | None,
) -> list[Pipeline]:
    """An extractor and one of the weightings each, with the options that are theirs, named after these."""
    found = []
    for name in dict.fromkeys(weightings):
        registry.get("weighting", name)
        own = of_weighting(options, name, weightings)
        selection = Choice(extractor=extractor, weights=weights, weighting=name, options=own)
        pipeline = choose(registry, None, selection, extract_only=True)
        found.append(replace(pipeline, name=name, encoder=None, detector=None, searcher=None, rerank=()))
    return found


def of_weighting(options: Sequence[str], name: str, weightings: Sequence[str]) -> list[str]:
    """Those of the extractor and of one of several weightings: "weighting.NAME.option=value" is of that one alone.

    Raises UsageError where it is not said which weighting is meant, and for other stages.
    """
    own = []
    for given in map(parse_assignment, options):
        if given.stage not in ("extractor", "weighting"):
            there = nearest(given.stage, ("extractor", "weighting"))
            raise UsageError(f"--set {given.key}: no stage '{given.stage}'.{there}")
        option = given.option_of_one
        if given.stage == "weighting" and given.name:
            if given.name not in weightings:
                raise UsageError(
                    f"--set {given.key}: no weighting '{given.name}'.{nearest(given.name, weightings)}"
                )
            if given.name != name:
                continue
            option = given.option
        elif given.stage == "weighting" and len(set(weightings)) > 1:
            raise UsageError(f"--set {given.key}: which one? Write weighting.NAME.{option}=value")
        own.append(f"{given.stage}.{option}={given.value}")
    return own


def evenly(names: Sequence[str], n: int) -> list[str]:
    """At most n of the names, evenly spread, in their order."""
    return [names[i * len(names) // n] for i in range(n)] if n < len(names) else list(names)
