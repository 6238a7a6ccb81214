"""`instsearch train`: train what a plugin can train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.plugins import Offer, Registry


@click.command("train")
@click.argument("name")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder to train on.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Weights file to write (default: NAME.pth here)."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="OPTION=VALUE", help="An option of the training."
)
@common.device_option
@common.quiet_option
def command(name: str, data: Path, out: Path | None, assignments: tuple[str, ...], **options: Any) -> None:
    """Train the network of component NAME on your own data, into a weights file that the component takes.

    Beside the weights lies a card, a JSON file that says how they were made. `instsearch plugins NAME` lists
    the options. Ctrl-C and kills cost a minute at most: the same command goes on from the last checkpoint,
    in the folder OUT.training, where the losses are too (log.csv).
    """
    from instsearch_cli.assembly import pick_device
    from instsearch_cli.options import config_for, make_config
    from instsearch_cli.progress import duration, make_progress, size
    from instsearch_cli.trained import card_of, data_digest, finished, folder_of
    from instsearch_cli.training import Run

    offer = choose(common.registry(), name)
    trained = offer.load_trainer()
    config = make_config(trained, parse(name, assignments), name)
    out = common.absolute(out or Path(f"{name}.pth"))
    common.usage(out.suffix != ".json", "--out is the weights file; its card is the .json beside it")
    common.usage(out.parent.is_dir(), f"--out: there is no folder {out.parent}")
    inside = data.resolve() in out.parent.resolve().joinpath(out.name).parents
    common.usage(not inside, "--out: choose a file outside --data, which would change with it")
    device = pick_device(options["device"])
    trainer = trained(config, device)
    progress = make_progress(options["quiet"])
    asked = {
        "network": name,
        "plugin": offer.plugin,
        "version": offer.spec.version,
        "options": config_for(config, "search"),
        "inputs": getattr(trainer, "identity", dict)(),
        "data": data_digest(data, progress),
    }
    asked = json.loads(json.dumps(asked))
    if card := finished(out, asked):
        click.echo(f"{out} is there already, trained as asked on {card.get('date')}: nothing to do")
        return
    with Run(folder_of(out), asked, progress) as run:
        card = run.finish(out, trainer.train(data, run), device)
    click.echo(
        f"wrote {out} ({size(out.stat().st_size)}) and {card_of(out).name} after {card['steps']:,} steps "
        f"and {duration(card['seconds'])}"
    )
    for key, value in card.get("held out", {}).items():
        click.echo(f"held out: {key} {value}")
    needed = {"weights": out, **card.get("component options", {})}
    sets = " ".join(f"--set {offer.spec.kind}.{option}={value}" for option, value in needed.items())
    click.echo(f"use it with --{offer.spec.kind} {name} {sets}")


def choose(known: Registry, name: str) -> Offer:
    """The offer of that name that can be trained."""
    from instsearch_cli.errors import UsageError, nearest

    offers = [offer for kind in known.offers.values() for offer in kind.values()]
    trainable = {offer.spec.name: offer for offer in offers if offer.spec.trainer}
    if name not in trainable:
        what = "cannot be trained" if any(o.spec.name == name for o in offers) else "is no component"
        raise UsageError(f"'{name}' {what}.{nearest(name, trainable)}")
    return trainable[name]


def parse(name: str, assignments: tuple[str, ...]) -> dict[str, str]:
    """--set OPTION=VALUE, as names and values."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for (option, equals, _), assignment in zip(pairs, assignments, strict=True):
        common.usage(
            bool(option and equals),
            f"--set {assignment}: write OPTION=VALUE; see `instsearch plugins {name}`",
        )
    return {option.strip(): value.strip() for option, _, value in pairs}
