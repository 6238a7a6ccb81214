"""`instsearch eval`: how good a pipeline is on a dataset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import Outputs, check_outside, check_unindexed
from instsearch_cli.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.measure.datasets import Covered, Measured
    from instsearch_cli.measure.runs import ScoredRun

STREAM = Path("-")


@common.command("eval", long=True)
@click.option("--dataset", "name", required=True, help="A dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="Index to use (default: a cache)."
)
@click.option(
    "--present-only", is_flag=True, help="Evaluate on the images that are there, if some are missing."
)
@click.option("--boxes", type=click.Path(path_type=Path), help="CSV of annotated boxes: image,x,y,w,h.")
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    metavar="NAME",
    help="One that the index knows, or a preset; repeatable: compared with the first.",
)
@click.option(
    "--from-run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Score the ranked lists of another program, a TREC run file; repeatable; alone it needs no index.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="Write the first 1,000 hits of each query as a TREC run file; of several pipelines one each: FILE-NAME.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    help="Write a page of the queries that differ most, with the first hits; - for standard output.",
)
@common.pipeline_options
@common.rerank_option
@common.refine_option
@click.option("--keep-features/--no-keep-features", default=None, help="Keep raw features on disk (large).")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read.")
@click.option(
    "--top",
    "tops",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="K",
    help="Report mAP@K, of the first K hits, too; repeatable (default: those of the dataset).",
)
@click.option(
    "--top-of",
    type=click.Choice(["positives", "reachable"]),
    default="positives",
    show_default=True,
    help="What AP@K is divided by: all P positives, or the min(K, P) that K hits can reach.",
)
@click.option(
    "--regions",
    is_flag=True,
    help="Run no queries: how well the detector's regions cover the annotated boxes.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="PNG or SVG to write, with --regions: recall against IoU."
)
@click.option(
    "--absent",
    is_flag=True,
    help="Ask each query again without its positives: how well scores tell that the object is not there.",
)
@click.option(
    "--min-score",
    type=common.Number(),
    metavar="P",
    help="With --absent: what is found, rightly and wrongly, at this score (default: the pipeline's).",
)
@common.engine_options
@common.json_option
@click.option("--queries", "each", is_flag=True, help="Print every query's average precision.")
@common.wait_option
@common.quiet_option
def command(name: str, root: Path | None, index_path: Path | None, **options: Any) -> None:
    """Index a dataset's images as far as they are not, run its queries, and print mAP and the rest.

    Retrieval: mAP, precision and recall at k. Localisation, where a method gives boxes and the dataset has
    annotated ones: the share of true hits among the first ten with IoU over 0.5, and their mean IoU.

    With --regions, of every pipeline of the index that has a detector, or of the one that the flags choose:
    the share of annotated boxes that a region covers with IoU of at least 0.05, 0.10, ... 0.95 (recall), and
    the share of regions that cover an annotated box.

    With --absent: the share of queries whose object is found at the score at which 1, 5 and 10 % of the queries
    whose object was taken out of the collection find something, too; with --min-score the shares at that score;
    and where scores are probabilities, the expected calibration error of first hits.

    Several pipelines, or runs of other programs, are compared with the first: the difference of mAP, its p-value by a
    paired randomisation test, and the queries that differ most.

    A dataset's own options are set like those of a stage: --set dataset.ground_truth=FILE. What is measured is recorded
    in the index under a name of its own; what `query` answers stays as it was.
    """
    from instsearch_cli.measure.datasets import default_index
    from instsearch_cli.measure.verbs import coverage
    from instsearch_cli.progress import make_progress
    from instsearch_formats.files import vacant

    _check(options, name, index_path)
    common.registry()
    index_path = index_path or default_index(name, root)
    check_outside(_outputs(options), index_path)
    if not vacant(index_path) and (_measures(options) or options["regions"]):
        check_unindexed(_outputs(options), [common.open_index(index_path)])
    same = ("boxes", "present_only", "strict", "keep_features", "device", *common.WORKING)
    arguments = {option: options[option] for option in same} | common.choice(options)
    progress = make_progress(options["quiet"])
    if options["regions"]:
        covered = coverage(index_path, name, root=root, progress=progress, **arguments)
        _say_regions(covered, options["plot"], options["as_json"])
        return
    arguments |= {option: options[option] for option in ("tops", "top_of", "absent", "min_score")}
    arguments |= {"root": root, "progress": progress}
    scored = _scored_runs(name, arguments, options)
    pipelines, files = _measured(index_path, name, arguments, options)
    taken = [one.name for one in pipelines]
    for path, one in scored.items():
        pipelines.append(replace(one, name=str(path)) if one.name in taken else one)
        taken.append(one.name)
    page = _write_page(pipelines, options["html"])
    if options["html"] == STREAM:
        return
    _print(pipelines, index_path, options)
    for path in [*files, *page] if not options["as_json"] else ():
        common.echo(f"wrote {path}")


def _scored_runs(name: str, arguments: dict[str, Any], options: dict[str, Any]) -> dict[Path, ScoredRun]:
    """The runs of other programs by their files, which are read before anything is measured."""
    from instsearch_cli.measure.verbs import evaluate_run
    from instsearch_cli.report.differences import HITS

    dataset = {key: arguments[key] for key in ("root", "boxes", "options", "present_only", "tops", "top_of")}
    runs = {}
    for path in options["runs"]:
        runs[path] = scored = evaluate_run(path, name, keep=HITS if options["html"] else 0, **dataset)
        if scored.strangers or scored.silent:
            common.echo(
                f"warning: {path}: {scored.strangers:,} lines of queries or images that the dataset has not; "
                f"{scored.silent:,} queries without a line",
                err=True,
            )
    return runs


def _measured(
    index_path: Path, name: str, arguments: dict[str, Any], options: dict[str, Any]
) -> tuple[list[Measured | ScoredRun], list[Path]]:
    """The pipelines that are named, else the one that the flags choose; and the run files that are written of them.

    Each one's file is written when it is measured, so that of long rankings only one pipeline's are in memory.
    """
    from instsearch_cli.measure.runs import DEPTH, write_run
    from instsearch_cli.measure.verbs import check_names, evaluate
    from instsearch_cli.report.differences import HITS

    names: tuple[str, ...] = options["pipelines"]
    check_names(index_path, name, names)
    files = _run_files(options)
    for file in files:
        common.writable("--run", file)
    keep = DEPTH if options["run"] else HITS if options["html"] else 0
    measured: list[Measured | ScoredRun] = []
    written: list[Path] = []
    for pipeline, file in zip(names or (None,), files, strict=True) if _measures(options) else ():
        one = evaluate(index_path, name, pipeline=pipeline, keep=keep, **arguments)
        if file is not None:
            write_run(file, one.evaluation.rankings, one.name)
            written.append(file)
            for hits in one.evaluation.rankings.values():
                del hits[HITS:]
        measured.append(one)
    return measured, written


def _run_files(options: dict[str, Any]) -> list[Path | None]:
    """The run file of each pipeline; None of each where none is asked for."""
    run: Path | None = options["run"]
    names: tuple[str, ...] = options["pipelines"]
    if run is None or len(names) < 2:
        return [run] * max(1, len(names))
    return [run.with_name(f"{run.stem}-{each}{run.suffix}") for each in names]


def _measures(options: dict[str, Any]) -> bool:
    """Whether a pipeline is measured: one that is named or that flags choose; without runs the last one."""
    choice = common.choice(options) | {"refine": options["refine"] or None}
    own = [given for given in options["assignments"] if not given.startswith("dataset.")]
    chosen = any(value is not None for name, value in choice.items() if name != "options")
    return bool(options["pipelines"] or own or chosen or not options["runs"])


def _write_page(measured: Sequence[Measured | ScoredRun], page: Path | None) -> list[Path]:
    """Write the page of what differs, if one is asked for, and say where it is."""
    from instsearch_cli.measure.comparison import compare
    from instsearch_cli.report.differences import differences_page, write_differences

    if page is None or page == STREAM:
        if page == STREAM:
            common.emit(differences_page(measured, compare(measured)))
        return []
    write_differences(measured, compare(measured), page)
    return [page]


def _print(measured: Sequence[Measured | ScoredRun], index_path: Path, options: dict[str, Any]) -> None:
    """One pipeline by itself; several, and runs, side by side."""
    from instsearch_cli.measure.comparison import compare
    from instsearch_cli.measure.datasets import Measured
    from instsearch_cli.report.comparison import comparison_json, comparison_lines

    first, present_only = measured[0], options["present_only"]
    if len(measured) == 1 and isinstance(first, Measured):
        if options["as_json"]:
            common.echo(json.dumps(first.plain(present_only)))
        else:
            say(first, index_path, options["each"], present_only)
        return
    comparisons = compare(measured)
    if options["as_json"]:
        common.echo(json.dumps(comparison_json(measured, comparisons, present_only)))
    else:
        common.echo("\n".join(comparison_lines(measured, comparisons, options["each"])))


def say(measured: Measured, index_path: Path, each: bool = False, present_only: bool = False) -> None:
    """Print what was measured; ``each``: every query's average precision, too."""

    from instsearch_cli.progress import units

    evaluation, dataset, n = measured.evaluation, measured.dataset, measured.indexed
    queries = f"{len(evaluation.queries)} {units(len(evaluation.queries), 'queries')}"
    if present_only:
        common.echo(
            f"present only: {n:,} of {measured.total:,} images; queries dropped: {len(evaluation.dropped):,} of "
            f"{len(dataset.queries()):,}; positives missing: {evaluation.lost:,}"
        )
    if each:
        for query in evaluation.queries:
            ap = "none" if query["ap"] is None else f"{query['ap']:.3f}"
            common.echo(f"{printable(str(query['id'])):<24} AP {ap}")
    common.echo(f"{dataset.name}: {queries} over {n:,} {units(n, 'images')}, pipeline {measured.name}")
    common.echo(f"protocol: {dataset.protocol}")
    for name, value in evaluation.metrics.items():
        shown = "n/a" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
        common.echo(f"  {name:<24} {shown}")
    timing = evaluation.timing
    common.echo(
        f"  median {1000 * timing['median seconds']:.0f} ms a query (mean: encoding {1000 * timing['encode']:.0f}, "
        f"search {1000 * timing['search']:.1f}, reranking {1000 * timing['rerank']:.0f})"
    )
    common.echo(f"index: {index_path}")


def _check(options: dict[str, Any], name: str, index_path: Path | None) -> None:
    """Raises UsageError for options that contradict each other, and files that could not be written."""
    plot: Path | None = options["plot"]
    if options["regions"]:
        flags = {"tops": "--top", "each": "--queries", "absent": "--absent", "pipelines": "--pipeline"}
        flags |= {"runs": "--from-run", "run": "--run", "html": "--html"}
        stray = [flag for name, flag in flags.items() if options[name]]
        common.usage(not stray, f"--regions runs no queries: no {', no '.join(stray)}")
    common.usage(
        not (options["as_json"] and options["html"] == STREAM),
        "--json and --html - exclude each other: both go to standard output",
    )
    for flag, given in (("--pipeline", options["pipelines"]), ("--from-run", options["runs"])):
        twice = [one for one in given if given.count(one) > 1]
        common.usage(not twice, f"{flag} {twice[0] if twice else ''} is there twice: once is all it takes")
    given_flags: dict[str, Any] = {
        "--index": index_path,
        "--run": options["run"],
        "--absent": options["absent"],
    }
    stray = [flag for flag, value in given_flags.items() if value]
    common.usage(
        _measures(options) or not stray,
        f"{' and '.join(stray)}: for pipelines, and only runs are scored; name some with --pipeline, or leave it out",
    )
    common.usage(options["run"] != STREAM, "--run writes a file: name one")
    common.writable("--html", options["html"])
    common.writable("--run", options["run"])
    common.usage(
        options["absent"] or options["min_score"] is None,
        "--min-score is for what --absent counts: give both",
    )
    common.usage(plot is None or options["regions"], "--plot draws what --regions measures: give both")
    common.writable("--plot", plot, ".png", ".svg")
    read = [("--dataset", Path(name)), *(("--from-run", path) for path in options["runs"])]
    read += [(f"--{key}", options[key] and Path(options[key])) for key in ("boxes", "preset", "weights")]
    common.disjoint(read, _outputs(options))


def _outputs(options: dict[str, Any]) -> Outputs:
    """What is written, with the flag that names it."""
    runs = [("--run", path) for path in _run_files(options)]
    return [*runs, ("--html", options["html"]), ("--plot", options["plot"])]


def _say_regions(covered: Covered, plot: Path | None, as_json: bool) -> None:
    """Print how well each pipeline's regions cover the dataset's annotated boxes."""
    from instsearch_cli.measure.datasets import size
    from instsearch_cli.report.coverage import lines, plain, plot_recall

    name, by_pipeline = covered.dataset.name, covered.by_pipeline
    if plot is not None:
        plot_recall(plot, name, by_pipeline)
    if as_json:
        images = {"dataset": size(covered.dataset), "indexed": covered.indexed}
        common.echo(json.dumps({"dataset": name, "images": images, **plain(by_pipeline, covered.configs)}))
        return
    for line in lines(name, by_pipeline):
        common.echo(line)
    if plot is not None:
        common.echo(f"wrote {plot}")
