"""`instsearch info`: what an index holds and what made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common
from instsearch_cli.engine.answer import counted
from instsearch_cli.progress import size

if TYPE_CHECKING:
    from instsearch_cli.engine.pipeline import Pipeline


@common.command("info")
@common.index_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--layers", "show_layers", is_flag=True, help="Show what every layer was made of.")
def command(index_path: Path, as_json: bool, show_layers: bool) -> None:
    """Show images, pipelines, layers with their sizes, and how much fitted models have not seen."""
    index = common.open_index(index_path)
    facts = index.info()
    if as_json:
        common.echo(json.dumps(facts))
        return
    _print(facts, list(index.pipelines.values()), show_layers)


GONE = {
    "removed": "taken out",
    "missing": "taken out, their files being gone",
    "replaced": "replaced by newer ones of the same name",
    "changed": "changed, and not read again yet",
}


def words(facts: dict[str, Any]) -> Iterator[str]:
    """What an index holds, how old it is, and what it can be asked."""
    from instsearch_cli.engine.records import again_in

    gone = {reason: n for reason, n in facts["removed"].items() if reason != "skipped"}
    yield f"{facts['index']}: {counted(facts['images'], 'image')}" + "".join(
        [
            *(f", {n:,} {GONE.get(reason, reason)}" for reason, n in gone.items()),
            f", {counted(facts['others'], 'other name')} of them" if facts["others"] else "",
            f", {counted(facts['skipped'], 'file')} skipped (skipped.txt says why)"
            if facts["skipped"]
            else "",
        ]
    )
    for root in facts["roots"]:
        away = facts["offline"].get(root)
        yield f"  under {root}" + (f" (offline, with {counted(away, 'image')})" if away else "")
    added = f", images last added {age(facts['added'])}" if facts["added"] else ""
    yield f"created {age(facts['created'])}{added}"
    last = _last(facts)
    one = ", the last: asked" if len(last) == 1 else ", of the last: asked as one"
    for name, n in facts["searchable"].items():
        mark = f"{one} where no --pipeline is named" if name in last else ""
        mark = ", only measured" if name in facts["measured"] else mark
        left = facts["images"] - n
        run = again_in(Path(facts["index"]), "" if name in last else name)
        which = "all images" if not left else f"{counted(n, 'image')}; run `{run}` for the other {left:,}"
        yield f"can be asked: pipeline {name} ({which}{mark})"
    if not facts["searchable"]:
        yield f"cannot be asked yet: run `instsearch index --index {facts['index']}`"


def age(moment: str) -> str:
    """``3 days ago (2026-01-31)``."""
    then = datetime.fromisoformat(moment)
    seconds = max(0.0, (datetime.now(UTC) - then).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(int(seconds // length), unit)} ago ({then.date()})"
    return f"just now ({then.date()})"


def _last(facts: dict[str, Any]) -> list[str]:
    """The pipelines that are asked where none is named."""
    from instsearch_cli.engine.pipeline import SEPARATOR

    last: str = facts["last"] or ""
    return last.split(SEPARATOR)


def _print(facts: dict[str, Any], pipelines: list[Pipeline], show_layers: bool) -> None:
    for line in words(facts):
        common.echo(line)
    for layer in facts["layers"]:
        each = layer["bytes"] / max(1, layer["rows"])
        what = (
            "images" if layer["rows"] <= facts["images"] else "rows  "
        )  # of images that are none any more, too
        common.echo(
            f"  {layer['kind']:<9} {layer['name']:<16} {layer['fingerprint'][:8]}  {layer['rows']:>9,} {what}  "
            f"{size(layer['bytes']):>9}  {size(each)} an image"
        )
        if show_layers:
            common.echo("            " + json.dumps(layer["identity"]))
    for model in facts["models"]:
        where = f" of {model['fitted_in']}" if model["fitted_in"] else ""
        unseen = f", {model['not_seen']:,} added since (--refit)" if model["not_seen"] else ""
        if model["drift"]:
            unseen += ": their words differ by {divergence:.3f} bits, {by_chance:.3f} of it by chance".format(
                **model["drift"]
            )
        images = counted(model["fitted_on"], "image")
        common.echo(
            f"  model     {model['name']:<16} {model['fingerprint'][:8]}  fitted on {images}"
            f"{where}{unseen}  {size(model['bytes'])}"
        )
    for cache in facts["caches"]:
        common.echo(
            f"  cache     {cache['name']:<16} {cache['fingerprint'][:8]}  {size(cache['bytes'])} that searches "
            "keep to be faster (`gc --cache` removes it)"
        )
    for pipeline in pipelines:
        mark = " (last)" if pipeline.name in _last(facts) else ""
        common.echo(f"\n# pipeline {pipeline.name}{mark}")
        common.echo(pipeline.to_toml().rstrip())
