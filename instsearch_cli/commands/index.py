"""`instsearch index`: from a folder of photographs to something that can be searched."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@click.command("index")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@common.pipeline_options
@common.rerank_option
@click.option("--name", help="Name the pipeline in the index; `query --pipeline NAME` picks it.")
@click.option("--keep-features/--no-keep-features", default=None, help="Keep raw features on disk (large).")
@click.option("--refit", is_flag=True, help="Fit vocabulary and whitening anew on all images.")
@common.intake_options
def command(images: tuple[Path, ...], index_path: Path, rerank: tuple[str, ...], **options: Any) -> None:
    """Index IMAGES (files or folders), or index anew what the index already holds.

    Only what is missing is computed: new images, or the stages that the options change. A killed run goes
    on where it was. Without a choice of extractor, encoder and so on the index's last pipeline is used, or
    the preset sift, which needs no network weights.
    """
    from instsearch_cli.engine import records

    run(images, index_path, rerank, options, create=bool(images), base=lambda index: records.last(index))


def run(
    images: tuple[Path, ...],
    index_path: Path,
    rerank: tuple[str, ...],
    options: dict[str, Any],
    create: bool,
    base: Any,
) -> None:
    """What `index` and `add` both do."""
    from instsearch_cli.engine import records
    from instsearch_cli.engine.runner import Runner
    from instsearch_cli.errors import InstsearchError
    from instsearch_cli.images import discover
    from instsearch_cli.progress import make_progress

    began = time.perf_counter()
    known = common.registry()
    discovery = discover(list(images)) if images else None
    progress = make_progress(options["quiet"])
    with common.writing(index_path, create=create) as index:
        last = base(index)
        pipeline = common.choose_pipeline(known, last.pipeline if last else None, options, rerank)
        if options.get("name"):
            pipeline = replace(pipeline, name=_valid_name(options["name"]))
        if options.get("keep_features") is not None:
            pipeline = replace(pipeline, keep_features=options["keep_features"])
        if options.get("refit"):
            pipeline = replace(pipeline, generation=pipeline.generation + 1)
        assembly = common.assemble(pipeline, known, options["device"])
        before = len(index.images)
        intake = common.take(index, discovery, options, progress) if discovery else None
        if not index.images.alive().any():
            raise InstsearchError(
                f"{index_path} holds no image that can be read: give folders or files to index"
            )
        common.check_space(index, assembly, pipeline.keep_features, progress)
        runner = Runner(index, assembly, progress, options["strict"])
        runner.before = before
        made = runner.index_all()
        records.record(index, assembly)
        if made.reread and not options["as_json"]:
            progress.say(
                f"{made.reread:,} images were read again: their features are not kept (--keep-features)"
            )
        again = [r.offer.spec.name for r in assembly.rerankers if "features" in r.needs]
        if again and not pipeline.keep_features and not options["as_json"]:
            progress.say(
                f"'{again[0]}' reads the images of its candidates at every query; --keep-features spares it"
            )
        common.summary(index, intake, made, time.perf_counter() - began, options["as_json"])


def _valid_name(name: str) -> str:
    common.usage(
        bool(name) and all(c.isalnum() or c in "-_." for c in name) and not name.startswith("."),
        f"--name takes letters, digits, '-', '_' and '.', not '{name}'",
    )
    return name
