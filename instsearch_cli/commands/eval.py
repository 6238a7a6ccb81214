"""`instsearch eval`: how good a pipeline is on a dataset."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.components import Dataset
    from instsearch_cli.evaluation import Evaluation
    from instsearch_cli.plugins import Registry
    from instsearch_formats import Index


@click.command("eval")
@click.option("--dataset", "name", required=True, help="A dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="Index to use (default: a cache)."
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
    """
    from dataclasses import replace

    from instsearch_cli import records
    from instsearch_cli.evaluation import evaluate
    from instsearch_cli.progress import make_progress
    from instsearch_cli.runner import Runner
    from instsearch_cli.search import Engine

    began = time.perf_counter()
    known = common.registry()
    progress = make_progress(options["quiet"])
    dataset = load_dataset(known, name, root, options["boxes"])
    index_path = index_path or default_index(name, root)
    with common.writing(index_path, create=True) as index:
        last = records.last(index)
        pipeline = common.choose_pipeline(known, last.pipeline if last else None, options, rerank)
        if options["keep_features"] is not None:
            pipeline = replace(pipeline, keep_features=options["keep_features"])
        assembly = common.assemble(pipeline, known, options["device"])
        rows = take_dataset(index, dataset, options["strict"], progress)
        common.check_space(index, assembly, pipeline.keep_features, progress)
        Runner(index, assembly, progress, options["strict"]).index_all()
        records.record(index, assembly)
    indexed = time.perf_counter() - began
    alive = index.images.alive()
    rows = {image: row for image, row in rows.items() if alive[row]}
    import numpy as np

    engine = Engine(index, assembly, within=np.fromiter(rows.values(), np.int64, len(rows)))
    evaluation = evaluate(engine, dataset, rows, progress)
    evaluation.timing["indexing"] = indexed
    if options["as_json"]:
        report = {
            "dataset": dataset.name,
            "config": pipeline.plain(),
            "metrics": evaluation.metrics,
            "queries": evaluation.queries,
            "timing": evaluation.timing,
            "images": {"dataset": len(dataset.images()), "indexed": len(rows)},
            "protocol": dataset.protocol,
        }
        click.echo(json.dumps(report))
    else:
        _print(evaluation, dataset, pipeline.name, len(rows), index_path, options["each"])


def load_dataset(known: Registry, name: str, root: Path | None, boxes: Path | None) -> Dataset:
    """A dataset by name, or the one that a manifest describes."""
    from instsearch_cli.options import make_config

    values: dict[str, Any] = {}
    if name.endswith(".json"):
        values, name = {"manifest": name}, "manifest"
    if boxes is not None:
        values["boxes"] = str(boxes)
    cls = known.get("dataset", name).load()
    dataset: Dataset = cls(make_config(cls, values, "dataset"), root)
    return dataset


def default_index(name: str, root: Path | None) -> Path:
    """Where `eval` keeps its index if not told: the user's cache, one folder a dataset."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instsearch"
    where = str(common.absolute(Path(name))) + "\0" + str(root or "")
    return cache / f"{Path(name).stem}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def take_dataset(index: Index, dataset: Dataset, strict: bool, progress: Any) -> dict[str, int]:
    """Give the dataset's images rows; returns name -> row of those that can be read."""
    from instsearch_cli.errors import InstsearchError
    from instsearch_cli.images import Discovery, Found
    from instsearch_cli.intake import take_in

    refs = dataset.images()
    if not refs:
        raise InstsearchError(f"dataset '{dataset.name}' has no images")
    missing = [ref for ref in refs if not ref.path.exists()]
    if missing:
        raise InstsearchError(
            f"{len(missing):,} of the {len(refs):,} images of '{dataset.name}' are not there, the first is "
            f"{missing[0].path}; say where they are with --root"
        )
    root = common.absolute(Path(os.path.commonpath([ref.path.parent for ref in refs])))
    found = [
        Found(root, os.fsencode(os.path.relpath(common.absolute(ref.path), root)), ref.path) for ref in refs
    ]
    found.sort(key=lambda f: f.name)
    intake = take_in(index, Discovery(found, []), progress, strict)
    for name, reason in intake.skipped[:10]:
        click.echo(f"warning: skipped {name}: {reason}", err=True)
    table = index.images
    number = table.roots.index(str(root))
    removed = table.removed()
    by_name = {r.name: row for row, r in table.records() if r.root == number and row not in removed}
    rows = {}
    for ref in refs:
        row = by_name.get(os.fsencode(os.path.relpath(common.absolute(ref.path), root)))
        if row is not None:
            rows[ref.name] = row
    return rows


def _print(
    evaluation: Evaluation, dataset: Dataset, pipeline: str, n: int, index_path: Path, each: bool
) -> None:
    if each:
        for query in evaluation.queries:
            click.echo(f"{query['id']:<24} AP {query['ap']:.3f}")
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
