"""`instsearch extract`: local features of every image, kept."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@common.command("extract", long=True)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@common.index_option
@click.option(
    "--extractor", help="Network or keypoint detector (default: the index's, else the default preset's)."
)
@common.set_option
@common.weights_option
@common.device_option
@common.engine_options
@common.intake_options
def command(images: tuple[Path, ...], index_path: Path, **options: Any) -> None:
    """Extract local features of IMAGES (files or folders) and keep them in the index.

    Running it again extracts only what is new. `instsearch index` then reads these features, so that
    every later choice of weighting or encoder costs only its own stage.
    """
    with common.index_to_write(index_path, options, True) as index:
        done = index.extract(images, **common.taking(options), **common.choice(options))
    common.summary(index, done, options["as_json"])
    if not options["as_json"]:
        common.echo(f"next: instsearch index --index {shlex.quote(str(index_path))}")
