"""`instsearch classes`: what a network takes pictures for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common


@common.command("classes")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--box", help="x,y,w,h in pixels of the upright picture: what is in it, of one picture.")
@click.option("--dataset", help="What is in the boxes of its queries: a dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--top", default=64, show_default=True, type=click.IntRange(min=1), help="Most probable classes counted."
)
@click.option(
    "-k", "--classes", "k", type=click.IntRange(min=1), help="Classes to print (default: as many as --top)."
)
@click.option("--extractor", help="Network (default: a small one of torchvision's).")
@common.set_option
@common.weights_option
@common.device_option
@click.option(
    "--list", "as_list", is_flag=True, help="Print numbers as --set weighting.classes=... takes them."
)
@common.json_option
@common.quiet_option
def command(images: tuple[Path, ...], **options: Any) -> None:
    """Print the most probable classes of IMAGES, or of a dataset's queries: first those that most pictures have.

    A class counts in a picture where it is among the --top most probable; classes that equally many pictures
    have are in the order of their mean probability. With --list the numbers, for the cam weighting:

    \b
    instsearch index PHOTOS --index DIR --encoder cam --weighting cam \\
        --set weighting.classes=$(instsearch classes --dataset MANIFEST.json --list)
    """
    from instsearch_cli.boxes import parse_box
    from instsearch_cli.measure.classes import classes, queries_of
    from instsearch_cli.measure.datasets import load_dataset
    from instsearch_cli.measure.tables import of_dataset
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.classes import class_lines

    dataset, box = options["dataset"], options["box"]
    common.usage(bool(images) != bool(dataset), "name pictures, or a --dataset: one of the two")
    common.usage(box is None or len(images) == 1, "--box is of one picture")
    common.usage(not (options["as_list"] and options["as_json"]), "--list and --json exclude each other")
    common.usage(bool(dataset) or options["root"] is None, "--root goes with --dataset")
    registry = common.registry()
    own = [a for a in options["assignments"] if of_dataset(a)]
    common.usage(bool(dataset) or not own, "--set dataset.OPTION goes with --dataset")
    if dataset:
        of = queries_of(load_dataset(registry, dataset, options["root"], None, own))
    else:
        of = [(image, None if box is None else parse_box(box)) for image in images]
    ranked = classes(
        of,
        top=options["top"],
        extractor=options["extractor"],
        options=[a for a in options["assignments"] if a not in own],
        weights=options["weights"],
        device=options["device"],
        progress=make_progress(options["quiet"]),
    )[: options["k"] or options["top"]]
    if options["as_list"]:
        common.echo(",".join(str(found.number) for found in ranked))
    elif options["as_json"]:
        found = [each._asdict() for each in ranked]
        common.echo(json.dumps({"pictures": len(of), "top": options["top"], "classes": found}))
    else:
        common.echo("\n".join(class_lines(ranked, len(of), options["top"])))
