"""`instsearch relocate`: the photographs moved, the index need not be made again."""

from __future__ import annotations

from pathlib import Path

import click

from instsearch_cli.commands import common


@click.command("relocate")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path, exists=True, file_okay=False))
@common.index_option
def command(old: Path, new: Path, index_path: Path) -> None:
    """Tell the index that the photographs under OLD now lie under NEW."""
    from instsearch_cli.errors import InstsearchError, nearest

    with common.writing(index_path) as index:
        roots = index.images.roots
        for candidate in (str(old), str(common.absolute(old))):
            if candidate in roots:
                index.images.move_root(candidate, str(common.absolute(new)))
                click.echo(f"{candidate} -> {common.absolute(new)}")
                return
        raise InstsearchError(f"{index_path} has no images under '{old}'.{nearest(str(old), roots)}")
