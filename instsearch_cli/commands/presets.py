"""`instsearch presets`: the named pipelines."""

from __future__ import annotations

import tomllib

import click

from instsearch_cli.commands import common


@click.command("presets")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the named pipelines; with NAME, print one as TOML, ready to be edited and given to --preset."""
    from instsearch_cli.engine.listing import preset
    from instsearch_cli.engine.pipeline import presets

    registry = common.registry()
    if name is not None:
        click.echo(preset(name), nl=False)
        return
    for each, (text, distribution) in presets(registry).items():
        origin = "" if distribution == "instsearch" else f"  [{distribution}]"
        click.echo(f"{each:<22} {tomllib.loads(text).get('summary', '')}{origin}")
