"""What several verbs share: their options, opening an index, saying what a run did."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from instsearch_cli.errors import UsageError, legible, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from instsearch_cli.engine.making import Indexed
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.engine.session import Index

Command = TypeVar("Command", bound="Callable[..., Any]")

CHOOSING: tuple[str, ...] = ("preset", "extractor", "weighting", "detector", "encoder", "searcher", "refine")
CHOOSING += ("fit_on", "weigh_query", "crop_query", "weights")
"""Flags that say which pipeline, by the names that ``Choice`` has for them; --rerank and --set beside them."""
WORKING = ("engine", "workers", "gpus_a_worker", "through")
"""Flags that say who works, by the names that the methods of an index have for them."""


def echo(text: str, err: bool = False, nl: bool = True) -> None:
    """Say something; what names and texts from elsewhere hold moves no cursor and changes no colour."""
    click.echo(legible(text), err=err, nl=nl)


def stack(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, in their order."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class Verb(click.Command):
    """A command that refuses an option given twice, where once is all that it has a meaning for.

    long  it works on many pictures or answers many questions, and uses freed memory again
    """

    def __init__(self, *arguments: Any, long: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.long = long

    def invoke(self, ctx: click.Context) -> Any:
        if self.long:
            from instsearch_cli.engine.memory import reuse_memory

            reuse_memory()
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen = set()
        for parameter in order:
            single = isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.multiple
            if single and parameter in seen:
                raise UsageError(f"{parameter.opts[0]} is given twice: once is all it takes")
            seen.add(parameter)
        return super().parse_args(ctx, args)


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a verb of the command line."""
    return click.command(name, cls=Verb, **settings)


class Number(click.types.FloatParamType):
    """A number; what is none, nan, is refused, which compares with nothing."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _number(self, super().convert(value, param, ctx), param, ctx)


class NumberFrom(click.FloatRange):
    """A number in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _number(self, super().convert(value, param, ctx), param, ctx)


def _number(kind: Any, number: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    if number != number:
        kind.fail(f"{number} is no number.", param, ctx)
    return number


def _wait(ctx: click.Context, parameter: click.Parameter, seconds: float) -> None:
    from instsearch_formats.lock import waiting

    quiet = ctx.params.get("quiet") or ctx.params.get("as_json")
    ctx.with_resource(waiting(seconds, None if quiet else lambda line: echo(line, err=True)))


index_option = click.option(
    "--index",
    "index_path",
    required=True,
    envvar="INSTSEARCH_INDEX",
    type=click.Path(path_type=Path),
    help="Folder of the index (default: the one that INSTSEARCH_INDEX names).",
)
wait_option = click.option(
    "--wait",
    type=NumberFrom(min=0),
    default=0.0,
    metavar="SECONDS",
    expose_value=False,
    callback=_wait,
    help="Wait so long where another run is writing to the index (else: exit status 3).",
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
terse_option = click.option("--quiet", is_flag=True, help="No progress, and no list of single files.")
json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option("--device", default="auto", help="auto, cpu or cuda[:n].", show_default=True)
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="File of network weights (else INSTSEARCH_WEIGHTS)."
)
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="STAGE.OPTION=VALUE", help="Any option of any component."
)
weigh_query_option = click.option(
    "--weigh-query/--no-weigh-query", default=None, help="Weight queries as the collection is (default: no)."
)
crop_query_option = click.option(
    "--crop-query/--no-crop-query",
    default=None,
    help="Describe what is in the box as a picture by itself (default: no).",
)
pipeline_options = stack(
    click.option("--preset", help="Start from a named pipeline or a TOML file (see `instsearch presets`)."),
    click.option("--extractor", help="Network or keypoint detector."),
    click.option("--encoder", help="How local features become codes."),
    click.option("--weighting", help="Saliency or other weights of the local features."),
    click.option("--detector", help="Region detector; none for no regions."),
    click.option("--searcher", help="How codes are searched."),
    click.option(
        "--fit-on",
        metavar="INDEX",
        help="Fit whitening and vocabulary on another index's images; none: on these.",
    ),
    weigh_query_option,
    crop_query_option,
    set_option,
    weights_option,
    device_option,
)
max_remove_option = click.option(
    "--max-remove",
    metavar="N|N%",
    help="Do nothing where more images would be removed: a number, or a percentage of all (default: 10%, and 10 in "
    "any case).",
)
rerank_option = click.option(
    "--rerank",
    multiple=True,
    help="Reranker, in order; repeatable; 'none' for none. Default: the pipeline's.",
)
refine_option = click.option(
    "--refine",
    is_flag=True,
    help="Instead of its rerankers take the pipeline's slower and surer ones, which read images again.",
)
engine_option = click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray|ray://HOST:PORT",
    help="Who works: this process, or workers of Ray, on this machine or a cluster.",
)
engine_options = stack(
    engine_option,
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Workers of Ray at most (default: one a core).",
    ),
    click.option(
        "--gpus-a-worker",
        type=NumberFrom(min=0),
        default=0.0,
        metavar="G",
        help="GPUs of each; 0.5 for two on one.",
    ),
    click.option(
        "--through",
        default="",
        metavar="URL",
        help="Storage that parts go through, s3://bucket/folder say, where workers do not see the index's folder.",
    ),
)
intake_options = stack(
    click.option("--strict", is_flag=True, help="Stop at the first image that cannot be read."),
    click.option("--max-pixels", type=click.IntRange(min=1), default=None, help="Larger images are skipped."),
    click.option(
        "--memory", metavar="SIZE", help="For decoding, 2G or 500M say (default: a quarter of what is free)."
    ),
    click.option("--recheck", is_flag=True, help="Read every file again, whatever its size and times say."),
    click.option("-j", "--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    wait_option,
    quiet_option,
)


def registry() -> Registry:
    """Every plugin; what is wrong with one is a line on stderr."""
    from instsearch_cli.engine.registry import PluginWarning, load_registry

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        loaded = load_registry()
    for warning in caught:
        echo(f"warning: {warning.message}", err=True)
    return loaded


def open_index(path: Path, options: dict[str, Any] | None = None, create: bool = False) -> Index:
    """Open an index, or create it where there is none and ``create`` says so."""
    from instsearch_cli.engine.session import Index
    from instsearch_cli.progress import make_progress

    registry()
    options = options or {}
    progress = make_progress(options.get("quiet", True) or options.get("as_json", False))
    opened = Index.create if create else Index.open
    return opened(path, options.get("device", "auto"), progress)


@contextlib.contextmanager
def index_to_write(path: Path, options: Mapping[str, Any], images: bool) -> Iterator[Index]:
    """An index, created where there is none and images are given; one that gets none is removed again."""
    from instsearch_cli.engine.upkeep import remove_empty
    from instsearch_formats.files import vacant

    new, folder = images and vacant(path), not path.exists()
    index = open_index(path, dict(options), create=images)
    store = index.store
    try:
        yield index
    except BaseException:
        if new:
            remove_empty(store, folder)
        raise


def choice(options: dict[str, Any]) -> dict[str, Any]:
    """What the flags choose, as the methods of an index take it."""
    chosen = {name: options[name] for name in CHOOSING if options.get(name) is not None}
    if rerank := options.get("rerank"):
        chosen["rerank"] = rerank
    return chosen | {"options": tuple(options.get("assignments") or ())}


def taking(options: dict[str, Any]) -> dict[str, Any]:
    """How pictures are taken in, and by whom, as the methods of an index take it."""
    limits = {name: options[name] for name in ("max_pixels", "memory") if options.get(name)}
    working = {name: options[name] for name in WORKING if name in options}
    return {"strict": options["strict"], "recheck": options["recheck"], **limits, **working}


def summary(index: Index, done: Indexed, as_json: bool) -> None:
    """Say what was found, done and skipped; the totals add up."""
    import json

    intake = done.intake
    if as_json:
        echo(json.dumps(done.plain()))
        return
    if intake is not None:
        more = [f"{n} {what}" for what, n in (("changed", intake.changed), ("renamed", intake.renamed)) if n]
        echo(
            f"found {intake.found:,} = indexed {intake.new:,} + already there {intake.there:,} "
            f"+ skipped {len(intake.skipped):,}" + (f" ({', '.join(more)})" if more else "")
        )
        if intake.others:
            echo(others_of(intake.others))
        for name, reason in intake.skipped[:10]:
            echo(f"  skipped {printable(name)}: {printable(reason)}{raised(reason)}")
        if len(intake.skipped) > 10:
            echo(f"  … all {len(intake.skipped):,} with their reasons in {index.path / 'skipped.txt'}")
    summary_of_layers(done)


def raised(reason: str) -> str:
    """How a limit that a picture is over is raised, by an option of ``intake_options``; "" for other reasons."""
    flags = {"too large: ": "--max-pixels", "needs about ": "--memory"}
    return next((f" (raise with {flag})" for start, flag in flags.items() if reason.startswith(start)), "")


def say_last(index: Index, before: str | None) -> None:
    """Say which pipeline is asked from now on where none is named, if it is another than before."""
    if before is not None and index.last != before:
        echo(
            f"pipeline {index.last} is the last now: `query --pipeline {before}` asks the one before",
            err=True,
        )


def summary_of_layers(done: Indexed) -> None:
    """Say what layers were written."""
    from instsearch_cli.progress import duration

    outcome = done.outcome
    if outcome.blank:
        some = ", ".join(map(printable, outcome.blank[:3])) + (", …" if len(outcome.blank) > 3 else "")
        echo(f"{len(outcome.blank):,} without a local feature, which no query finds: {some}")
    for fitted in outcome.fitted:
        echo(f"fitted {fitted}")
    what = ", ".join(f"{kind} {n:,}" for kind, n in outcome.written.items()) or "nothing: all there"
    echo(f"wrote {what} in {duration(done.seconds)}")
    for each in done.beside:
        summary_of_layers(each)


def others_of(n: int) -> str:
    """How many files are other names, in words."""
    return f"{n:,} {'is another name' if n == 1 else 'are other names'} of photographs that are there"


def offline_of(root: str, n: int) -> str:
    """A folder that is away, in words."""

    return f"{n:,} offline: {printable(root)} is not there, or empty"


def next_query(index: Index) -> str:
    """A command that asks an index: for what is in the middle of one of its photographs."""

    rows = [int(row) for row in index.store.images.alive().nonzero()[0][:1000]]
    plain = (row for row in rows if str(path := index.store.images.path(row)) == printable(path))
    row = next(plain, rows[0])
    record, where = index.store.images.record(row), printable(index.store.images.path(row))
    box = middle(record.width, record.height)
    box = f" --box {box}" if box else ""
    return f"instsearch query {shlex.quote(where)}{box} --index {shlex.quote(str(index.path))}"


def middle(width: int, height: int) -> str:
    """The box of a picture's middle; "" where that is no more than a pixel wide or high."""
    return f"{width // 4},{height // 4},{width // 2},{height // 2}" if min(width, height) >= 4 else ""


def writable(flag: str, path: Path | None, *endings: str) -> None:
    """Raise UsageError for a file to write that could not be written, or has none of the endings.

    Standard output, "-", is none where there are endings.
    """
    if path is None or (str(path) == "-" and not endings):
        return
    usage(path.parent.is_dir(), f"{flag}: there is no folder {path.parent}")
    usage(not path.is_dir(), f"{flag}: {path} is a folder; name a file")
    usage(not endings or path.suffix.lower() in endings, f"{flag} {path}: name a {' or '.join(endings)} file")
    there = path if path.exists() else path.parent
    usage(os.access(there, os.W_OK), f"{flag}: {path} cannot be written")


def disjoint(inputs: Iterable[tuple[str, Path | None]], outputs: Iterable[tuple[str, Path | None]]) -> None:
    """Raise UsageError where a flag's file to write is one that is read, or that another flag writes."""
    named: dict[str, str] = {}
    for flag, path in inputs:
        if path is not None:
            named.setdefault(os.path.realpath(path), flag)
    for flag, path in outputs:
        if path is None or str(path) == "-" or (os.path.exists(path) and not os.path.isfile(path)):  # noqa: PTH110, PTH113
            continue
        whose = named.setdefault(os.path.realpath(path), flag)
        usage(whose == flag, f"{flag}: {printable(path)} is the file of {whose}, too: name another")


def emit(text: str) -> None:
    """Write text to standard output as UTF-8, whatever a terminal's letters are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()


def usage(condition: bool, message: str) -> None:
    """Raise UsageError unless the condition holds."""
    if not condition:
        raise UsageError(message)
