"""The options of `instsearch query`: what is asked, of whom, and where the answer goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import check_outside

if TYPE_CHECKING:
    from instsearch_cli.commands.common_outputs import Outputs

FILE = click.Path(path_type=Path)
STREAM = Path("-")
FILES = {name: f"--{name.replace('_', '-')}" for name in ("csv", "html", "sheet", "annotations", "trec")}
FILES |= {"archive": "--zip", "save_session": "--save-session", "out": "--out"}
"""The flags of files to write, by their options."""
WORDS = {"assignments": "--set", "crop_query": "--crop-query", "weigh_query": "--weigh-query"}
"""The flags of what a session has no room for, by their options."""


def as_one(names: tuple[str, ...]) -> str | None:
    """The name of several pipelines that are asked as one; None of none."""
    from instsearch_cli.engine.pipeline import SEPARATOR

    return SEPARATOR.join(names) or None


question_options = common.stack(
    click.option(
        "--index",
        "index_paths",
        multiple=True,
        envvar="INSTSEARCH_INDEX",
        type=FILE,
        help="Folder of the index (default: the one that INSTSEARCH_INDEX names). Repeatable: several are asked "
        "together, where their pipelines are alike and learn nothing from the photographs, as the default's.",
    ),
    click.option(
        "--box",
        "boxes",
        multiple=True,
        help="x,y,w,h in pixels of the upright picture; without it the whole picture. Repeatable: several views of "
        "one object.",
    ),
    click.option(
        "--also",
        multiple=True,
        metavar="IMAGE[:x,y,w,h]",
        help="Another view of the same object; of each photograph the view that fits best counts. Repeatable.",
    ),
    click.option(
        "--not",
        "against",
        multiple=True,
        metavar="IMAGE[:x,y,w,h]",
        help="What the object is not: what fits it better is no hit, what fits it somewhat counts less. Repeatable.",
    ),
    click.option(
        "--session",
        type=FILE,
        help="Ask what --save-session, or the page, saved; other options have their say over it.",
    ),
    click.option(
        "--batch",
        type=FILE,
        help="Ask many questions: a table (columns image, box or x,y,w,h, id, also, not), JSON lines (- from "
        "standard input), or a folder of pictures.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Processes that answer a batch (default: one a core, 4 at most), or workers of --engine ray.",
    ),
    common.engine_option,
    common.quiet_option,
    click.option(
        "-k", "--hits", "k", default=20, show_default=True, type=click.IntRange(min=1), help="How many hits."
    ),
    click.option(
        "--per-image",
        default=1,
        show_default=True,
        type=click.IntRange(min=0),
        help="Hits that an image may give, each with its box; 0 for every region that scores.",
    ),
    click.option(
        "--min-score",
        type=common.Number(),
        metavar="P",
        help="Hits that score less are none: JSON, CSV, copies and paths leave them out, the table, page and sheet "
        "show them below a line (default: the pipeline's; the line is at 0.5 without).",
    ),
    click.option(
        "--pipeline",
        "pipeline_name",
        multiple=True,
        callback=lambda _, __, names: as_one(names),
        metavar="NAME",
        help="Which of the index's pipelines (default: the last). Repeatable: they are asked as one, their hits in one "
        "list by what all say of an image; NAME+NAME is the same.",
    ),
    common.rerank_option,
    common.refine_option,
    common.weigh_query_option,
    common.crop_query_option,
    common.set_option,
    common.weights_option,
    common.device_option,
)

answer_options = common.stack(
    click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON (schema 2)."),
    click.option(
        "--paths0",
        is_flag=True,
        help="Print the hits' paths, each once and ended by a NUL byte, for xargs -0.",
    ),
    click.option("--csv", type=FILE, help="Write a table for spreadsheets; - for standard output."),
    click.option("--html", type=FILE, help="Write one self-contained page; - for standard output."),
    click.option("--sheet", type=FILE, help="Write a PNG contact sheet."),
    click.option("--annotations", type=FILE, help="Write W3C web annotations (JSON-LD), one a hit."),
    click.option("--trec", type=FILE, help="Write a TREC run."),
    click.option("--zip", "archive", type=FILE, help="Write a zip archive of the hits' photographs."),
    click.option(
        "--copy-to",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Copy the hits' photographs into a new or empty folder.",
    ),
    click.option(
        "--copy-as",
        type=click.Choice(("copy", "link", "drawn")),
        default="copy",
        show_default=True,
        help="As they are, as links to them, or as JPEGs with the hits' boxes drawn.",
    ),
    click.option("--save-session", type=FILE, help="Write the question with its pictures, for --session."),
    click.option(
        "-o",
        "--out",
        type=FILE,
        help="JSON lines of a batch into a file; what it has answers to already is not asked again.",
    ),
)


def given(ctx: click.Context, name: str) -> bool:
    """Whether an option is on the command line, or in the environment."""
    from click.core import ParameterSource

    return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def check(ctx: click.Context, image: Path | None, options: dict[str, Any]) -> None:
    """Raise UsageError for options that contradict each other, and files that could not be written."""
    ways = {"IMAGE": image, "--batch": options["batch"], "--session": options["session"]}
    named = [way for way, value in ways.items() if value is not None]
    common.usage(bool(named), "name a picture to ask with, or give --batch FILE, or --session FILE")
    common.usage(len(named) < 2, f"{' and '.join(named)} exclude each other: each says what is asked")
    common.usage(
        bool(options["index_paths"]) or options["session"] is not None,
        "give --index, or set INSTSEARCH_INDEX",
    )
    if options["batch"] is not None:
        single = (
            "boxes",
            "also",
            "against",
            "paths0",
            "sheet",
            "annotations",
            "archive",
            "copy_to",
            "save_session",
        )
        words = {"boxes": "--box", "against": "--not", "archive": "--zip"}
        stray = [words.get(name, f"--{name.replace('_', '-')}") for name in single if options[name]]
        common.usage(not stray, f"{', '.join(stray)}: for one question, and --batch asks many")
    else:
        stray = [
            flag for flag, name in (("--out", "out"), ("--workers", "workers")) if options[name] is not None
        ]
        stray = [flag for flag in stray if flag != "--workers" or options["engine"] == "local"]
        common.usage(not stray, f"{' and '.join(stray)}: for --batch")
    streams = {"--json": options["as_json"], "--paths0": options["paths0"]}
    streams |= {f"{FILES[name]} -": options[name] == STREAM for name in ("csv", "html")}
    printed = [flag for flag, on in streams.items() if on]
    common.usage(len(printed) < 2, f"{' and '.join(printed)} exclude each other: both go to standard output")
    common.usage(
        options["copy_to"] is not None or not given(ctx, "copy_as"),
        "--copy-as says how --copy-to copies: give both",
    )
    for name, flag in FILES.items():
        if name not in ("csv", "html"):
            common.usage(options[name] != STREAM, f"{flag} writes a file: name one")
        common.writable(flag, options[name])
    common.disjoint(_read(image, options), outputs(options))
    if options["copy_to"] is not None:
        check_outside(
            outputs({**options, "copy_to": None}), options["copy_to"], "the new folder of --copy-to,"
        )
    changed = ("assignments", "crop_query", "weigh_query")
    stray = [WORDS[name] for name in changed if options[name] not in (None, ())]
    common.usage(
        options["save_session"] is None or not stray,
        f"--save-session: a session does not say {' and '.join(stray)}, and would ask something else: leave one out",
    )


def outputs(options: dict[str, Any]) -> Outputs:
    """What is written, with the flag that names it."""
    return [(flag, options[name]) for name, flag in {**FILES, "copy_to": "--copy-to"}.items()]


def _read(image: Path | None, options: dict[str, Any]) -> list[tuple[str, Path | None]]:
    """The files that are read, with what names them; a session may be saved in its own place."""
    from instsearch_cli.boxes import parse_view

    session = None if options["session"] == options["save_session"] else options["session"]
    named = [("IMAGE", image), ("--session", session), ("--batch", options["batch"])]
    named.append(("--weights", options["weights"]))
    views = [
        (flag, text) for flag, key in (("--also", "also"), ("--not", "against")) for text in options[key]
    ]
    named += [(flag, Path(parse_view(text, flag)[0])) for flag, text in views]
    return [(flag, path) for flag, path in named if path != STREAM]
