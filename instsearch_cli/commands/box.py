"""`instsearch box`: draw a box on a picture, and print it."""

from __future__ import annotations

import json
import logging
import webbrowser
from pathlib import Path

import click

from instsearch_cli.commands import common


@common.command("box")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@click.option(
    "--port", default=0, type=click.IntRange(0, 65535), help="Where it listens (default: any port)."
)
@common.json_option
def command(image: Path, no_open: bool, port: int, as_json: bool) -> None:
    """Draw on IMAGE in the browser, and print the box as --box takes it: x,y,w,h.

    \b
    instsearch query front.jpg --box "$(instsearch box front.jpg)" --index my-index
    """
    from instsearch_cli.serve.browsing import forwarding, remote, require

    require()
    from instsearch_cli.images import Photograph
    from instsearch_cli.outside.files import open_plain
    from instsearch_cli.report.results import box_text
    from instsearch_cli.serve.running import Place, running
    from instsearch_cli.serve.service import Service
    from instsearch_cli.serve.uploads import MOST_BYTES

    logging.getLogger("instsearch.serve").addHandler(logging.NullHandler())
    Photograph(image)  # what is no picture is said before anything is opened
    service = Service(())
    with running(service, Place(port=port)) as there:
        with open_plain(image, MOST_BYTES) as file:
            upload = service.uploads.put(file.read(), image.name)
        service.task = {"kind": "box", "picture": upload.plain()}
        common.echo(f"draw at {there.link}", err=True)
        if remote():
            common.echo(f"over ssh: {forwarding(there.port)}", err=True)
        elif not no_open:
            webbrowser.open(there.link)
        there.wait()
        boxes = service.boxes or []
    if as_json:
        common.echo(json.dumps({"image": str(image), "boxes": [list(box) for box in boxes]}))
    else:
        for box in boxes:
            common.echo(box_text((box[0], box[1], box[2], box[3])))
