"""What several verbs share: their options, opening an index, choosing a pipeline."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.engine.intake import Intake
    from instsearch_cli.engine.pipeline import Pipeline
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.runner import Made
    from instsearch_cli.images import Discovery
    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index

Command = TypeVar("Command", bound="Callable[..., Any]")

DEFAULT_PRESET = "sift"


def _stack(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


index_option = click.option(
    "--index", "index_path", required=True, type=click.Path(path_type=Path), help="Folder of the index."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
device_option = click.option("--device", default="auto", help="auto, cpu or cuda[:n].", show_default=True)
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="File of network weights (else INSTSEARCH_WEIGHTS)."
)
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="STAGE.OPTION=VALUE", help="Any option of any component."
)
weigh_query_option = click.option(
    "--weigh-query/--no-weigh-query", default=None, help="Weight queries as the collection is (default: no)."
)
crop_query_option = click.option(
    "--crop-query/--no-crop-query",
    default=None,
    help="Describe what is in the box as a picture by itself (default: no).",
)
pipeline_options = _stack(
    click.option("--preset", help="Start from a named pipeline or a TOML file (see `instsearch presets`)."),
    click.option("--extractor", help="Network or keypoint detector."),
    click.option("--encoder", help="How local features become codes."),
    click.option("--weighting", help="Saliency or other weights of the local features."),
    click.option("--detector", help="Region detector; none for no regions."),
    click.option("--searcher", help="How codes are searched."),
    click.option(
        "--fit-on",
        metavar="INDEX",
        help="Fit whitening and vocabulary on another index's images; none: on these.",
    ),
    weigh_query_option,
    crop_query_option,
    set_option,
    weights_option,
    device_option,
)
rerank_option = click.option(
    "--rerank",
    multiple=True,
    help="Reranker, in order; repeatable; 'none' for none. Default: the pipeline's.",
)
refine_option = click.option(
    "--refine",
    is_flag=True,
    help="Instead of its rerankers take the pipeline's slower and surer ones, which read images again.",
)
intake_options = _stack(
    click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read."),
    click.option("--max-pixels", type=click.IntRange(min=1), default=None, help="Larger images are skipped."),
    click.option("-j", "--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    quiet_option,
)


def registry() -> Registry:
    """Every plugin; what is wrong with one is a line on stderr."""
    from instsearch_cli.engine.registry import PluginWarning, load_registry

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        loaded = load_registry()
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return loaded


def open_index(path: Path) -> Index:
    """Open an index to read it."""
    from instsearch_formats import Index

    return Index.open(path)


@contextlib.contextmanager
def writing(path: Path, create: bool = False) -> Iterator[Index]:
    """Open an index, or create it, and hold its lock."""
    from instsearch_formats import Index
    from instsearch_formats.files import vacant

    index = Index.create(path) if create and vacant(path) else Index.open(path)
    with index.lock():
        yield index


def choose_pipeline(
    known: Registry, base: Pipeline | None, options: dict[str, Any], rerank: Sequence[str] = ()
) -> Pipeline:
    """The pipeline that the flags ask for.

    It starts from --preset, else from the index's last pipeline, else from the preset named like the
    extractor, else from the sift preset; then come --extractor and the others, then --set, then --weights. Another
    encoder goes without the searcher and the rerankers that were chosen for the one before.
    """
    from instsearch_cli.engine.pipeline import Pipeline, Stage, load_preset, presets

    extractor = options.get("extractor")
    if options.get("preset"):
        pipeline = load_preset(options["preset"], known)
    elif base is not None and extractor in (None, base.extractor.name):
        pipeline = base
    else:
        wanted = extractor or DEFAULT_PRESET
        known.get("extractor", wanted)
        if wanted in presets(known):
            pipeline = load_preset(wanted, known)
        else:
            pipeline = Pipeline("", Stage(wanted), weighting=Stage("none"), encoder=Stage("blcf"))
    if pipeline.encoder is None and not options.get("extract_only"):
        start = load_preset(DEFAULT_PRESET, known) if pipeline.extractor.name == DEFAULT_PRESET else None
        default = start or Pipeline("", pipeline.extractor, weighting=Stage("none"), encoder=Stage("blcf"))
        pipeline = replace(default, extractor=pipeline.extractor, keep_features=pipeline.keep_features)
    before = pipeline
    for stage in ("extractor", "encoder", "weighting", "searcher"):
        pipeline = pipeline.with_stage(stage, options.get(stage))
    if pipeline.encoder != before.encoder:
        pipeline = replace(pipeline, rerank=(), refine=())
        if not options.get("searcher"):
            pipeline = replace(pipeline, searcher=None)
    if options.get("detector"):
        none = options["detector"] == "none"
        pipeline = (
            replace(pipeline, detector=None) if none else pipeline.with_stage("detector", options["detector"])
        )
    pipeline = reranked(pipeline, rerank, options).with_options(options.get("assignments") or ())
    if options.get("weights") is not None:
        pipeline = pipeline.with_options([f"extractor.weights={options['weights'].resolve()}"])
    pipeline = _fit_on(with_query_as_asked(pipeline, options), options.get("fit_on"))
    changed = replace(pipeline, rerank=before.rerank) != before
    if not pipeline.name or changed:
        pipeline = replace(pipeline, name=_name(pipeline))
    return pipeline


def reranked(pipeline: Pipeline, rerank: Sequence[str], options: dict[str, Any]) -> Pipeline:
    """The pipeline with the rerankers of --rerank, or of --refine."""
    usage(not (rerank and options.get("refine")), "--rerank and --refine exclude each other")
    return pipeline.refined() if options.get("refine") else pipeline.with_rerank(rerank or None)


def with_query_as_asked(pipeline: Pipeline, options: dict[str, Any]) -> Pipeline:
    """The pipeline with --weigh-query and --crop-query as given."""
    given = {name: options.get(name) for name in ("weigh_query", "crop_query")}
    return replace(pipeline, **{name: value for name, value in given.items() if value is not None})


def _fit_on(pipeline: Pipeline, path: str | None) -> Pipeline:
    from instsearch_cli.engine.records import contents

    if path is None:
        return pipeline
    if path == "none":
        return replace(pipeline, fit_on="", fit_on_digest="")
    return replace(pipeline, fit_on=str(absolute(Path(path))), fit_on_digest=contents(open_index(Path(path))))


def _name(pipeline: Pipeline) -> str:
    stages = (pipeline.extractor, pipeline.encoder, pipeline.weighting, pipeline.detector)
    return "-".join(stage.name for stage in stages if stage is not None and stage.name != "none")


def assemble(pipeline: Pipeline, known: Registry, device: str) -> Assembly:
    """Build the pipeline's components."""
    from instsearch_cli.engine.assembly import Assembly, pick_device

    return Assembly(pipeline, known, pick_device(device))


def recorded_pipeline(index: Index, name: str | None) -> Pipeline:
    """The pipeline to query with. Raises InstsearchError if the index was never indexed."""
    from instsearch_cli.engine import records

    record = records.last(index, name)
    if record is None or not record.searchable:
        searchable = [r.pipeline.name for r in records.recorded(index) if r.searchable]
        if name is None and searchable:
            return recorded_pipeline(index, searchable[-1])
        raise InstsearchError(
            f"{index.path} has no searchable pipeline yet.\nRun `instsearch index --index {index.path}`."
        )
    return record.pipeline


def take(index: Index, discovery: Discovery, options: dict[str, Any], progress: Quiet) -> Intake:
    """Give new pictures a row."""
    from instsearch_cli.engine.intake import take_in
    from instsearch_cli.images import MAX_PIXELS

    limit = options.get("max_pixels") or MAX_PIXELS
    return take_in(index, discovery, progress, options.get("strict", False), limit)


def check_space(index: Index, assembly: Assembly, keep_features: bool, progress: Quiet) -> None:
    """Say what a run will write; raise InstsearchError if the disk has not got it."""
    import shutil

    from instsearch_cli.engine.estimate import estimate
    from instsearch_cli.progress import size

    need, parts = estimate(index, assembly, keep_features)
    if not need:
        return
    free = shutil.disk_usage(index.path).free
    progress.say(f"to write: about {size(need)} ({parts}); {size(free)} free")
    if need > free:
        raise InstsearchError(
            f"about {size(need)} are needed in {index.path} and {size(free)} are free.\n"
            "Free some, put the index on another disk, or index without --keep-features."
        )


def summary(index: Index, intake: Intake | None, made: Made, seconds: float, as_json: bool) -> None:
    """Say what was found, done and skipped; the totals add up."""
    import json

    from instsearch_cli.progress import duration

    if intake is not None:
        intake.skip_later(made.skipped)
        lines = [f"{name}\t{reason}\n" for name, reason in intake.skipped]
        if lines or (index.path / "skipped.txt").exists():
            index.write_text("skipped.txt", "".join(lines))
    if as_json:
        report: dict[str, Any] = {
            "written": made.written,
            "fitted": made.fitted,
            "blank": made.blank,
            "seconds": round(seconds, 3),
        }
        if intake is not None:
            report |= {
                "found": intake.found,
                "indexed": intake.new,
                "there": intake.there,
                "skipped": [{"image": n, "reason": r} for n, r in intake.skipped],
            }
        click.echo(json.dumps(report))
        return
    if intake is not None:
        click.echo(
            f"found {intake.found:,} = indexed {intake.new:,} + already there {intake.there:,} "
            f"+ skipped {len(intake.skipped):,}" + (f" ({intake.changed} changed)" if intake.changed else "")
        )
        for name, reason in intake.skipped[:10]:
            click.echo(f"  skipped {name}: {reason}")
        if len(intake.skipped) > 10:
            click.echo(f"  … all {len(intake.skipped):,} with their reasons in {index.path / 'skipped.txt'}")
    if made.blank:
        some = ", ".join(made.blank[:3]) + (", …" if len(made.blank) > 3 else "")
        click.echo(f"{len(made.blank):,} without a local feature, which no query finds: {some}")
    for fitted in made.fitted:
        click.echo(f"fitted {fitted}")
    what = ", ".join(f"{kind} {n:,}" for kind, n in made.written.items()) or "nothing: all there"
    click.echo(f"wrote {what} in {duration(seconds)}")


def absolute(path: Path) -> Path:
    """An absolute path, symbolic links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def usage(condition: bool, message: str) -> None:
    """Raise UsageError unless the condition holds."""
    if not condition:
        raise UsageError(message)
