"""`instsearch verify`: every byte read and checked."""

from __future__ import annotations

from pathlib import Path

import click

from instsearch_cli.commands import common


@click.command("verify")
@common.index_option
@common.quiet_option
def command(index_path: Path, quiet: bool) -> int:
    """Read every part of the index, check its checksums and structure, and name what is damaged."""
    index = common.open_index(index_path, {"quiet": quiet})
    problems = index.verify()
    for problem in problems:
        click.echo(f"{problem.path}: {problem.what}")
    if problems:
        click.echo(
            f"{len(problems)} damaged. Delete the named files of features, regions, weights, local, codes and "
            f"search, then run `instsearch index --index {index_path}`: it makes them again."
        )
        return 1
    store = index.store
    layers, models = len(store.layers()), len(store.models())
    click.echo(f"sound: {len(store.images):,} image rows, {layers} layers, {models} models")
    return 0
