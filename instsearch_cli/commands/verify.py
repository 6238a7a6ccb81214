"""`instsearch verify`: every byte read and checked."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("verify")
@common.index_option
@click.option(
    "--mirror", is_flag=True, help="Compare the copies of codes that a server keeps with the index, too."
)
@common.json_option
@common.terse_option
def command(index_path: Path, mirror: bool, as_json: bool, quiet: bool) -> int:
    """Read every part of the index, check its checksums and structure, and name what is damaged or missing.

    What mends it is said with each.

    The exit status is 1 where anything is.
    """
    index = common.open_index(index_path, {"quiet": quiet, "as_json": as_json})
    problems = index.verify(mirror=mirror)
    store = index.store
    counts: dict[str, int | None] = {"rows": None, "layers": None, "models": None}
    if not problems:
        counts = {"rows": len(store.images), "layers": len(store.layers()), "models": len(store.models())}
    if as_json:
        listed = [{"path": str(p.path), "what": p.what, "mend": p.mend} for p in problems]
        common.echo(json.dumps({"sound": not problems, "problems": listed, **counts}))
        return int(bool(problems))
    for problem in problems if not quiet else ():
        common.echo(f"{problem.path}: {problem.what}\n  mend: {problem.mend}")
    if problems:
        again = f"instsearch verify{' --mirror' * mirror} --index {shlex.quote(str(index_path))}"
        more = f" `{again}` says what and what mends it."
        common.echo(f"{len(problems)} damaged.{more if quiet else ''}")
        return 1
    common.echo("sound: {rows:,} image rows, {layers} layers, {models} models".format(**counts))
    return 0
