"""`instsearch verify`: every byte read and checked."""

from __future__ import annotations

import json
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("verify")
@common.index_option
@common.json_option
@common.terse_option
def command(index_path: Path, as_json: bool, quiet: bool) -> int:
    """Read every part of the index, check its checksums and structure, and name what is damaged.

    The exit status is 1 where anything is.
    """
    index = common.open_index(index_path, {"quiet": quiet, "as_json": as_json})
    problems = index.verify()
    store = index.store
    counts: dict[str, int | None] = {"rows": None, "layers": None, "models": None}
    if not problems:
        counts = {"rows": len(store.images), "layers": len(store.layers()), "models": len(store.models())}
    if as_json:
        listed = [{"path": str(problem.path), "what": problem.what} for problem in problems]
        click.echo(json.dumps({"sound": not problems, "problems": listed, **counts}))
        return int(bool(problems))
    for problem in problems if not quiet else ():
        click.echo(f"{problem.path}: {problem.what}")
    if problems:
        click.echo(
            f"{len(problems)} damaged. Delete the named files of features, regions, weights, local, codes and "
            f"search, then run `instsearch index --index {index_path}`: it makes them again."
        )
        return 1
    click.echo("sound: {rows:,} image rows, {layers} layers, {models} models".format(**counts))
    return 0
