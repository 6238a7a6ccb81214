"""`instsearch train`: train what a plugin can train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from collections.abc import Mapping


@common.command("train", context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="NAME [--OPTION VALUE]...", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder to train on.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Weights file to write (default: NAME.pth here)."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="OPTION=VALUE", help="An option of the training."
)
@common.device_option
@common.json_option
@common.quiet_option
def command(
    words: tuple[str, ...],
    data: Path,
    out: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train the network of component NAME on your own data, into a weights file that the component takes.

    Beside the weights lies a card, a JSON file that says how they were made. `instsearch plugins NAME` lists
    the options: --OPTION VALUE is short for --set OPTION=VALUE. Ctrl-C and kills cost a minute at most: the
    same command goes on from the last checkpoint, in the folder OUT.training, where the losses are too
    (log.csv).
    """
    from instsearch_cli.engine.teaching import train, trainable
    from instsearch_cli.networks.trained import card_of
    from instsearch_cli.progress import duration, make_progress, size

    name, flags = split(words)
    offer = trainable(common.registry(), name)
    request = merge(parse(name, assignments), check_names(offer.load_trainer(), flags))
    done = train(name, data, out, request, device=options["device"], progress=make_progress(options["quiet"]))
    out, card = done.out, done.card
    needed = {"weights": out, **card.get("component options", {})}
    used = card.get("used with", {}) | {offer.spec.kind: name}
    used |= {f"{offer.spec.kind}.{option}": value for option, value in needed.items()}
    use = flags_of(used, out)
    if as_json:
        plain = {"network": name, "out": str(out), "already": done.already, "use": use, "card": card}
        common.echo(json.dumps(plain))
        return
    if done.already:
        common.echo(f"{out} is there already, trained as asked on {card.get('date')}: nothing to do")
        return
    common.echo(
        f"wrote {out} ({size(out.stat().st_size)}) and {card_of(out).name} after {card['steps']:,} steps "
        f"and {duration(card['seconds'])}"
    )
    for key, value in card.get("held out", {}).items():
        common.echo(f"held out: {key} {value}")
    common.echo(f"use it with {use}")


def split(words: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """What click does not know: NAME, and options of the training, --OPTION VALUE or --OPTION=VALUE, in any order."""
    names: list[str] = []
    flags: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            names.append(word)
            continue
        common.usage(word.startswith("--"), f"no such option: {word}")
        option, equals, value = word[2:].partition("=")
        if not equals:
            value = next(rest, "--")
            common.usage(not value.startswith("--"), f"--{option} takes a value")
        common.usage(option not in flags, f"--{option} is given twice")
        flags[option] = value
    common.usage(len(names) > 0, "say what to train: `instsearch plugins` marks what can be")
    common.usage(len(names) < 2, f"one component at a time, not {' and '.join(names[:2])}")
    return names[0], flags


def check_names(trained: type[Any], flags: dict[str, str]) -> dict[str, str]:
    """The flags, which all have to be options of the training. Raises UsageError with the nearest."""
    from instsearch_cli.errors import UsageError, nearest
    from instsearch_cli.options import documented

    offered = {f"--{option.name}" for option in documented(trained)}
    own = {word for p in command.params if isinstance(p, click.Option) for word in p.opts if word[:2] == "--"}
    for flag in flags:
        if f"--{flag.replace('_', '-')}" not in offered:
            raise UsageError(f"no such option: --{flag}.{nearest(f'--{flag}', offered | own)}")
    return flags


def merge(assigned: dict[str, str], flags: dict[str, str]) -> dict[str, str]:
    """--set and flags together. Raises UsageError for an option that is in both."""
    there = {option.replace("_", "-") for option in assigned}
    for flag in flags:
        common.usage(flag.replace("_", "-") not in there, f"--{flag} is given twice, once with --set")
    return assigned | flags


def flags_of(used: Mapping[str, Any], out: Path) -> str:
    """Stages and their options as a command line has them; OUT stands for the weights file."""
    chosen = [f"--{stage} {value}" for stage, value in used.items() if "." not in stage]
    sets = [f"--set {name}={out if value == 'OUT' else value}" for name, value in used.items() if "." in name]
    return " ".join(chosen + sets)


def parse(name: str, assignments: tuple[str, ...]) -> dict[str, str]:
    """--set OPTION=VALUE, as names and values."""
    from instsearch_cli.errors import UsageError
    from instsearch_cli.options import parse_assignment

    given = {}
    for assignment in assignments:
        try:
            each = parse_assignment(f"{name}.{assignment}")
        except UsageError as error:
            wanted = f"--set {assignment}: write OPTION=VALUE; see `instsearch plugins {name}`"
            raise UsageError(wanted) from error
        given[each.option_of_one] = each.value.strip()
    return given
