"""`instsearch restore`: images that were removed, back in the index."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common
from instsearch_cli.engine.answer import counted


@common.command("restore")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@common.index_option
@click.option("--all", "everything", is_flag=True, help="Bring back all that were removed and can be.")
@common.wait_option
@common.json_option
@common.terse_option
def command(images: tuple[Path, ...], index_path: Path, everything: bool, as_json: bool, quiet: bool) -> None:
    """Bring back IMAGES (files, folders, names or patterns, 'a/*.jpg') that `remove` or `sync` took out.

    Nothing is computed again: what was computed of them is still there. One whose file holds something else now, or
    is gone, does not come back, nor one that a pipeline made since then knows nothing of; which, is said.
    """
    common.usage(bool(images) != everything, "name images to restore, or --all")
    done = common.open_index(index_path).restore(*images, everything=everything)
    if as_json:
        common.echo(json.dumps(done.plain()))
        return
    for name, reason in done.left if not quiet else ():
        common.echo(f"left {name}: {reason}")
    left = f", {len(done.left):,} left out" if done.left else ""
    common.echo(f"restored {len(done.restored):,}{left}, {counted(done.images, 'image')}")
