"""Hits as one picture: a contact sheet, the query on the left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.report.pictures import MARK, Thumbnail, clipped, font, mark, thumbnail
from instsearch_cli.report.results import box_text, score_texts

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.data import Box
    from instsearch_cli.engine.answer import Answer, Hit

PAPER, INK, SOFT, LINE, TRACK = (
    (250, 249, 246),
    (27, 26, 24),
    (112, 109, 102),
    (226, 223, 216),
    (236, 233, 227),
)
WIDTH, EDGE, GAP, LEFT = 1760, 44, 18, 380  #: pixels; LEFT is the query's column
ROW, CAPTION = 230, 66  #: height aimed at for a row of pictures; room for what is written under them
PARTING = 44  #: room for the line between the found and the rest
MOST = 200  #: hits on a sheet


@dataclass(frozen=True)
class Tile:
    """A hit with its thumbnail and its width over height, kept within bounds."""

    hit: Hit
    score: str
    thumb: Thumbnail
    ratio: float


def rows_of(tiles: list[Tile], width: int) -> list[tuple[int, list[Tile]]]:
    """Tiles in rows of one height each, (height, tiles), every row but the last as wide as the sheet."""
    rows: list[tuple[int, list[Tile]]] = []
    row: list[Tile] = []
    for tile in tiles:
        row.append(tile)
        height = (width - GAP * (len(row) - 1)) / sum(t.ratio for t in row)
        if height <= ROW * 1.08:
            rows.append((round(height), row))
            row = []
    if row:
        rows.append((ROW, row))
    return rows


def framed(thumb: Thumbnail, box: Box | None, width: int, height: int) -> Image.Image:
    """The picture with its box inside width x height, corners rounded, on a quiet ground where it does not fill."""
    scale = min(width / thumb.image.width, height / thumb.image.height)
    size = max(1, round(thumb.image.width * scale)), max(1, round(thumb.image.height * scale))
    if abs(size[0] - width) <= 2 and abs(size[1] - height) <= 2:
        size = width, height
    picture = thumb.image.resize(size, Image.Resampling.LANCZOS)
    if box is not None and thumb.size is not None:
        mark(picture, box, thumb.size)
    frame = Image.new("RGB", (width, height), TRACK)
    frame.paste(picture, ((width - size[0]) // 2, (height - size[1]) // 2))
    paper = Image.new("RGB", (width, height), PAPER)
    paper.paste(frame, mask=rounded(width, height, 9))
    return paper


def rounded(width: int, height: int, radius: float) -> Image.Image:
    """A mask with round corners, smooth at the edges."""
    large = Image.new("L", (width * 4, height * 4))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, width * 4 - 1, height * 4 - 1), radius * 4, 255)
    return large.resize((width, height), Image.Resampling.BOX)


def _query(result: Answer) -> Image.Image:
    """The left column: the views with their boxes, what the object is not, and what was asked of the search."""
    views = [("Looking for", view) for view in result.views] + [("And not", view) for view in result.against]
    high = max(150, 480 // len(views))
    pictures = []
    for _, view in views:
        thumb = thumbnail(view.picture, 960)
        scale = min(LEFT / thumb.image.width, high / thumb.image.height)
        size = round(thumb.image.width * scale), round(thumb.image.height * scale)
        pictures.append(framed(thumb, view.corners, *(max(1, side) for side in size)))
    titles = [i == 0 or views[i][0] != views[i - 1][0] for i in range(len(views))]
    height = sum(picture.height + 85 + 40 * title for picture, title in zip(pictures, titles, strict=True))
    column = Image.new("RGB", (LEFT, height + 17 + 27 * len(result.settings)), PAPER)
    draw = ImageDraw.Draw(column)
    y = 0
    for (title, view), picture, first in zip(views, pictures, titles, strict=True):
        if first:
            draw.text((0, y + 13), title, SOFT, font(21), anchor="lm")
            y += 40
        column.paste(picture, (0, y))
        y += picture.height + 26
        name = clipped(printable(view.name.rpartition("/")[2]), font(21), LEFT, keep="end")
        draw.text((0, y), name, INK, font(21), anchor="lm")
        box = "the whole picture" if view.box is None else f"box {box_text(view.box)}"
        draw.text((0, y + 29), box, SOFT, font(17), anchor="lm")
        y += 59
    y += 11
    for key, value in result.settings.items():
        draw.line((0, y - 14, LEFT, y - 14), LINE)
        draw.text((0, y), clipped(printable(key), font(16), 96), SOFT, font(16), anchor="lm")
        draw.text((104, y), clipped(printable(value), font(16), LEFT - 104), INK, font(16), anchor="lm")
        y += 27
    return column


def _tile(image: Image.Image, tile: Tile, x: int, y: int, width: int, height: int, share: float) -> None:
    """A hit at x, y: picture, rank, score and its share of the best, name."""
    draw = ImageDraw.Draw(image)
    image.paste(framed(tile.thumb, tile.hit.corners, width, height), (x, y))
    y += height + 20
    rank = str(tile.hit.rank)
    pill = max(28, round(font(15).getlength(rank)) + 14)
    image.paste(INK, (x, y - 11), rounded(pill, 22, 6))
    draw.text((x + pill / 2, y), rank, PAPER, font(15), anchor="mm", stroke_width=0.3)
    draw.text((x + pill + 10, y), tile.score, INK, font(18), anchor="lm", stroke_width=0.3)
    left = x + pill + 22 + round(font(18).getlength(tile.score))
    if x + width - left > 24:
        image.paste(TRACK, (left, y - 2), rounded(x + width - left, 5, 2.5))
        if (length := round(share * (x + width - left))) >= 5:
            image.paste(MARK, (left, y - 2), rounded(length, 5, 2.5))
    name = clipped(printable(tile.hit.image), font(15), width, keep="end")
    draw.text((x, y + 25), name, SOFT, font(15), anchor="lm")


def sheet(result: Answer) -> Image.Image:
    """Draw what was asked for, and up to 200 hits with boxes and scores, a line between the found and the rest."""
    shown = result.shown[:MOST]
    tiles = []
    for hit, score in zip(shown, score_texts(result.shown), strict=False):
        thumb = thumbnail(hit.path, 640)
        tiles.append(Tile(hit, score, thumb, min(max(thumb.image.width / thumb.image.height, 0.56), 2.6)))
    x0 = EDGE + LEFT + 2 * GAP
    inner = WIDTH - EDGE - x0
    n, column = len(result.above), _query(result)
    found, rest = rows_of(tiles[:n], inner), rows_of(tiles[n:], inner)
    more = len(result.shown) - len(shown)
    head = 40 + 28 * len(result.notes)
    heights = sum(height + CAPTION for height, _ in (*found, *rest))
    right = head + heights + (PARTING if rest else 0) + (30 if more else 0)
    image = Image.new("RGB", (WIDTH, 2 * EDGE + max(column.height, right) - 14), PAPER)
    draw = ImageDraw.Draw(image)
    image.paste(column, (EDGE, EDGE))
    draw.text((x0, EDGE + 13), result.summary, INK, font(21), anchor="lm", stroke_width=0.3)
    for i, note in enumerate(result.notes):
        draw.text((x0, EDGE + 44 + 28 * i), note, SOFT, font(17), anchor="lm")
    best = max((hit.score for hit in result.shown), default=0.0)
    y = _rows(image, found, x0, EDGE + head, best)
    if rest:
        text = f"below {result.line:g}"
        draw.text((x0, y + 8), text, SOFT, font(17), anchor="lm")
        draw.line((x0 + font(17).getlength(text) + 14, y + 8, WIDTH - EDGE, y + 8), MARK, 2)
        y = _rows(image, rest, x0, y + PARTING, best)
    if more:
        draw.text((x0, y), f"and {more:,} more", SOFT, font(18), anchor="lm")
    return image


def _rows(image: Image.Image, rows: list[tuple[int, list[Tile]]], x0: int, y: int, best: float) -> int:
    """Rows of hits from x0, y on; returns where the next one would be."""
    for height, row in rows:
        x = float(x0)
        for tile in row:
            width = height * tile.ratio
            share = min(1.0, max(0.0, tile.hit.score / best)) if best > 0 else 0.0
            _tile(image, tile, round(x), y, round(x + width) - round(x), height, share)
            x += width + GAP
        y += height + CAPTION
    return y


def write_sheet(result: Answer, path: Path) -> None:
    """Write the sheet as PNG; InstsearchError if it cannot be written."""
    image = sheet(result)
    try:
        image.save(path, "PNG")
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error
