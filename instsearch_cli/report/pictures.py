"""Thumbnails with boxes on them, and what to show in place of a picture that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from instsearch_cli.images import BadImage, read_image, shrink

if TYPE_CHECKING:
    from pathlib import Path

    Box = tuple[float, float, float, float]

MARK = (255, 45, 125)  #: the colour of boxes


@dataclass(frozen=True)
class Thumbnail:
    """A small picture. ``size`` is (width, height) of the original; None: it could not be read, and why."""

    image: Image.Image
    size: tuple[int, int] | None
    reason: str = ""


def thumbnail(path: Path | Image.Image, side: int) -> Thumbnail:
    """A picture at most ``side`` pixels long, upright; a grey tile if its file cannot be read any more."""
    if isinstance(path, Image.Image):
        return Thumbnail(path.convert("RGB").resize(shrink(*path.size, side)), path.size)
    try:
        picture = read_image(path, lambda w, h: shrink(w, h, side))
    except BadImage as error:
        reason = error.reason.removeprefix("cannot be read: ")
        return Thumbnail(_tile(side, reason), None, reason)
    return Thumbnail(Image.fromarray(picture.pixels), picture.size)


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that results look the same everywhere."""
    return ImageFont.load_default(size)


def _tile(side: int, reason: str) -> Image.Image:
    """A grey tile that says that, and why, there is no picture."""
    w, h = side, round(side * 0.75)
    tile = Image.new("RGB", (w, h), (214, 213, 210))
    draw = ImageDraw.Draw(tile)
    draw.line((w * 0.44, h * 0.28, w * 0.56, h * 0.44), (150, 148, 144), max(2, side // 80))
    draw.line((w * 0.56, h * 0.28, w * 0.44, h * 0.44), (150, 148, 144), max(2, side // 80))
    draw.text((w / 2, h * 0.6), "cannot be read", (84, 82, 78), font(side / 16), anchor="mm")
    draw.text(
        (w / 2, h * 0.72),
        clipped(reason, font(side / 26), w * 0.9),
        (110, 108, 104),
        font(side / 26),
        anchor="mm",
    )
    return tile


def clipped(
    text: str, type_: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, keep: str = "start"
) -> str:
    """The text cut to a width in pixels, with an ellipsis where it was cut: at its end or ("end") its start."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if type_.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        part = text[:middle] + "…" if keep == "start" else "…" + text[len(text) - middle :]
        low, high = (middle, high) if type_.getlength(part) <= width else (low, middle - 1)
    return text[:low] + "…" if keep == "start" else "…" + text[len(text) - low :]


def mark(image: Image.Image, box: Box, size: tuple[int, int], width: int = 3) -> None:
    """Draw a box given in pixels of an original of ``size`` onto its thumbnail, in place; dark edges around it."""
    fx, fy = image.width / size[0], image.height / size[1]
    x0, y0 = max(0.0, box[0] * fx), max(0.0, box[1] * fy)
    x1, y1 = min(image.width - 1.0, box[2] * fx - 1), min(image.height - 1.0, box[3] * fy - 1)
    x1, y1 = max(x0, x1), max(y0, y1)
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0, 120), width=width + 2)
    draw.rectangle((x0, y0, x1, y1), outline=MARK, width=width)
