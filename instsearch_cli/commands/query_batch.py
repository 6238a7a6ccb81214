"""`instsearch query --batch FILE`: many questions, an answer a line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import check_unindexed, check_unread
from instsearch_cli.commands.query_options import STREAM, outputs
from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from instsearch_cli.engine.batch_file import Entry
    from instsearch_cli.report.batch import Line, Sink


class Stopped(InstsearchError):  # noqa: N818
    """Ctrl-C in a batch that can be gone on with."""

    exit_status = 130


def run(batch: Path, options: dict[str, Any]) -> int:
    """Ask what a file has, and write the answers. Returns the exit status: 1 where a question had no answer."""
    from instsearch_cli.engine.answer import counted
    from instsearch_cli.engine.batch import answers, usual_workers
    from instsearch_cli.engine.memory import reuse_memory
    from instsearch_cli.engine.together import check_comparable
    from instsearch_cli.outside.text import shown
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.batch import check_alike, check_asked, line_of, read_back

    reuse_memory()
    entries, out = read(batch), options["out"]
    wishes = wishes_of(options)
    indexes = [common.open_index(path, options) for path in options["index_paths"]]
    check_unindexed(outputs(options), indexes)
    check_unread(outputs(options), _pictures(entries), "--batch")
    check_comparable(indexes, wishes)
    name = warn_unsearchable(indexes, options)
    wished = {key: value for key, value in wishes.items() if key != "pipeline"}
    now = {
        "index": [os.path.realpath(index.path) for index in indexes],
        "pipeline": name,
        "wishes": json.loads(json.dumps(wished, default=str)),
    }
    counts = {"answered": 0, "found": 0, "failed": 0}
    progress = make_progress(options["quiet"])
    with contextlib.ExitStack() as stack:
        sinks = list(_sinks(stack, options, len(entries)))

        def take(line: Line, kept: bool = False) -> None:
            counts["failed" if "error" in line else "answered"] += 1
            counts["found"] += _found(line)
            for sink, again in sinks:
                if again or not kept:
                    sink.add(line)

        before: set[str] = set()
        if out is not None:
            by_id = {entry.id: entry for entry in entries}
            folder = batch if batch.is_dir() else batch.parent
            for line in read_back(out):
                check_alike(line, now, out)
                check_asked(line, by_id.get(line["id"]), folder, out)
                if line["id"] in before:
                    raise InstsearchError(
                        f"{out} has two answers to question {shown(line['id'])}: name another file"
                    )
                before.add(line["id"])
                take(line, kept=True)
        remaining = [entry for entry in entries if entry.id not in before]
        workers = options["workers"] or usual_workers(len(remaining))
        progress.start("asking", len(remaining), "questions")
        try:
            for entry, answer in answers(indexes, remaining, workers, **wishes, engine=options["engine"]):
                take(line_of(entry.id, answer, now))
                progress.advance()
        except KeyboardInterrupt as stop:
            if out is None or not out.is_file():
                raise
            raise Stopped(
                f"stopped; {out} keeps what is answered, the same command goes on from there"
            ) from stop
        finally:
            progress.close()
    total, failed = counts["answered"] + counts["failed"], counts["failed"]
    earlier = f"; {len(before):,} of them before" if before else ""
    common.echo(
        f"{counted(total, 'question')} = {counts['found']:,} found something + "
        f"{counts['answered'] - counts['found']:,} nothing + {failed:,} could not be asked{earlier}",
        err=True,
    )
    return 1 if failed else 0


def read(batch: Path) -> list[Entry]:
    """The questions of a file, a folder or standard input."""
    from instsearch_cli.engine.batch_file import MOST_BYTES, decoded, parse_questions, read_questions

    if batch != STREAM:
        return read_questions(batch)
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    common.usage(len(data) <= MOST_BYTES, f"standard input is larger than {MOST_BYTES >> 20} MB")
    return parse_questions(decoded(data, "standard input"), "standard input")


def _pictures(entries: list[Entry]) -> Iterator[Path]:
    """The pictures that a batch asks with."""
    for entry in entries:
        if not entry.wrong:
            yield entry.question["picture"]
            yield from (picture for key in ("also", "against") for picture, _ in entry.question.get(key, ()))


def wishes_of(options: dict[str, Any]) -> dict[str, Any]:
    """What is wanted of every answer, as :func:`together.query` takes it."""
    wanted = {name: options[name] for name in ("k", "per_image", "min_score")}
    return {**wanted, "pipeline": options["pipeline_name"], **common.choice(options)}


def warn_unsearchable(indexes: list[Any], options: dict[str, Any]) -> str:
    """Say what is not searchable yet; gives the pipeline's name."""
    from instsearch_cli.engine import records
    from instsearch_cli.engine.pipeline import SEPARATOR

    name = ""
    for index in indexes:
        engines = index.engines(options["pipeline_name"], **common.choice(options))
        name = name or SEPARATOR.join(engine.assembly.pipeline.name for engine in engines)
        for engine in engines:
            if engine.unsearchable:
                n, own = engine.unsearchable, engine.assembly.pipeline.name
                common.echo(
                    f"warning: {n:,} {'image is' if n == 1 else 'images are'} not searchable yet with pipeline "
                    f"'{own}': run `{records.renewing(engine.index, own)}`",
                    err=True,
                )
    return name


def _found(line: Line) -> bool:
    hits = line.get("hits", ())
    return any(line["line"] is None or hit["score"] >= line["line"] for hit in hits)


def _sinks(
    stack: contextlib.ExitStack, options: dict[str, Any], questions: int
) -> Iterator[tuple[Sink, bool]]:
    """What takes the answers, and whether it takes those of an earlier run again."""
    from instsearch_cli.report.batch import JsonLines, Page, Run, Table, appended

    out, csv, html, trec = (options[name] for name in ("out", "csv", "html", "trec"))
    if out is not None:
        yield JsonLines(stack.enter_context(appended(out))), False
    if options["as_json"] or (out, csv, html, trec) == (None,) * 4:
        yield JsonLines(sys.stdout), True
    if csv is not None:
        yield Table(stack.enter_context(_target(csv))), True
    if trec is not None:
        yield Run(stack.enter_context(_target(trec))), True
    if html is not None:
        file = stack.enter_context(_target(html))
        page = Page(file, None if html == STREAM else html.parent, questions)
        stack.push(lambda kind, error, trace: page.close() if kind is None else None)
        yield page, True


@contextlib.contextmanager
def _target(path: Path) -> Iterator[IO[str]]:
    """A file that is there whole or not at all; or standard output, as UTF-8 whatever a terminal's letters are."""
    from instsearch_cli.report.batch import written

    if path != STREAM:
        with written(path) as file:
            yield file
        return
    sys.stdout.flush()
    file = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="", write_through=True)
    try:
        yield file
    finally:
        file.detach()
