"""`instsearch gc`: what no recorded pipeline uses."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("gc")
@common.index_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--forget",
    multiple=True,
    metavar="PIPELINE",
    help="Forget recorded pipelines first, by name or pattern: 'eval-*'.",
)
@click.option("--cache", is_flag=True, help="Also what searches keep to be faster the next time.")
@common.wait_option
@common.json_option
@common.terse_option
def command(
    index_path: Path, dry_run: bool, forget: tuple[str, ...], cache: bool, as_json: bool, quiet: bool
) -> None:
    """Remove layers, models and caches that no recorded pipeline uses, and what killed runs left behind."""
    index = common.open_index(index_path, {"quiet": quiet, "as_json": as_json})
    removed = index.gc(dry_run=dry_run, forget=forget, cache=cache)
    if as_json:
        common.echo(json.dumps({"removed": [str(path) for path in removed], "dry_run": dry_run}))
        return
    for path in removed if not quiet else ():
        common.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    common.echo(f"{len(removed)} removed" if not dry_run else f"{len(removed)} to remove")
