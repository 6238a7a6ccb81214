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
@common.max_remove_option
@common.wait_option
@common.json_option
@common.terse_option
def command(
    images: tuple[Path, ...],
    index_path: Path,
    missing: bool,
    max_remove: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Remove IMAGES (files, folders, names as the index shows them, or patterns, 'a/*.jpg'); no photograph is touched.

    A tombstone is written and nothing recomputed; the images are gone from every search at once, and `instsearch
    restore` brings them back. --missing leaves those alone whose folder is not there, or empty, as of a disk that is
    not mounted; --max-remove is for it.
    """
    common.usage(bool(images) or missing, "name images to remove, or --missing")
    common.usage(missing or max_remove is None, "--max-remove goes with --missing")
    index = common.open_index(index_path)
    removed, left = index.remove(*images, missing=missing, max_remove=max_remove)
    offline = index.info()["offline"] if missing else {}
    if as_json:
        common.echo(
            json.dumps({"removed": removed, "left": left} | ({"offline": offline} if missing else {}))
        )
        return
    common.echo(f"removed {removed:,}, {left:,} left")
    for root, n in offline.items():
        common.echo(common.offline_of(root, n))
