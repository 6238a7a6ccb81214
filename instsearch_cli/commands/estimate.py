"""`instsearch estimate`: what indexing and asking many images will take, from a sample measured on this machine."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common

SCENES = 450  #: that are drawn, at most, where no photographs are given


def _count(ctx: click.Context, parameter: click.Parameter, text: str) -> int:
    """A whole number of at least 1, as 10_000_000, 10,000,000 or 1e7."""
    try:
        number = float(text.replace(",", "").replace("_", ""))
        if number < 1 or number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is no whole number of at least 1, 10_000_000 say.") from None
    return int(number)


@common.command("estimate", long=True)
@click.option("--images", required=True, metavar="N", callback=_count, help="How many images there will be.")
@click.option(
    "--index",
    "index_path",
    envvar="INSTSEARCH_INDEX",
    type=click.Path(path_type=Path),
    help="An index of such photographs: its pipeline, its images, and its own size as a point of the lines.",
)
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@click.option(
    "--sample",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Photographs to measure with (default: those of --index, else scenes that are drawn).",
)
@click.option(
    "--small", default=150, show_default=True, type=click.IntRange(min=2), help="Photographs first."
)
@click.option(
    "--large",
    default=900,
    show_default=True,
    type=click.IntRange(min=3),
    help="Then so many, or all where there are fewer.",
)
@click.option("--questions", default=20, show_default=True, type=click.IntRange(min=1), help="To ask.")
@click.option("--seed", default=0, show_default=True, help="Of the photographs that are drawn.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Say it for N workers of Ray, too, one core each.",
)
@common.pipeline_options
@common.rerank_option
@common.json_option
@common.quiet_option
def command(images: int, index_path: Path | None, pipeline_name: str | None, **options: Any) -> None:
    """Say what an index of many images will take: time, bytes on disk and in memory, time a question.

    Some photographs are indexed in a temporary folder, once few and once more of them, and questions are asked; lines
    through both say what is fixed and what an image costs, on this machine.
    """
    from instsearch_cli.demo import make_scenes
    from instsearch_cli.measure.estimating import check, estimate
    from instsearch_cli.measure.scratch import scratch
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.estimate import print_estimate

    how = {name: options[name] for name in ("small", "large", "questions", "seed", "workers", "device")}
    progress = make_progress(options["quiet"] or options["as_json"])
    chosen = common.choice(options)
    index = common.open_index(index_path, options) if index_path else None
    with contextlib.ExitStack() as stack:
        sample = options["sample"]
        if sample is None and index is None:
            check(chosen, how["device"])  # before scenes are drawn
            folder = stack.enter_context(scratch()) / "scenes"
            scenes = max(8, min(how["large"], max(SCENES, 2 * how["small"])))
            sample = make_scenes(folder, scenes, progress=progress).parent / "images"
            progress.close()
        done = estimate(
            images,
            sample=sample or (),
            index=index,
            pipeline=pipeline_name,
            progress=progress,
            **how,
            **chosen,
        )
        if options["sample"] is None and index is None:
            done = replace(done, sample="drawn scenes")
    if options["as_json"]:
        common.echo(json.dumps(done.plain()))
        return
    print_estimate(done)
