"""`instsearch extract`: local features of every image, kept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@click.command("extract")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.index_option
@click.option("--extractor", help="Network or keypoint detector (default: the index's, else sift).")
@common.set_option
@common.weights_option
@common.device_option
@common.intake_options
def command(images: tuple[Path, ...], index_path: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Extract local features of IMAGES (files or folders) and keep them in the index.

    Running it again extracts only what is new. `instsearch index` then reads these features, so that
    every later choice of weighting or encoder costs only its own stage.
    """
    from instsearch_cli.engine import records
    from instsearch_cli.engine.runner import Runner
    from instsearch_cli.images import discover
    from instsearch_cli.progress import make_progress

    began = time.perf_counter()
    known = common.registry()
    discovery = discover(list(images))
    progress = make_progress(quiet)
    with common.writing(index_path, create=True) as index:
        last = records.last(index)
        base = last.pipeline if last else None
        pipeline = common.choose_pipeline(known, base, options | {"extract_only": True})
        same = base is not None and base.extractor == pipeline.extractor
        if not same or base is None or base.encoder is None:
            pipeline = replace(
                pipeline,
                name="extract",
                weighting=None,
                detector=None,
                encoder=None,
                searcher=None,
                rerank=(),
            )
        pipeline = replace(pipeline, keep_features=True)
        assembly = common.assemble(pipeline, known, options["device"])
        intake = common.take(index, discovery, options, progress)
        common.check_space(index, assembly, True, progress)
        made = Runner(index, assembly, progress, options["strict"]).extract()
        records.record(index, assembly)
        common.summary(index, intake, made, time.perf_counter() - began, as_json)
