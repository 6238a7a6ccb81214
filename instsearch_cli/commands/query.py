"""`instsearch query`: the object in the box, wherever it is in the collection."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.engine.answer import Answer


@click.command("query")
@click.argument("image", type=click.Path(path_type=Path))
@common.index_option
@click.option("--box", help="x,y,w,h in pixels of the upright picture; without it the whole picture.")
@click.option(
    "-k", "--hits", "k", default=20, show_default=True, type=click.IntRange(min=1), help="How many hits."
)
@click.option(
    "--per-image",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Hits that an image may give, each with its box; 0 for every region that scores.",
)
@click.option(
    "--min-score",
    type=float,
    metavar="P",
    help="Leave out hits that score less, and say so where none is left (default: the pipeline's).",
)
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@common.rerank_option
@common.refine_option
@common.weigh_query_option
@common.crop_query_option
@common.set_option
@common.weights_option
@common.device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--paths0", is_flag=True, help="Print the hits' paths, each once and ended by a NUL byte, for xargs -0."
)
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG contact sheet.")
def command(
    image: Path,
    index_path: Path,
    box: str | None,
    k: int,
    as_json: bool,
    paths0: bool,
    html: Path | None,
    sheet: Path | None,
    **options: Any,
) -> None:
    """Rank the indexed photographs by whether they show what is in the box of IMAGE, and say where.

    With a pipeline that ends in the reranker verdict scores are probabilities, and --min-score 0.5 gives what is more
    likely the object than not. That nothing scores as much is an answer, no error: the exit status is 0.
    """
    common.usage(not (as_json and paths0), "--json and --paths0 exclude each other")
    low = options["min_score"]
    common.usage(low is None or low == low, "--min-score is a number")
    from instsearch_cli import report
    from instsearch_cli.boxes import parse_box

    parsed = parse_box(box) if box is not None else None
    answer = search(image, parsed, index_path, k, options)
    if html is not None:
        report.write_page(answer, html)
    if sheet is not None:
        report.write_sheet(answer, sheet)
    if as_json:
        click.echo(json.dumps(report.to_json(answer)))
    elif paths0:
        sys.stdout.flush()
        for path in dict.fromkeys(hit.path for hit in answer):
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        if answer.min_score is not None and not answer.found:
            click.echo(answer.summary, err=True)
    else:
        report.print_table(answer)
        for written in (html, sheet):
            if written is not None:
                click.echo(f"wrote {written}")


def search(
    image: Path,
    box: tuple[float, float, float, float] | None,
    index_path: Path,
    k: int,
    options: dict[str, Any],
) -> Answer:
    """Ask the index, and say on stderr what one should know about the answer."""
    index = common.open_index(index_path, options)
    name, arguments = options["pipeline_name"], common.choice(options)
    engine = index.engine(name, **arguments)
    if engine.unsearchable:
        click.echo(
            f"warning: {engine.unsearchable:,} images are not searchable yet with pipeline "
            f"'{engine.assembly.pipeline.name}': run `instsearch index --index {index_path}`",
            err=True,
        )
    least, several = options["min_score"], options["per_image"]
    answer = index.query(image, box, k, pipeline=name, per_image=several, min_score=least, **arguments)
    for caution in answer.cautions:
        click.echo(f"warning: {caution}", err=True)
    return answer
