"""A hit beside what was asked for, drawn: what agrees, what does not, and the same in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from instsearch_cli.engine.besides import UNALIGNED
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.report.draw import INK, PAPER, SOFT
from instsearch_cli.report.pictures import clipped, font

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Beside
    from instsearch_cli.engine.session import Index

EDGE, HEAD = 28, 44  #: pixels around the pictures, and for what is written over them
NARROW = 720  #: width of the pictures from which what is written under them fits
LEGEND = (((40, 170, 60), "agrees"), ((230, 30, 30), "differs, though all around it agrees"))


def beside_panel(found: Beside, query: str, hit: str) -> Image.Image:
    """The two pictures with their names over them, in words what was compared under them, and what frames mean."""
    pair = Image.fromarray(found.picture)
    width = max(pair.width, NARROW)
    sheet = Image.new("RGB", (width + 2 * EDGE, pair.height + HEAD + EDGE + 92), PAPER)
    draw, left = ImageDraw.Draw(sheet), EDGE + (width - pair.width) // 2
    sheet.paste(pair, (left, HEAD))
    half = pair.width / 2
    for x, title, name in ((left, "asked for", query), (left + half + 8, "hit", hit)):
        draw.text((x, 24), title, SOFT, font(17), anchor="lm")
        at = font(17).getlength(title) + 10
        named = clipped(printable(name), font(19), half - at - 10, keep="end")
        draw.text((x + at, 24), named, INK, font(19), anchor="lm")
    y = HEAD + pair.height + EDGE
    draw.text((EDGE, y + 6), found.text, INK, font(20), anchor="lm")
    x, y = float(EDGE), y + 46
    for colour, meaning in LEGEND:
        draw.rectangle((x, y - 8, x + 16, y + 8), outline=colour, width=3)
        draw.text((x + 26, y), meaning, SOFT, font(17), anchor="lm")
        x += 26 + font(17).getlength(meaning) + 28
    draw.text((x, y), "no frame: not compared", SOFT, font(17), anchor="lm")
    return sheet


def show_beside(
    index: Index,
    image: str | os.PathLike[str],
    picture: str | os.PathLike[str],
    box: Sequence[float] | None,
    out: str | os.PathLike[str],
    pipeline: str | None = None,
    **choice: Any,
) -> Beside:
    """Draw an image of an index beside what is in a box (x, y, width, height) of a picture, to the PNG file ``out``.

    Raises InstsearchError where the two cannot be aligned.
    """
    found = index.beside(picture, box, image, pipeline, **choice)
    if found is None:
        raise InstsearchError(f"{os.fspath(image)} beside {os.fspath(picture)}: {UNALIGNED}")
    try:
        beside_panel(found, Path(picture).name, Path(image).name).save(out, "PNG")
    except OSError as error:
        raise InstsearchError(f"cannot write {out}: {error.strerror or error}") from error
    return found
