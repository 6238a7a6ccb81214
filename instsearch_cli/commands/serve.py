"""`instsearch serve`: the page and the HTTP interface."""

from __future__ import annotations

import json
import logging
import webbrowser
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("serve")
@click.option(
    "--index",
    "index_paths",
    required=True,
    multiple=True,
    envvar="INSTSEARCH_INDEX",
    type=click.Path(path_type=Path),
    help="Folder of an index (default: the one that INSTSEARCH_INDEX names). Repeatable.",
)
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.option(
    "--port",
    default=7878,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where it listens; 0: any port that is free.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Whom it listens to: this machine alone, or 0.0.0.0 for all that reach it; then give --token.",
)
@click.option(
    "--token", envvar="INSTSEARCH_TOKEN", default="", help="What requests carry (default: drawn anew)."
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME[:PORT]",
    help="A name that the service goes by, behind a proxy say. Repeatable.",
)
@common.device_option
@common.json_option
@click.option("--verbose", is_flag=True, help="Log requests that were refused, too.")
def command(
    index_paths: tuple[Path, ...],
    no_open: bool,
    port: int,
    host: str,
    token: str,
    names: tuple[str, ...],
    device: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Open a page on which to draw boxes, and answer over HTTP, until Ctrl-C.

    Indexes are opened once and stay warm; what other processes add to them is found without a restart. Only this
    machine gets there, and only with the link that is printed.
    """
    from instsearch_cli.serve.browsing import forwarding, remote, require

    require()
    from instsearch_cli.serve.running import Place, running
    from instsearch_cli.serve.service import Service

    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("instsearch.serve").setLevel(logging.INFO if verbose else logging.ERROR)
    for path in index_paths:
        common.open_index(path).close()
    with running(Service(index_paths, device), Place(host, port, token, names)) as there:
        address = {"host": there.host, "port": there.port, "token": there.token, "link": there.link}
        common.echo(json.dumps(address) if as_json else there.link)
        common.echo("Ctrl-C ends it", err=True)
        if remote():
            common.echo(f"over ssh: {forwarding(there.port)}", err=True)
        elif not no_open:
            webbrowser.open(there.link)
        there.wait()
