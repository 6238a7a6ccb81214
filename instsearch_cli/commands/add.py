"""`instsearch add`: new images into an index, nothing else touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@common.command("add", long=True)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.index_option
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@common.device_option
@common.engine_options
@common.intake_options
def command(images: tuple[Path, ...], index_path: Path, pipeline_name: str | None, **options: Any) -> None:
    """Add IMAGES (files or folders) with the pipeline that made the index.

    What is there already is left alone, a file whose content changed replaces its old self. The fitted
    vocabulary stays as it is: `instsearch info` says how many images it has not seen, `instsearch index
    --refit` makes a new one.
    """
    from instsearch_cli.errors import InstsearchError

    index = common.open_index(index_path, options)
    before = index.last
    if before is None:
        raise InstsearchError(f"{index_path} has no pipeline yet: run `instsearch index` first")
    done = index.add(images, pipeline=pipeline_name, **common.taking(options))
    common.summary(index, done, options["as_json"])
    common.say_last(index, before)
