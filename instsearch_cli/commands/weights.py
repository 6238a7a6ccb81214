"""`instsearch weights`: network weights, where they are, and published ones imported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click

from instsearch_cli.commands import common


@click.group("weights", invoke_without_command=True)
@common.json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the networks whose weights can be given, where each was found, and what is missing."""
    if context.invoked_subcommand is not None:
        return
    from instsearch_cli.engine.listing import weights

    common.registry()
    rows = weights(lambda error: common.echo(f"warning: {error}", err=True))
    if as_json:
        plain = [row._asdict() | {"found": row.found and str(row.found)} for row in rows]
        common.echo(json.dumps(plain))
        return
    width = max(16, *(len(row.network) for row in rows))
    for row in rows:
        where = f"{row.found}  ({row.source}, sha256 {row.sha256}…)" if row.found else row.source
        common.echo(f"{row.network:<{width}} {where}")


@command.command("import", cls=common.Verb)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder to write NAME.pth into.")
@click.option("--force", is_flag=True, help="Replace other weights of that name.")
@common.json_option
@click.pass_context
def import_command(
    context: click.Context, name: str, file: Path, folder: Path | None, force: bool, as_json: bool
) -> None:
    """Convert the published checkpoint FILE of the network NAME, check it, and keep it as NAME.pth.

    It is written into --to, else the first folder of INSTSEARCH_WEIGHTS, else your own folder of data, where it is
    found from then on. Files of other frameworks are read as numbers only, never as code.
    """
    from instsearch_cli.engine.listing import import_weights
    from instsearch_cli.networks.weights import named_folders, user_folder

    common.registry()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        done = import_weights(name, file, folder, force)
    for warning in caught:
        common.echo(f"warning: {warning.message}", err=True)
    written = done.path.parent
    found = written.resolve() in [each.resolve() for each in (*named_folders(), user_folder())]
    if as_json or (context.parent and context.parent.params["as_json"]):
        common.echo(json.dumps({"network": name, **done._asdict(), "path": str(done.path), "found": found}))
        return
    common.echo(f"{done.path}\nsha256 {done.sha256}\n{done.parameters:,} parameters")
    if not found:
        common.echo(f"To have it found, add {written} to INSTSEARCH_WEIGHTS.")
