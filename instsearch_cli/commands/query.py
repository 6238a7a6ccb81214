"""`instsearch query`: the object in the box, wherever it is in the collection."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.engine.answer import XYWH, Answer

STREAM = Path("-")


@common.command("query")
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--index",
    "index_paths",
    required=True,
    multiple=True,
    envvar="INSTSEARCH_INDEX",
    type=click.Path(path_type=Path),
    help="Folder of the index (default: the one that INSTSEARCH_INDEX names). Repeatable: several are asked together, "
    "where their pipelines are alike and learn nothing from the photographs, as the default's.",
)
@click.option(
    "--box",
    "boxes",
    multiple=True,
    help="x,y,w,h in pixels of the upright picture; without it the whole picture. Repeatable: several views of one "
    "object.",
)
@click.option(
    "--also",
    multiple=True,
    metavar="IMAGE[:x,y,w,h]",
    help="Another view of the same object; of each photograph the view that fits best counts. Repeatable.",
)
@click.option(
    "--not",
    "against",
    multiple=True,
    metavar="IMAGE[:x,y,w,h]",
    help="What the object is not: a photograph that agrees as well with it is no hit. Repeatable.",
)
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
    help="Hits that score less are none: JSON, CSV, copies and paths leave them out, the table, page and sheet show "
    "them below a line (default: the pipeline's; the line is at 0.5 without).",
)
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@common.rerank_option
@common.refine_option
@common.weigh_query_option
@common.crop_query_option
@common.set_option
@common.weights_option
@common.device_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON (schema 2).")
@click.option(
    "--paths0", is_flag=True, help="Print the hits' paths, each once and ended by a NUL byte, for xargs -0."
)
@click.option(
    "--csv", type=click.Path(path_type=Path), help="Write a table for spreadsheets; - for standard output."
)
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write one self-contained page; - for standard output."
)
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG contact sheet.")
@click.option(
    "--copy-to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Copy the hits' photographs into a new or empty folder.",
)
def command(
    image: Path,
    index_paths: tuple[Path, ...],
    boxes: tuple[str, ...],
    also: tuple[str, ...],
    against: tuple[str, ...],
    k: int,
    as_json: bool,
    paths0: bool,
    csv: Path | None,
    html: Path | None,
    sheet: Path | None,
    copy_to: Path | None,
    **options: Any,
) -> None:
    """Rank the indexed photographs by whether they show what is in the box of IMAGE, and say where.

    IMAGE is any picture, in the index or not; - reads one from standard input. With a pipeline that ends in the
    reranker verdict scores are probabilities, and a line parts what is more likely the object than not from the rest;
    --min-score puts it elsewhere. That nothing reaches it is an answer, no error: the exit status is 0.

    \b
    instsearch query front.jpg --box 120,80,200,150 --also back.jpg:40,60,220,160 --not lookalike.jpg
    """
    streams = {"--json": as_json, "--paths0": paths0, "--csv -": csv == STREAM, "--html -": html == STREAM}
    printed = [flag for flag, given in streams.items() if given]
    common.usage(len(printed) < 2, f"{' and '.join(printed)} exclude each other: both go to standard output")
    low = options["min_score"]
    common.usage(low is None or low == low, "--min-score is a number")
    for flag, path in (("--csv", csv), ("--html", html), ("--sheet", sheet)):
        common.writable(flag, path)
    from instsearch_cli import report
    from instsearch_cli.boxes import parse_box, parse_view
    from instsearch_cli.report.page import page
    from instsearch_cli.report.results import write_text

    parsed = [parse_box(box) for box in boxes]
    views = {
        "also": [parse_view(text, "--also") for text in also],
        "against": [parse_view(text, "--not") for text in against],
    }
    answer = search(image, parsed, views, index_paths, k, options)
    written: list[object] = []
    if html not in (None, STREAM):
        report.write_page(answer, html)
        written.append(html)
    if sheet is not None:
        report.write_sheet(answer, sheet)
        written.append(sheet)
    if csv not in (None, STREAM):
        write_text(csv, report.to_csv(answer))
        written.append(csv)
    if copy_to is not None:
        n, failed = report.copy_hits(answer, copy_to)
        for line in failed:
            click.echo(f"warning: not copied: {line}", err=True)
        written.append(f"{n:,} photographs into {copy_to}")
    if as_json:
        click.echo(json.dumps(report.to_json(answer)))
    elif paths0:
        sys.stdout.flush()
        for path in dict.fromkeys(hit.path for hit in answer):
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        if answer.min_score is not None and not answer.found:
            click.echo(answer.summary, err=True)
    elif csv == STREAM:
        common.emit(report.to_csv(answer))
    elif html == STREAM:
        common.emit(page(answer))
    else:
        for line in question_lines(answer):
            click.echo(line, err=True)
        report.print_table(answer)
        for what in written:
            click.echo(f"wrote {what}")


def search(
    image: Path,
    boxes: list[XYWH],
    views: dict[str, list[tuple[str, XYWH | None]]],
    index_paths: Sequence[Path],
    k: int,
    options: dict[str, Any],
) -> Answer:
    """Ask the index, and say on stderr what one should know about the answer."""
    from instsearch_cli.engine import together
    from instsearch_cli.images import Photograph, read_stream

    name, arguments = options["pipeline_name"], common.choice(options)
    indexes = [common.open_index(path, options) for path in index_paths]
    for index in indexes:
        engine = index.engine(name, **arguments)
        if engine.unsearchable:
            click.echo(
                f"warning: {engine.unsearchable:,} images are not searchable yet with pipeline "
                f"'{engine.assembly.pipeline.name}': run `instsearch index --index {index.path}`",
                err=True,
            )
    least, several = options["min_score"], options["per_image"]

    @functools.cache
    def read(image: str) -> Photograph | str:
        return read_stream(sys.stdin.buffer, "standard input") if image == str(STREAM) else image

    pairs = {which: [(read(image), box) for image, box in given] for which, given in views.items()}
    asking = {"pipeline": name, "per_image": several, "min_score": least, **pairs, **arguments}
    answer = together.query(indexes, read(str(image)), boxes or None, k, **asking)
    for caution in answer.cautions:
        click.echo(f"warning: {caution}", err=True)
    return answer


def question_lines(answer: Answer) -> Iterator[str]:
    """What was asked for, as it was understood; and how to ask for a part of a picture that was asked for whole."""
    from instsearch_cli.report.results import view_lines

    yield from view_lines(answer)
    if answer.box is None and answer.size is not None and not answer.also:
        w, h = answer.size
        yield f"for one object in it give its box, x,y,w,h: --box {w // 4},{h // 4},{w // 2},{h // 2} is its middle"
