"""`instsearch info`: what an index holds and what made it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common
from instsearch_cli.progress import size


@click.command("info")
@common.index_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--layers", "show_layers", is_flag=True, help="Show what every layer was made of.")
def command(index_path: Path, as_json: bool, show_layers: bool) -> None:
    """Show images, pipelines, layers with their sizes, and how much fitted models have not seen."""
    from instsearch_cli.engine import records
    from instsearch_cli.measure import drift

    index = common.open_index(index_path)
    table = index.images
    alive = table.alive()
    n_alive = int(alive.sum())
    kept = records.recorded(index)
    last = records.last(index)
    facts: dict[str, Any] = {
        "index": str(index_path),
        "images": n_alive,
        "removed": dict(Counter(reason.split(":")[0] for reason in table.removed().values())),
        "roots": table.roots,
        "pipelines": {
            r.pipeline.name: {
                **r.pipeline.plain(),
                "refine": [asdict(stage) for stage in r.pipeline.refine],
            }
            for r in kept
        },
        "last": last.pipeline.name if last else None,
        "layers": [],
        "models": [],
    }
    for layer in index.layers():
        facts["layers"].append(
            {
                "kind": layer.kind,
                "name": layer.name,
                "fingerprint": layer.fingerprint,
                "encoding": layer.encoding,
                "rows": layer.rows,
                "bytes": layer.nbytes,
                "identity": layer.identity,
            }
        )
    for model in index.models():
        attrs = model.attrs
        not_seen = max(0, n_alive - int(attrs.get("images-then", 0)))
        moved = drift.of_model(index, model) if not_seen else None
        facts["models"].append(
            {
                "name": model.name,
                "fingerprint": model.fingerprint,
                "fitted_on": int(attrs.get("fitted-on", 0)),
                "fitted_in": str(attrs.get("fitted-in", "")),
                "not_seen": not_seen,
                "drift": moved and moved._asdict(),
                "bytes": model.nbytes,
                "identity": model.identity,
            }
        )
    facts["caches"] = [
        {"name": cache.name, "fingerprint": cache.fingerprint, "bytes": cache.nbytes}
        for cache in index.caches()
    ]
    if as_json:
        click.echo(json.dumps(facts))
        return
    _print(facts, kept, show_layers)


def _print(facts: dict[str, Any], kept: list[Any], show_layers: bool) -> None:
    removed = "".join(f", {n:,} {reason}" for reason, n in facts["removed"].items())
    click.echo(f"{facts['index']}: {facts['images']:,} images{removed}")
    for root in facts["roots"]:
        click.echo(f"  under {root}")
    for layer in facts["layers"]:
        each = layer["bytes"] / max(1, layer["rows"])
        click.echo(
            f"  {layer['kind']:<9} {layer['name']:<16} {layer['fingerprint'][:8]}  {layer['rows']:>9,} images  "
            f"{size(layer['bytes']):>9}  {size(each)} an image"
        )
        if show_layers:
            click.echo("            " + json.dumps(layer["identity"]))
    for model in facts["models"]:
        where = f" of {model['fitted_in']}" if model["fitted_in"] else ""
        unseen = f", {model['not_seen']:,} added since (--refit)" if model["not_seen"] else ""
        if model["drift"]:
            unseen += ": their words differ by {divergence:.3f} bits, {by_chance:.3f} of it by chance".format(
                **model["drift"]
            )
        click.echo(
            f"  model     {model['name']:<16} {model['fingerprint'][:8]}  fitted on {model['fitted_on']:,} images"
            f"{where}{unseen}  {size(model['bytes'])}"
        )
    for cache in facts["caches"]:
        click.echo(
            f"  cache     {cache['name']:<16} {cache['fingerprint'][:8]}  {size(cache['bytes'])} that searches "
            "keep to be faster (`gc --cache` removes it)"
        )
    for record in kept:
        mark = " (last)" if record.pipeline.name == facts["last"] else ""
        click.echo(f"\n# pipeline {record.pipeline.name}{mark}")
        click.echo(record.pipeline.to_toml().rstrip())
