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
    from instsearch_cli.progress import make_progress

    index = common.open_index(index_path)
    progress = make_progress(quiet)
    problems = index.verify(progress)
    progress.close()
    for problem in problems:
        click.echo(f"{problem.path}: {problem.what}")
    if problems:
        click.echo(
            f"{len(problems)} damaged. Delete the named files of features, regions, weights, local, codes and "
            f"search, then run `instsearch index --index {index_path}`: it makes them again."
        )
        return 1
    layers = index.layers()
    click.echo(f"sound: {len(index.images):,} image rows, {len(layers)} layers, {len(index.models())} models")
    return 0
