"""`instsearch pairs`: matching pairs of the collection's own images, to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import Outputs, check_unindexed


@common.command("pairs", long=True)
@common.index_option
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="CSV file to write: two names a line."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--images",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Ask for the matches of N images taken by chance; 0: of all.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of that chance.")
@click.option(
    "--top",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How many of an image's best hits are verified.",
)
@click.option(
    "--min-inliers",
    default=15,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="A pair has at least N keypoints that agree on one transform.",
)
@click.option(
    "--per-image", type=click.IntRange(min=1), metavar="N", help="An image is in at most N pairs, its best."
)
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="PNG to write: some of the pairs side by side."
)
@common.set_option
@common.device_option
@common.json_option
@common.quiet_option
def command(index_path: Path, pipeline_name: str | None, out: Path, **options: Any) -> None:
    """Find pairs of indexed images that show the same thing, without labels, and write them to a CSV file.

    Images ask for the others as queries do, and keypoints that agree on one transform verify what is found;
    the pipeline must have keypoints (preset sift). An encoder that learns from pairs reads the file, in any
    index of the same images: --set encoder.whiten=sum --set encoder.pairs=FILE with regions-sum. What stands
    at the same place in many pictures, a camera's date say, matches too: look at the --sheet.
    """
    from instsearch_cli.errors import InstsearchError
    from instsearch_cli.measure.pairs import Miner, write_csv
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.pairs import pairs_lines, pairs_plain, write_pairs_sheet

    common.writable("--out", out)
    common.writable("--sheet", options["sheet"], ".png")
    if out.exists() and not options["force"]:
        raise InstsearchError(f"{out} is there already: --force replaces it")
    index = common.open_index(index_path, options)
    files: Outputs = [("--out", out), ("--sheet", options["sheet"])]
    common.disjoint((), files)
    check_unindexed(files, [index])
    miner = Miner.of(index, pipeline_name, options["assignments"])
    if not (miner.pipeline.keep_features or options["as_json"] or options["quiet"]):
        common.echo("reading the images of all candidates: `index --keep-features` spares it", err=True)
    rows = miner.sample(options["images"], options["seed"])
    progress = make_progress(options["quiet"])
    mined = miner.mine(rows, options["top"], options["min_inliers"], progress, options["per_image"])
    if not mined.pairs and not mined.stopped:
        raise InstsearchError(
            f"no pair among {mined.candidates:,} candidates of {mined.queried:,} images has "
            f"{options['min_inliers']} inliers: nothing is written.\n"
            "Ask for more --images, verify more hits (--top), or be content with less (--min-inliers)."
        )
    if mined.pairs:
        write_csv(out, miner, mined)
        if options["sheet"] is not None:
            write_pairs_sheet(mined.pairs, miner, options["sheet"])
    written = [str(path) for path in (out, options["sheet"]) if path is not None and mined.pairs]
    if options["as_json"]:
        common.echo(json.dumps(pairs_plain(mined, miner, len(rows), written)))
    else:
        common.echo("\n".join([*pairs_lines(mined), *(f"wrote {path}" for path in written)]))
    if mined.stopped:
        common.echo(
            f"stopped: {len(rows) - mined.queried:,} of {len(rows):,} images were not asked", err=True
        )
        click.get_current_context().exit(130)
