"""`instsearch index`: from a folder of photographs to something that can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@common.command("index", long=True)
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@common.pipeline_options
@common.rerank_option
@click.option("--name", help="Name the pipeline in the index; `query --pipeline NAME` picks it.")
@click.option("--keep-features/--no-keep-features", default=None, help="Keep raw features on disk (large).")
@click.option("--refit", is_flag=True, help="Fit vocabulary and whitening anew on all images.")
@common.engine_options
@common.intake_options
def command(images: tuple[Path, ...], index_path: Path, **options: Any) -> None:
    """Index IMAGES (files or folders), or index anew what the index already holds.

    Only what is missing is computed: new images, or the stages that the options change. A killed run goes
    on where it was. What runs is printed first.

    Without options it is the index's last pipeline, or the default preset, which needs no network weights. A
    weighting, detector, searcher, reranker or --set is changed in the last pipeline; an encoder starts a new
    one over the last one's extractor, without the rest of it; another extractor, or a preset, starts from
    nothing.
    """
    with common.index_to_write(index_path, options, bool(images)) as index:
        done = index.index(
            images,
            name=options["name"],
            keep_features=options["keep_features"],
            refit=options["refit"],
            **common.taking(options),
            **common.choice(options),
        )
    common.summary(index, done, options["as_json"])
    if not options["as_json"]:
        common.echo(f"next: {common.next_query(index)}")
