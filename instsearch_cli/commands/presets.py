"""`instsearch presets`: the named pipelines."""

from __future__ import annotations

import tomllib

import click

from instsearch_cli.commands import common


@click.command("presets")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the named pipelines; with NAME, print one as TOML, ready to be edited and given to --preset."""
    from instsearch_cli.engine.pipeline import load_preset, presets

    known = common.registry()
    if name is not None:
        load_preset(name, known)
        click.echo(presets(known)[name][0], nl=False)
        return
    for preset, (text, distribution) in presets(known).items():
        origin = "" if distribution == "instsearch" else f"  [{distribution}]"
        click.echo(f"{preset:<22} {tomllib.loads(text).get('summary', '')}{origin}")
