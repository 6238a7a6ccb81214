"""`instsearch remove`: images out of an index."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("remove")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@click.option("--missing", is_flag=True, help="Remove every image whose file is no longer there.")
@common.wait_option
@common.json_option
@common.terse_option
def command(images: tuple[Path, ...], index_path: Path, missing: bool, as_json: bool, quiet: bool) -> None:
    """Remove IMAGES (files, folders, or names as the index shows them); the photographs are not touched.

    A tombstone is written and nothing recomputed; the images are gone from every search at once.
    """
    common.usage(bool(images) or missing, "name images to remove, or --missing")
    removed, left = common.open_index(index_path).remove(*images, missing=missing)
    if as_json:
        click.echo(json.dumps({"removed": removed, "left": left}))
    else:
        click.echo(f"removed {removed:,}, {left:,} left")
