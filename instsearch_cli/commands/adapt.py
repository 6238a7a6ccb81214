"""`instsearch adapt`: a pipeline made better for its own collection, by pairs of images that match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.measure.adapting import Adapted


@common.command("adapt")
@click.argument("pairs", type=click.Path(path_type=Path))
@common.index_option
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@click.option(
    "--by", metavar="PIPELINE", help="Find the pairs with this pipeline of keypoints, and write PAIRS."
)
@click.option("--name", help="Name of the new pipeline (default: NAME-adapted).")
@click.option(
    "--held-out",
    default=0.2,
    show_default=True,
    type=common.NumberFrom(min=0, max=1, max_open=True),
    metavar="SHARE",
    help="Of the pairs, to measure by.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of their choice.")
@common.device_option
@common.json_option
@common.quiet_option
def command(pairs: Path, index_path: Path, pipeline_name: str | None, **options: Any) -> None:
    """Learn a pipeline's encoder anew from matching pairs of images, and measure what that is worth.

    PAIRS is a CSV file of two names a line, as `instsearch pairs` writes it; where it is not there yet, --by finds the
    pairs first, without labels. The new pipeline stands beside the old one and is the last from then on. Before and
    after: how often an image of a pair that was held out finds the other first, or among its first ten hits.
    """
    from instsearch_cli.engine.answer import counted
    from instsearch_cli.measure.adapting import adapt
    from instsearch_cli.measure.verbs import pairs as find

    common.usage(
        pairs.is_file() or options["by"], f"there is no {pairs}: name a pipeline of keypoints with --by"
    )
    common.usage(
        not (pairs.exists() and options["by"]), f"{pairs} is there already: leave out --by, or name another"
    )
    common.writable("PAIRS", pairs)
    index = common.open_index(index_path, options)
    index.engine(pipeline_name)  # before minutes are spent on pairs
    if options["by"]:
        found = find(index, pairs, pipeline=options["by"])
        common.echo(
            f"{counted(len(found.pairs), 'pair')} of {counted(found.images, 'image')}, in {pairs}",
            err=options["as_json"],
        )
    how = {name: options[name] for name in ("name", "held_out", "seed")}
    done = adapt(index, pairs, pipeline=pipeline_name, **how)
    if options["as_json"]:
        common.echo(json.dumps(done.plain()))
        return
    common.summary_of_layers(done.indexed)
    for line in words(done):
        common.echo(line)
    common.echo(f"next: {common.next_query(index)}")


def words(done: Adapted) -> Iterator[str]:
    """What was learnt from, and the table of before and after."""
    from instsearch_cli.engine.answer import counted

    yield f"{counted(done.pairs, 'pair')} = learnt from {done.learnt:,} ({done.wrote}) + held out {done.held_out:,}"
    if done.before is None or done.after is None:
        yield "nothing is measured: no pairs could be held out whose images are in none of the others"
        return
    width = max(len(done.of), len(done.pipeline))
    yield f"{'held-out pairs find each other':<{width}}  first  in ten  mean 1/rank"
    width = max(width, len("held-out pairs find each other"))
    for name, found in ((done.of, done.before), (done.pipeline, done.after)):
        yield f"{name:<{width}}  {found.first:5.3f}  {found.within_ten:6.3f}  {found.reciprocal_rank:11.3f}"
