"""`instsearch pairs`: matching pairs of the collection's own images, to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.measure.pairs import Mined, Miner


@click.command("pairs")
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    from instsearch_cli.report.pairs import write_pairs_sheet

    for path, option in ((out, "--out"), (options["sheet"], "--sheet")):
        common.usage(
            path is None or path.parent.is_dir(), f"{option}: there is no folder {path and path.parent}"
        )
    if out.exists() and not options["force"]:
        raise InstsearchError(f"{out} is there already: --force replaces it")
    index = common.open_index(index_path, options)
    miner = Miner.of(index, pipeline_name, options["assignments"])
    if not miner.pipeline.keep_features and not options["as_json"]:
        click.echo("reading the images of all candidates: `index --keep-features` spares it", err=True)
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
        click.echo(json.dumps(_plain(mined, miner, len(rows), written)))
    else:
        _say(mined, len(rows), written)
    if mined.stopped:
        click.get_current_context().exit(130)


def _say(mined: Mined, wanted: int, written: list[str]) -> None:
    """The totals, which add up."""
    from instsearch_cli.images import printable

    click.echo(
        f"{mined.queried:,} images, {mined.candidates:,} candidates checked, "
        f"{len(mined.pairs):,} pairs of {mined.images:,} images"
    )
    click.echo(
        f"{mined.candidates:,} candidates = {len(mined.pairs):,} pairs + {mined.rejected:,} with too few inliers"
        + (f" + {mined.capped:,} over --per-image" if mined.capped else "")
    )
    if mined.skipped:
        queried = mined.queried - len(mined.skipped)
        click.echo(f"{mined.queried:,} images = asked {queried:,} + skipped {len(mined.skipped):,}")
    for name, reason in mined.skipped[:10]:
        click.echo(f"  skipped {printable(name)}: {reason}")
    if len(mined.skipped) > 10:
        click.echo(f"  … and {len(mined.skipped) - 10:,} more")
    if mined.stopped:
        click.echo(f"stopped: {wanted - mined.queried:,} of {wanted:,} images were not asked", err=True)
    for path in written:
        click.echo(f"wrote {path}")


def _plain(mined: Mined, miner: Miner, wanted: int, written: list[str]) -> dict[str, Any]:
    """The report for programs."""
    return {
        "pipeline": miner.pipeline.name,
        "images": {
            "wanted": wanted,
            "asked": mined.queried - len(mined.skipped),
            "skipped": [{"image": name, "reason": reason} for name, reason in mined.skipped],
        },
        "candidates": mined.candidates,
        "rejected": mined.rejected,
        "over per-image": mined.capped,
        "images in pairs": mined.images,
        "pairs": [{"a": miner.name(p.a), "b": miner.name(p.b), "inliers": p.inliers} for p in mined.pairs],
        "stopped": mined.stopped,
        "wrote": written,
    }
