"""`instsearch weights`: network weights and where they are."""

from __future__ import annotations

import click

from instsearch_cli.commands import common


@click.command("weights")
def command() -> None:
    """List the networks whose weights can be given, where each was found, and what is missing."""
    from instsearch_cli.weights import list_weights

    known = common.registry()
    names = [
        name for name, offer in known.offers["extractor"].items() if hasattr(offer.load(), "architecture")
    ]
    for row in list_weights(names):
        where = f"{row.found}  ({row.source}, sha256 {row.sha256}…)" if row.found else row.source
        click.echo(f"{row.network:<16} {where}")
