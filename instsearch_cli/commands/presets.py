"""`instsearch presets`: the named pipelines."""

from __future__ import annotations

import json
import tomllib

import click

from instsearch_cli.commands import common


@common.command("presets")
@click.argument("name", required=False)
@common.json_option
def command(name: str | None, as_json: bool) -> None:
    """List the named pipelines; with NAME, print one as TOML, ready to be edited and given to --preset."""
    from instsearch_cli.engine.listing import preset
    from instsearch_cli.engine.pipeline import load_preset, parts_of_preset, presets

    registry = common.registry()
    listed = {
        each: {"name": each, "summary": tomllib.loads(text).get("summary", ""), "distribution": distribution}
        for each, (text, distribution) in presets(registry).items()
    }
    if name is not None:
        text = preset(name)
        parts = [load_preset(part, registry).plain() for part in parts_of_preset(name, registry)]
        plain = {**listed[name], "toml": text, "pipeline": parts[0], "beside": parts[1:]}
        common.echo(json.dumps(plain) if as_json else text, nl=as_json)
        return
    if as_json:
        common.echo(json.dumps(list(listed.values())))
        return
    for row in listed.values():
        origin = "" if row["distribution"] == "instsearch" else f"  [{row['distribution']}]"
        common.echo(f"{row['name']:<22} {row['summary']}{origin}")
