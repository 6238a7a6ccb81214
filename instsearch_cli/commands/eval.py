"""`instsearch eval`: how good a pipeline is on a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.measure.datasets import Covered, Measured


@click.command("eval")
@click.option("--dataset", "name", required=True, help="A dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="Index to use (default: a cache)."
)
@click.option(
    "--present-only", is_flag=True, help="Evaluate on the images that are there, if some are missing."
)
@click.option("--boxes", type=click.Path(path_type=Path), help="CSV of annotated boxes: image,x,y,w,h.")
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
    type=float,
    metavar="P",
    help="With --absent: what is found, rightly and wrongly, at this score (default: the pipeline's).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--queries", "each", is_flag=True, help="Print every query's average precision.")
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

    A dataset's own options are set like those of a stage: --set dataset.ground_truth=FILE.
    """
    from instsearch_cli.measure.datasets import default_index
    from instsearch_cli.measure.verbs import coverage, evaluate
    from instsearch_cli.progress import make_progress

    _check(options)
    common.registry()
    index_path = index_path or default_index(name, root)
    same = ("boxes", "present_only", "strict", "keep_features", "device")
    arguments = {option: options[option] for option in same} | common.choice(options)
    progress = make_progress(options["quiet"])
    if options["regions"]:
        covered = coverage(index_path, name, root=root, progress=progress, **arguments)
        _say_regions(covered, options["plot"], options["as_json"])
        return
    arguments |= {option: options[option] for option in ("tops", "top_of", "absent", "min_score")}
    measured = evaluate(index_path, name, root=root, progress=progress, **arguments)
    if options["as_json"]:
        click.echo(json.dumps(measured.plain(options["present_only"])))
    else:
        say(measured, index_path, options["each"], options["present_only"])


def say(measured: Measured, index_path: Path, each: bool = False, present_only: bool = False) -> None:
    """Print what was measured; ``each``: every query's average precision, too."""
    evaluation, dataset, n = measured.evaluation, measured.dataset, measured.indexed
    if present_only:
        click.echo(
            f"present only: {n:,} of {measured.total:,} images; queries dropped: {len(evaluation.dropped):,} of "
            f"{len(dataset.queries()):,}; positives missing: {evaluation.lost:,}"
        )
    if each:
        for query in evaluation.queries:
            ap = "none" if query["ap"] is None else f"{query['ap']:.3f}"
            click.echo(f"{query['id']:<24} AP {ap}")
    click.echo(
        f"{dataset.name}: {len(evaluation.queries)} queries over {n:,} images, pipeline {measured.pipeline.name}"
    )
    click.echo(f"protocol: {dataset.protocol}")
    for name, value in evaluation.metrics.items():
        shown = "n/a" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
        click.echo(f"  {name:<24} {shown}")
    timing = evaluation.timing
    click.echo(
        f"  median {1000 * timing['median seconds']:.0f} ms a query (mean: encoding {1000 * timing['encode']:.0f}, "
        f"search {1000 * timing['search']:.1f}, reranking {1000 * timing['rerank']:.0f})"
    )
    click.echo(f"index: {index_path}")


def _check(options: dict[str, Any]) -> None:
    """Raises UsageError for options that contradict each other, and a plot that could not be written."""
    plot: Path | None = options["plot"]
    if options["regions"]:
        common.usage(
            not (options["tops"] or options["each"] or options["absent"]),
            "--regions runs no queries: no --top, no --queries, no --absent",
        )
    common.usage(
        options["absent"] or options["min_score"] is None,
        "--min-score is for what --absent counts: give both",
    )
    if plot is not None:
        common.usage(options["regions"], "--plot draws what --regions measures: give both")
        common.usage(plot.suffix.lower() in (".png", ".svg"), f"--plot {plot}: name a .png or .svg file")
        common.usage(plot.parent.is_dir(), f"--plot: there is no folder {plot.parent}")


def _say_regions(covered: Covered, plot: Path | None, as_json: bool) -> None:
    """Print how well each pipeline's regions cover the dataset's annotated boxes."""
    from instsearch_cli.measure.datasets import size
    from instsearch_cli.report.coverage import lines, plain, plot_recall

    name, by_pipeline = covered.dataset.name, covered.by_pipeline
    if plot is not None:
        plot_recall(plot, name, by_pipeline)
    if as_json:
        images = {"dataset": size(covered.dataset), "indexed": covered.indexed}
        click.echo(json.dumps({"dataset": name, "images": images, **plain(by_pipeline, covered.configs)}))
        return
    for line in lines(name, by_pipeline):
        click.echo(line)
    if plot is not None:
        click.echo(f"wrote {plot}")
