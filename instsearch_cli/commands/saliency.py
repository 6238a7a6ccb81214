"""`instsearch saliency`: how well saliency maps agree with where people looked, or with annotated objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import Outputs, check_outside

BOTH = ("limit", "extractor", "weights", "device")
OF_DATA = ("split", "held_out", "sigma", "blur", "jitter", "max_pixels")
OF_PRECISION = ("root", "boxes", "present_only", "keep_features")
ONLY_PRECISION = ("dataset", "index_path", "histogram", "wait", *OF_PRECISION)


@common.command("saliency")
@click.option("--weighting", "weightings", multiple=True, required=True, help="A weighting; repeatable.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with images and fixations.json, or SALICON's folders.",
)
@click.option("--precision", is_flag=True, help="Measure what share of saliency lies on annotated objects.")
@click.option("--dataset", help="With --precision: a dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="The dataset's index (default: a cache)."
)
@click.option("--boxes", type=click.Path(path_type=Path), help="CSV of annotated boxes: image,x,y,w,h.")
@click.option("--present-only", is_flag=True, help="Take the dataset's images that are there.")
@click.option(
    "--keep-features/--no-keep-features", default=False, help="Keep raw features in the index (large)."
)
@click.option(
    "--histogram", type=click.Path(path_type=Path), help="PNG or SVG to write: how precisions are spread."
)
@click.option("--extractor", help="For weightings that read features: network or keypoint detector.")
@common.set_option
@common.weights_option
@common.device_option
@common.wait_option
@click.option("--split", help="SALICON's train or val (default: val where it is there).")
@click.option(
    "--held-out", type=click.IntRange(min=1), metavar="N", help="Only the last N images by sorted name."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images, evenly chosen.")
@click.option(
    "--sigma",
    type=common.NumberFrom(min=0, min_open=True),
    metavar="PIXELS",
    help="Blur of a fixation in a density (default: the data's densities, else 0.0375 of the longer side).",
)
@click.option(
    "--blur",
    type=common.NumberFrom(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Gaussian laid over every map first, as a share of the width.",
)
@click.option(
    "--jitter/--no-jitter",
    default=True,
    show_default=True,
    help="Part equal values by noise of 1e-7 for AUC-Judd, as the MIT benchmark does.",
)
@click.option("--max-pixels", type=click.IntRange(min=1), default=None, help="Larger images are skipped.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="PNG to write: the maps of some images side by side."
)
@common.json_option
@common.quiet_option
def command(weightings: tuple[str, ...], **options: Any) -> None:
    """Score saliency maps against eye fixations: AUC-Judd, CC, NSS, SIM (more is better) and KL (less is better).

    A weighting that makes a map of the whole picture is scored on that; else its cells are laid over the
    picture. Two rows give the scale: a Gaussian on the centre, and what one person's fixations are worth
    when those of the others predict them. An option of one of several weightings is written
    --set weighting.NAME.OPTION=value.

    With --precision: what share of a map's saliency lies inside the annotated boxes of a dataset's images.
    Maps, and what is fitted to make them, stay in the dataset's index, where `eval` finds them, until
    `instsearch gc`. Two rows give the scale: equal saliency everywhere, and a Gaussian on the centre.
    """
    check(options)
    from instsearch_cli.measure import verbs
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.saliency import SaliencySheet, write_histogram
    from instsearch_cli.report.saliency_lines import fixation_lines, precision_lines

    common.registry()
    sheet = SaliencySheet()
    arguments = {name: options[name] for name in BOTH + (OF_PRECISION if options["precision"] else OF_DATA)}
    arguments |= {"options": options["assignments"], "progress": make_progress(options["quiet"])}
    arguments |= {"chosen": sheet.choose if options["sheet"] else None}
    if options["precision"]:
        where = (options["dataset"], options["index_path"])
        precision = verbs.precision(weightings, *where, **arguments, watch=sheet.add_annotated)
        plain, lines = precision.plain(), precision_lines(precision)
        if options["histogram"]:
            write_histogram(precision, options["histogram"])
    else:
        report = verbs.saliency(weightings, options["data"], **arguments, watch=sheet.add)
        plain, lines = report.plain(), fixation_lines(report)
    if options["sheet"]:
        sheet.write(options["sheet"])
    lines += [f"wrote {options[name]}" for name in ("sheet", "histogram") if options[name]]
    common.echo(json.dumps(plain) if options["as_json"] else "\n".join(lines))


def check(options: dict[str, Any]) -> None:
    """Raise UsageError for flags of one measure given with the other, or for want of what to measure on."""
    context, precise = click.get_current_context(), options["precision"]
    if precise:
        common.usage(
            options["data"] is None, "--precision is measured on a --dataset with boxes, not on --data"
        )
        common.usage(bool(options["dataset"]), "--precision needs --dataset: a name, or a MANIFEST.json")
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        goes = "--data, not with --precision" if precise else "--precision"
        stray = given and name in (OF_DATA if precise else ONLY_PRECISION)
        common.usage(not stray, f"{parameter.opts[0]} goes with {goes}")
    common.usage(
        precise or options["data"] is not None,
        "what to measure on? Give --data, or --precision and --dataset",
    )
    common.writable("--sheet", options["sheet"], ".png")
    common.writable("--histogram", options["histogram"], ".png", ".svg")
    files: Outputs = [(f"--{name}", options[name]) for name in ("sheet", "histogram")]
    common.disjoint([("--data", options["data"])], files)
    if options["index_path"] is not None:
        check_outside(files, options["index_path"])
