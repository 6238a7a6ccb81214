"""`instsearch show`: what the stages made of one image, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from instsearch_cli.commands import common
from instsearch_cli.commands.common_outputs import check_unindexed, check_unread


@common.command("show")
@click.argument("image", type=click.Path(path_type=Path))
@common.index_option
@click.option("--pipeline", "pipeline_name", help="Which of the index's pipelines (default: the last).")
@click.option(
    "--beside",
    metavar="IMAGE[:x,y,w,h]",
    help="Draw IMAGE, a hit, aligned beside what was asked for: what agrees is framed green, what does not red.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="PNG to write (default: IMAGE-show.png here)."
)
@common.weights_option
@common.device_option
@common.json_option
def command(
    image: Path,
    index_path: Path,
    pipeline_name: str | None,
    beside: str | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw the regions, weights and words of IMAGE, a file, or the name of an image as hits and tables have it.

    A component that can tell how it came to them adds panels of its own: egm its mixture, iteration by
    iteration.

    \b
    instsearch show a/0017.jpg --index idx --beside mug.jpg:120,80,200,240
    """
    out = out or Path(f"{image.stem}-{'beside' if beside else 'show'}.png")
    common.writable("--out", out, ".png")
    from instsearch_cli.boxes import parse_view
    from instsearch_cli.report import show, show_beside

    index = common.open_index(index_path, options)
    check_unindexed([("--out", out)], [index])
    pictures = [image] if beside is None else [image, Path(parse_view(beside, "--beside")[0])]
    check_unread([("--out", out)], pictures, "those to draw")
    if beside is not None:
        view = parse_view(beside, "--beside")
        found = show_beside(index, image, *view, out, pipeline_name, **common.choice(options))
        if as_json:
            shares = {"agreement": found.agreement, "disagreement": found.disagreement}
            said = {name: min(max(share, 0.0), 1.0) for name, share in shares.items()} | {"text": found.text}
            common.echo(json.dumps({"image": str(image), "out": str(out), **said}))
        else:
            common.echo(f"wrote {out}: {found.text}")
        return
    if not image.exists():
        image = index.path_of(image)
    drawn = show(index, image, out, pipeline_name, **common.choice(options))
    if as_json:
        common.echo(json.dumps({"image": str(image), "out": str(out), "layers": drawn}))
    else:
        common.echo(f"wrote {out}: {', '.join(drawn)}")
