"""`instsearch query`: the object in the box, wherever it is in the collection."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from instsearch_cli.data import Query
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.report import Result


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
    from instsearch_cli.boxes import parse_box

    parsed = parse_box(box) if box is not None else None
    result = search(image, parsed, index_path, k, options)
    from instsearch_cli import report

    if html is not None:
        report.write_page(result, html)
    if sheet is not None:
        report.write_sheet(result, sheet)
    if as_json:
        click.echo(json.dumps(report.to_json(result)))
    elif paths0:
        sys.stdout.flush()
        for path in dict.fromkeys(hit.path for hit in result.hits):
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        if result.min_score is not None and not result.hits:
            click.echo(result.summary, err=True)
    else:
        report.print_table(result)
        for written in (html, sheet):
            if written is not None:
                click.echo(f"wrote {written}")


def search(
    image: Path,
    box: tuple[float, float, float, float] | None,
    index_path: Path,
    k: int,
    options: dict[str, Any],
) -> Result:
    """Open the index, encode the picture, rank: the whole of a query."""
    from instsearch_cli.boxes import clip_box
    from instsearch_cli.engine.query import Engine
    from instsearch_cli.errors import InstsearchError
    from instsearch_cli.images import BadImage, printable, read_header
    from instsearch_cli.report import Hit, Result

    index = common.open_index(index_path)
    known = common.registry()
    pipeline = common.recorded_pipeline(index, options["pipeline_name"])
    pipeline = common.reranked(pipeline, options["rerank"], options).with_options(options["assignments"])
    pipeline = common.with_query_as_asked(pipeline, options)
    if options["weights"] is not None:
        pipeline = pipeline.with_options([f"extractor.weights={options['weights'].resolve()}"])
    try:
        header = read_header(image)
    except BadImage as error:
        raise InstsearchError(f"{printable(image)}: {error.reason}") from error
    clipped = clip_box(box, (header.width, header.height)) if box is not None else None
    engine = Engine(index, common.assemble(pipeline, known, options["device"]))
    if engine.unsearchable:
        click.echo(
            f"warning: {engine.unsearchable:,} images are not searchable yet with pipeline '{pipeline.name}': "
            f"run `instsearch index --index {index_path}`",
            err=True,
        )
    began = time.perf_counter()
    query = replace(engine.query(str(image), image, clipped), per_image=options["per_image"])
    _warn_few(query, engine)
    hits = engine.search([query], k)
    seconds = time.perf_counter() - began
    asked = options["min_score"]
    min_score = engine.min_score if asked is None else asked
    n = hits.valid(0)
    scores = hits.scores[0, :n].tolist()
    shown = []
    for rank, score in enumerate(scores):
        if min_score is not None and score < min_score:
            continue
        row, where = int(hits.images[0, rank]), hits.boxes[0, rank]
        found = None if bool((where != where).any()) else tuple(float(v) for v in where)
        shown.append(
            Hit(rank + 1, index.images.name(row), index.images.path(row), score, found)  # type: ignore[arg-type]
        )
    settings = {stage: _words(value) for stage, value in pipeline.plain().items() if stage != "name"}
    return Result(
        query=str(image),
        query_path=image,
        query_box=clipped,
        hits=tuple(shown),
        settings={"pipeline": pipeline.name, **settings},
        seconds=seconds,
        n_images=len(engine.data.images),
        min_score=min_score,
        best=max(scores, default=None),
    )


def _warn_few(query: Query, engine: Engine) -> None:
    """Say that a query has fewer keypoints than a reranker must see again in a hit."""
    from instsearch_cli.data import Keypoints
    from instsearch_cli.engine.query import keypoints_in

    if not isinstance(query.features, Keypoints):
        return
    n = keypoints_in(query.box, query.features)
    for part in engine.assembly.rerankers:
        if n < (least := getattr(part.config, "min_inliers", 0)):
            click.echo(
                f"warning: {n} keypoint{'s' * (n != 1)} in the {'box' if query.box else 'picture'}, and reranker "
                f"'{part.offer.spec.name}' verifies no hit by fewer than {least}: take a larger box, or an index made "
                "with a network (--extractor squeezenet1_0)",
                err=True,
            )


def _words(stage: Any) -> str:
    """A stage in one line: name and options."""
    if isinstance(stage, dict):
        options = ", ".join(f"{k}={v}" for k, v in stage["options"].items())
        return f"{stage['name']} ({options})" if options else str(stage["name"])
    if isinstance(stage, (list, tuple)):
        return ", then ".join(_words(s) for s in stage)
    return str(stage)
