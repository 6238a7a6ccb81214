"""The command line: verbs imported when they are used, and the one place where errors become words."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli import __version__
from instsearch_cli.errors import DISK, legible
from instsearch_cli.interrupt import remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

# before NumPy is imported: threads of OpenBLAS with nothing to do sleep, where they would spin for 30 ms each time, a
# fifth of the processor time of a question
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
# likewise of torch and faiss: beside another program a network takes a fifth to a half of the time, alone no more
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

#: commands that leave nothing to go on from
READERS = frozenset({"query", "estimate", "show", "verify", "serve", "box"})
LONGEST = 1_000  #: characters of a line that says what is wrong
COMMANDS = {
    "extract": "Extract local features and keep them.",
    "index": "Make a folder of photographs searchable.",
    "query": "Find the object in a box.",
    "serve": "Open a page to draw boxes on, and answer over HTTP.",
    "box": "Draw a box on a picture, and print it.",
    "eval": "Measure retrieval on a dataset.",
    "saliency": "Measure saliency maps against eye fixations or annotated objects.",
    "reproduce": "Measure a paper's tables again.",
    "classes": "Print what a network takes pictures for.",
    "pairs": "Find matching images to learn from.",
    "adapt": "Learn an encoder anew from matching images.",
    "estimate": "Say what indexing and asking many images will take.",
    "train": "Train a network on your own data.",
    "add": "Add images to an index.",
    "sync": "Bring an index to what its folders hold now.",
    "remove": "Remove images from an index.",
    "restore": "Bring back images that were removed.",
    "relocate": "Tell an index that its photographs moved.",
    "info": "Show what an index holds and what made it.",
    "verify": "Read every byte of an index and check it.",
    "gc": "Remove what no recorded pipeline uses.",
    "export": "Write a layer to a file of numpy arrays.",
    "show": "Draw regions, weights and words of an image, and how they came about.",
    "demo": "Draw scenes, index them, find objects in them.",
    "plugins": "List every component on offer.",
    "presets": "List the named pipelines.",
    "weights": "List network weights, import published ones.",
}


class Lazy(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in super().list_commands(ctx) if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"instsearch_cli.commands.{cmd_name}")
            command: click.Command = module.command
            return command
        if not self.commands:
            _add_plugin_commands(self)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from instsearch_cli.errors import UsageError, nearest

            raise UsageError(f"no command '{args[0]}'.{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _add_plugin_commands(self)
        rows = list(COMMANDS.items())
        rows += [(name, c.get_short_help_str(80)) for name, c in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _add_plugin_commands(group: click.Group) -> None:
    from instsearch_cli.engine.strangers import strangers_installed

    if strangers_installed():
        from instsearch_cli.engine.registry import load_registry

        load_registry().add_commands(group)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Visual instance search: find the very object in a box, and where it is.

    \b
    instsearch index PHOTOS --index my-index
    instsearch query picture.jpg --box 120,80,200,150 --index my-index --html hits.html

    Exit status: 0 done, 1 an error, 2 wrong usage, 3 an index that another run is writing to, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 an error in one or two lines, 2 wrong usage, 3 index in use, 130 Ctrl-C."""
    _stand_in()
    status = run(list(sys.argv[1:] if arguments is None else arguments))
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others and not any(thread.daemon for thread in others):
        sys.exit(status)
    # not as Python ends: it takes a tenth of a second to take apart what was imported, and waits for ever for a lock of
    # HDF5's that a daemon holds
    if not others:
        atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        _flush()
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run the program; returns the exit status. ``--debug``, anywhere, shows the traceback of an error.

    With ``--json`` an error is printed as JSON on standard output, too: {"error", "status"}.
    """
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        status, text = _run(arguments, debug)
    except BrokenPipeError:
        _discard()
        return 1
    if text:
        text = "\n".join(map(_brief, text.split("\n")))
        _print(text, status)
        if {"--json", "-j"} & set(arguments):
            try:
                print(json.dumps({"error": text, "status": status}), flush=True)
            except OSError:  # that may be the error
                _discard()
    return status


def _run(arguments: list[str], debug: bool) -> tuple[int, str]:
    """The exit status, and in words what went wrong."""
    try:
        with remembered(), warnings.catch_warnings():
            warnings.showwarning = _warn if not debug else warnings.showwarning
            result = cli.main(args=arguments, prog_name="instsearch", standalone_mode=False)
            _flush()
        return (result if isinstance(result, int) else 0), ""
    except click.exceptions.Exit as done:
        return done.exit_code, ""
    except (click.Abort, KeyboardInterrupt):
        more = "; what was finished is kept, the same command goes on from there"
        return 130, "stopped" if READERS.intersection(arguments[:1]) else f"stopped{more}"
    except click.ClickException as error:
        if debug:
            raise
        context = getattr(error, "ctx", None)
        where = f" See `{context.command_path} --help`." if context else ""
        envvar = error.param.envvar if isinstance(error, click.MissingParameter) and error.param else None
        where = f" Or set {envvar}.{where}" if envvar else where
        return error.exit_code, error.format_message() + where
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        return _in_words(error)


def _in_words(error: Exception) -> tuple[int, str]:
    """The exit status, and one or two lines."""
    from instsearch_cli.errors import InstsearchError

    text = str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        where = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror}{where}. Run the same command again when that is mended."
    elif (
        not isinstance(error, InstsearchError)
        and type(error).__module__.split(".")[0] != "instsearch_formats"
    ):
        notes = "; ".join(getattr(error, "__notes__", []))
        text = f"{type(error).__name__}: {text}" + (f" ({notes})" if notes else "")
        text = " ".join(text.split())[:500] + "\nThis is a bug, here or in a plugin: --debug shows where."
    return getattr(error, "exit_status", 1), text


def _stand_in() -> None:
    """Give the null device for standard streams that were closed, as by ``2>&-``: no other file gets their number."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _flush() -> None:
    """Write what is still to be written."""
    sys.stdout.flush()
    sys.stderr.flush()


def _discard() -> None:
    """What standard output does not take is not tried once more as the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning as one line on stderr, without the line of code that it comes from."""
    print(f"warning: {legible(str(message))}", file=sys.stderr)


def _brief(line: str) -> str:
    """A line that a name without end, from a file that somebody else made, does not fill a screen with."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 200]} … {line[-190:]}"


def _print(text: str, status: int) -> None:
    text = legible(text)
    if status == 130:
        print(f"\n{text}", file=sys.stderr)
        return
    style = "\033[31merror:\033[0m" if sys.stderr.isatty() else "error:"
    print(f"{style} {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
