"""`instsearch query`: the object in the box, wherever it is in the collection."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common, query_batch
from instsearch_cli.commands.common_outputs import check_unindexed, check_unread
from instsearch_cli.commands.query_options import (
    STREAM,
    answer_options,
    check,
    given,
    outputs,
    question_options,
)

if TYPE_CHECKING:
    from instsearch_cli.engine.answer import Answer
    from instsearch_cli.engine.session import Index
    from instsearch_cli.engine.session_file import Session


@common.command("query")
@click.argument("image", required=False, type=click.Path(path_type=Path))
@question_options
@answer_options
@click.pass_context
def command(ctx: click.Context, /, image: Path | None, **options: Any) -> None:
    """Rank the indexed photographs by whether they show what is in the box of IMAGE, and say where.

    IMAGE is any picture, in the index or not; - reads one from standard input. With a pipeline that ends in the
    reranker verdict scores are probabilities, and a line parts what is more likely the object than not from the rest;
    --min-score puts it elsewhere. That nothing reaches it is an answer, no error: the exit status is 0.

    --batch asks many questions: JSON lines on standard output, or into files with --out, --csv, --html and --trec; the
    exit status is 1 where a question could not be asked.

    \b
    instsearch query front.jpg --box 120,80,200,150 --also back.jpg:40,60,220,160 --not lookalike.jpg
    instsearch query --batch boxes.csv --out answers.jsonl
    """
    check(ctx, image, options)
    if options["batch"] is not None:
        ctx.exit(query_batch.run(options["batch"], options))
    from instsearch_cli.report.results import check_empty

    session = asked_for(ctx, image, options)
    indexes = [common.open_index(path, options) for path in options["index_paths"]]
    check_unindexed(outputs(options), indexes)
    if options["copy_to"] is not None:
        check_empty(options["copy_to"])
    seen = (view.picture.path for view in (*session.views, *session.against))
    check_unread(outputs(options), filter(None, seen), "the question")
    answer = search(session, indexes, options)
    if options["save_session"] is not None:
        from instsearch_cli.engine.session_file import write_session
        from instsearch_cli.outside.files import write_text

        pipeline = answer.pipeline if len(indexes) == 1 else session.pipeline
        write_text(options["save_session"], write_session(replace(session, pipeline=pipeline)))
    written = write(answer, indexes, options)
    show(answer, written, options)


def asked_for(ctx: click.Context, image: Path | None, options: dict[str, Any]) -> Session:
    """What is asked, as a session. Of a saved one the options become what it says, where they are not given."""
    from instsearch_cli.boxes import parse_box, parse_view
    from instsearch_cli.engine.session_file import SavedPicture, SavedView, Session, embedded, read_session
    from instsearch_cli.images.reading import MAX_BYTES

    @functools.cache
    def picture(name: str) -> SavedPicture:
        if name == str(STREAM):
            return SavedPicture("standard input", None, sys.stdin.buffer.read(MAX_BYTES + 1))
        return embedded(Path(name)) if options["save_session"] is not None else SavedPicture(name, Path(name))

    boxes = [parse_box(box) for box in options["boxes"]]
    also, against = (
        tuple(
            SavedView(picture(name), box) for name, box in (parse_view(text, flag) for text in options[key])
        )
        for key, flag in (("also", "--also"), ("against", "--not"))
    )
    if image is not None:
        first = tuple(SavedView(picture(str(image)), box) for box in boxes or (None,))
        session = Session((*first, *also), against)
    else:
        session = read_session(options["session"])
        _take_over(ctx, session, options)
        own = session.views[0].picture
        first = tuple(view for view in session.views if view.picture == own)
        others = tuple(view for view in session.views if view.picture != own)
        if boxes:
            first = tuple(SavedView(own, box) for box in boxes)
        session = replace(session, views=(*first, *(also or others)), against=against or session.against)
    return replace(
        session,
        indexes=tuple(Path(os.path.abspath(path)) for path in options["index_paths"]),  # noqa: PTH100
        pipeline=options["pipeline_name"],
        rerank=tuple(options["rerank"]) or None,
        **{name: options[name] for name in ("refine", "k", "per_image", "min_score")},
    )


def _take_over(ctx: click.Context, session: Session, options: dict[str, Any]) -> None:
    """What a session says of how to ask, where the command line does not."""
    for name in ("k", "per_image", "min_score"):
        if not given(ctx, name):
            options[name] = vars(session)[name]
    if not options["rerank"] and not options["refine"]:
        options["rerank"] = ("none",) if session.rerank == () else session.rerank or ()
        options["refine"] = session.refine
    options["pipeline_name"] = options["pipeline_name"] or session.pipeline
    options["index_paths"] = options["index_paths"] or session.indexes
    common.usage(bool(options["index_paths"]), "the session names no index: give --index")


def search(session: Session, indexes: list[Index], options: dict[str, Any]) -> Answer:
    """Ask the index, and say on stderr what one should know about the answer."""
    from instsearch_cli.engine import together

    query_batch.warn_unsearchable(indexes, options)
    question = session.question()
    wishes = query_batch.wishes_of(options)
    who = {name: options[name] for name in ("engine", "workers")}
    answer = together.query(indexes, **question, **wishes, **who)
    for caution in answer.cautions:
        common.echo(f"warning: {caution}", err=True)
    return answer


def write(answer: Answer, indexes: list[Index], options: dict[str, Any]) -> list[object]:
    """Write the files that are wanted; returns what to say of them."""
    from instsearch_cli import report
    from instsearch_cli.engine import together
    from instsearch_cli.engine.answer import counted
    from instsearch_cli.outside.files import write_text

    written: list[object] = []
    if options["html"] not in (None, STREAM):
        choice = common.choice(options)
        besides = together.besides(indexes, answer, pipeline=options["pipeline_name"], **choice)
        report.write_page(answer, options["html"], besides)
        written.append(options["html"])
    if options["sheet"] is not None:
        report.write_sheet(answer, options["sheet"])
        written.append(options["sheet"])
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: report.to_csv(answer),
        "annotations": lambda: json.dumps(report.to_annotations(answer), indent=1) + "\n",
        "trec": lambda: report.to_trec(answer),
    }
    for name, text in texts.items():
        if options[name] not in (None, STREAM):
            write_text(options[name], text())
            written.append(options[name])
    if options["save_session"] is not None:
        written.append(options["save_session"])
    copies = []
    if options["archive"] is not None:
        copies.append((options["archive"], report.to_zip(answer, options["archive"])))
    if options["copy_to"] is not None:
        copies.append((options["copy_to"], report.copy_hits(answer, options["copy_to"], options["copy_as"])))
    for where, (n, failed) in copies:
        for line in failed:
            common.echo(f"warning: not copied: {line}", err=True)
        written.append(f"{counted(n, 'photograph')} into {where}")
    return written


def show(answer: Answer, written: list[object], options: dict[str, Any]) -> None:
    """Print the answer in the form that is wanted."""
    from instsearch_cli import report
    from instsearch_cli.report.page import page

    if options["as_json"]:
        common.echo(json.dumps(report.to_json(answer)))
    elif options["paths0"]:
        sys.stdout.flush()
        for path in dict.fromkeys(hit.path for hit in answer):
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        if answer.min_score is not None and not answer.found:
            common.echo(answer.summary, err=True)
    elif options["csv"] == STREAM:
        common.emit(report.to_csv(answer))
    elif options["html"] == STREAM:
        common.emit(page(answer))
    else:
        for line in question_lines(answer):
            common.echo(line, err=True)
        report.print_table(answer)
        for what in written:
            common.echo(f"wrote {what}")


def question_lines(answer: Answer) -> Iterator[str]:
    """What was asked for, as it was understood; and how to ask for a part of a picture that was asked for whole."""
    from instsearch_cli.report.results import view_lines

    yield from view_lines(answer)
    if answer.box is None and answer.size and not answer.also and (box := common.middle(*answer.size)):
        yield f"for one object in it give its box, x,y,w,h: --box {box} is its middle"
