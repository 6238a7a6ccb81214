"""`instsearch eval`: how good a pipeline is on a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.components import Dataset
    from instsearch_cli.evaluation import Evaluation
    from instsearch_cli.pipeline import Pipeline


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
@click.option("--keep-features/--no-keep-features", default=None, help="Keep raw features on disk (large).")
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--queries", "each", is_flag=True, help="Print every query's average precision.")
@common.quiet_option
def command(
    name: str, root: Path | None, index_path: Path | None, rerank: tuple[str, ...], **options: Any
) -> None:
    """Index a dataset's images as far as they are not, run its queries, and print mAP and the rest.

    Retrieval: mAP, precision and recall at k. Localisation, where a method gives boxes and the dataset has
    annotated ones: the share of true hits among the first ten with IoU over 0.5, and their mean IoU.

    A dataset's own options are set like those of a stage: --set dataset.ground_truth=FILE.
    """
    from dataclasses import replace

    from instsearch_cli.measuring import default_index, load_dataset, measure, size
    from instsearch_cli.progress import make_progress

    known = common.registry()
    own = [a for a in options["assignments"] if a.strip().startswith("dataset.")]
    options["assignments"] = tuple(a for a in options["assignments"] if a not in own)
    dataset = load_dataset(known, name, root, options["boxes"], own)
    index_path = index_path or default_index(name, root)

    def choose(last: Pipeline | None) -> Pipeline:
        pipeline = common.choose_pipeline(known, last, options, rerank)
        keep = options["keep_features"]
        return pipeline if keep is None else replace(pipeline, keep_features=keep)

    present_only = options["present_only"]
    measured = measure(
        known,
        dataset,
        index_path,
        choose,
        make_progress(options["quiet"]),
        device=options["device"],
        strict=options["strict"],
        present_only=present_only,
    )
    evaluation, total = measured.evaluation, size(dataset)
    if options["as_json"]:
        report = {
            "dataset": dataset.name,
            "config": measured.pipeline.plain(),
            "metrics": evaluation.metrics,
            "queries": evaluation.queries,
            "timing": evaluation.timing,
            "images": {"dataset": total, "indexed": measured.indexed},
            "protocol": dataset.protocol,
        }
        if present_only:
            report["present_only"] = {
                "missing_images": total - measured.present,
                "missing_positives": evaluation.lost,
                "dropped_queries": evaluation.dropped,
            }
        click.echo(json.dumps(report))
    else:
        if present_only:
            click.echo(
                f"present only: {measured.indexed:,} of {total:,} images; queries dropped: "
                f"{len(evaluation.dropped):,} of {len(dataset.queries()):,}; positives missing: {evaluation.lost:,}"
            )
        _print(evaluation, dataset, measured.pipeline.name, measured.indexed, index_path, options["each"])


def _print(
    evaluation: Evaluation, dataset: Dataset, pipeline: str, n: int, index_path: Path, each: bool
) -> None:
    if each:
        for query in evaluation.queries:
            ap = "none" if query["ap"] is None else f"{query['ap']:.3f}"
            click.echo(f"{query['id']:<24} AP {ap}")
    click.echo(f"{dataset.name}: {len(evaluation.queries)} queries over {n:,} images, pipeline {pipeline}")
    click.echo(f"protocol: {dataset.protocol}")
    for name, value in evaluation.metrics.items():
        shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
        click.echo(f"  {name:<24} {shown}")
    timing = evaluation.timing
    click.echo(
        f"  median {1000 * timing['median seconds']:.0f} ms a query (mean: encoding {1000 * timing['encode']:.0f}, "
        f"search {1000 * timing['search']:.1f}, reranking {1000 * timing['rerank']:.0f})"
    )
    click.echo(f"index: {index_path}")
