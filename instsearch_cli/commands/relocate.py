"""`instsearch relocate`: the photographs moved, the index need not be made again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("relocate")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path, exists=True, file_okay=False))
@common.index_option
@common.wait_option
@common.json_option
@common.terse_option
def command(old: Path, new: Path, index_path: Path, as_json: bool, quiet: bool) -> None:
    """Tell the index that the photographs under OLD, those of all folders in it too, now lie under NEW."""
    before, now = common.open_index(index_path).relocate(old, new)
    common.echo(json.dumps({"old": before, "new": now}) if as_json else f"{before} -> {now}")
