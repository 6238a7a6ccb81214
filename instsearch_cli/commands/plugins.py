"""`instsearch plugins`: every component on offer."""

from __future__ import annotations

import json

import click

from instsearch_cli.commands import common


@common.command("plugins")
@click.argument("name", required=False)
@common.json_option
def command(name: str | None, as_json: bool) -> None:
    """List the components that plugins offer; with NAME, its options and their defaults."""
    from instsearch_cli.engine.listing import offered, plugins

    registry = common.registry()
    offers = offered(registry, name)
    if as_json:
        common.echo(json.dumps(plugins(name), indent=1))
        return
    if name is not None:
        for offer in offers:
            _describe(offer)
        return
    width = max(len(o.spec.name) for o in offers) if offers else 0
    for kind, by_name in registry.offers.items():
        if by_name:
            common.echo(f"{kind}")
        for offer in by_name.values():
            origin = "" if offer.distribution == "instsearch" else f"  [{offer.distribution} {offer.version}]"
            trainable = " (trainable)" if offer.spec.trainer else ""
            common.echo(f"  {offer.spec.name:<{width}}  {offer.spec.summary}{trainable}{origin}")


def _describe(offer: object) -> None:
    from instsearch_cli.engine.registry import Offer
    from instsearch_cli.options import documented, written

    assert isinstance(offer, Offer)
    spec = offer.spec
    common.echo(f"{spec.kind} {spec.name}: {spec.summary}")
    if spec.reference:
        common.echo(f"  after {spec.reference}")
    common.echo(f"  from {offer.distribution} {offer.version}")
    prefix = f"rerank.{spec.name}" if spec.kind == "rerank" else spec.kind
    for option in documented(offer.load()):
        value = written(option.default)
        common.echo(f"  --set {prefix}.{option.name}={value}".ljust(44) + f" {option.text}".rstrip())
    if spec.trainer:
        common.echo(f"  trained by `instsearch train {spec.name} --data DIR`, with")
        for option in documented(offer.load_trainer()):
            common.echo(
                f"    --set {option.name}={written(option.default)}".ljust(44) + f" {option.text}".rstrip()
            )
