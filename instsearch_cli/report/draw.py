"""Things drawn over a picture: weights as heat, regions as boxes, words as colours, points, ellipses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from instsearch_cli.report.pictures import clipped, font

if TYPE_CHECKING:
    from collections.abc import Sequence

    Transform = tuple[float, float, float, float]
    Colour = tuple[int, int, int]

MOST = 40  #: outlines that can be told apart on one picture
TINT = 110  # of 255, of a mask
VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
PAPER, INK, SOFT = (250, 249, 246), (27, 26, 24), (112, 109, 102)


def colour_table() -> np.ndarray:
    """u8[256, 3]: from dark violet over green to yellow, evenly brighter (after matplotlib's viridis)."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in VIRIDIS.split()], float)
    at = np.linspace(0, 255, len(stops))
    table = [np.interp(np.arange(256), at, stops[:, c]) for c in range(3)]
    return np.asarray(np.round(np.stack(table, 1)).astype(np.uint8))


def word_colours(words: np.ndarray) -> np.ndarray:
    """A colour for each word, always the same: u8[..., 3]. Hues step by the golden ratio, so that none repeats."""
    words = np.asarray(words, np.int64)
    hue = (words * 0.6180339887) % 1 * 6
    light = 0.62 + 0.38 * ((words * 0.7548776662) % 1)
    channel = np.clip(np.abs((hue[..., None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.asarray(np.round(255 * light[..., None] * (0.25 + 0.75 * channel)).astype(np.uint8))


def on_picture(
    values: np.ndarray,
    transform: Transform,
    original: tuple[int, int],
    size: tuple[int, int],
    smooth: bool = True,
) -> np.ndarray:
    """A map [h, w] laid over a panel: f32[H, W]; NaN where the picture lies outside the map's cells.

    values     one number per cell, whose centre is (ox + sx (j + 1/2), oy + sy (i + 1/2)) in original pixels
    transform  (sx, sy, ox, oy)
    original   (width, height) of the picture that the cells were measured in
    size       (W, H) of the panel
    """
    sx, sy, ox, oy = transform
    h, w = values.shape
    x = ((np.arange(size[0]) + 0.5) * original[0] / size[0] - ox) / sx - 0.5
    y = ((np.arange(size[1]) + 0.5) * original[1] / size[1] - oy) / sy - 0.5
    outside = ((y < -0.5) | (y >= h - 0.5))[:, None] | ((x < -0.5) | (x >= w - 0.5))[None]
    x, y = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
    if smooth:
        j, i = np.minimum(x.astype(int), max(w - 2, 0)), np.minimum(y.astype(int), max(h - 2, 0))
        j1, i1 = np.minimum(j + 1, w - 1), np.minimum(i + 1, h - 1)
        u, v = (x - j)[None], (y - i)[:, None]
        above = values[i][:, j] * (1 - u) + values[i][:, j1] * u
        below = values[i1][:, j] * (1 - u) + values[i1][:, j1] * u
        laid = above * (1 - v) + below * v
    else:
        laid = values[np.rint(y).astype(int)][:, np.rint(x).astype(int)]
    return np.where(outside, np.nan, laid).astype(np.float32)


def _quiet(image: Image.Image) -> np.ndarray:
    """The picture with most of its colour taken out, f32[H, W, 3], so that colours upon it speak."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(0.2 * pixels + 0.8 * grey[..., None], np.float32)


def heat(
    image: Image.Image,
    values: np.ndarray,
    transform: Transform,
    original: tuple[int, int],
    alpha: float = 0.72,
) -> Image.Image:
    """Weights over a picture, from dark violet for the least to yellow for the most; all yellow if all equal."""
    finite = np.nan_to_num(np.asarray(values, np.float32))
    low, high = float(finite.min()), float(finite.max())
    stretched = (finite - low) / (high - low) if high > low else np.full_like(finite, high > 0)
    laid = on_picture(stretched, transform, original, image.size)
    colours = colour_table()[np.clip(np.nan_to_num(laid) * 255, 0, 255).astype(np.uint8)]
    share = np.where(np.isnan(laid), 0, alpha)[..., None]
    return Image.fromarray((_quiet(image) * (1 - share) + colours * share).astype(np.uint8))


def words(
    image: Image.Image,
    values: np.ndarray,
    transform: Transform,
    original: tuple[int, int],
    alpha: float = 0.62,
) -> Image.Image:
    """Visual words i[h, w] over a picture: one colour per word, the picture alone where there is none (-1)."""
    laid = on_picture(np.asarray(values, np.float64), transform, original, image.size, smooth=False)
    none = np.isnan(laid) | (laid < 0)
    colours = word_colours(np.where(none, 0, np.nan_to_num(laid)))
    share = np.where(none, 0, alpha)[..., None]
    return Image.fromarray((_quiet(image) * (1 - share) + colours * share).astype(np.uint8))


def _ground(image: Image.Image, colour: Colour | None) -> Image.Image:
    """What outlines are drawn on: the picture as it is for outlines of one colour, else the quiet picture."""
    return image.copy() if colour else Image.fromarray(_quiet(image).astype(np.uint8))


def points(
    image: Image.Image,
    geometry: np.ndarray,
    original: tuple[int, int],
    values: np.ndarray | None = None,
    colour: Colour | None = None,
) -> Image.Image:
    """Keypoints f[N, 4] (x, y, scale, angle) as circles with their direction, coloured by word if given.

    With ``colour`` they all have that, and the picture keeps its own.
    """
    n = len(geometry)
    given = np.arange(n) if values is None else np.asarray(values)
    plain = np.array([colour or colour_table()[-1]])
    colours = np.tile(plain, (n, 1)) if colour or values is None else word_colours(given)
    fx, fy = image.width / original[0], image.height / original[1]
    large = _ground(image, colour).resize((image.width * 2, image.height * 2))
    pen = ImageDraw.Draw(large, "RGBA")
    for (x, y, scale, angle), word, own in zip(np.asarray(geometry)[:, :4], given, colours, strict=True):
        if word < 0:
            continue
        u, v, r = x * fx * 2, y * fy * 2, max(4.0, scale * fx)
        pen.ellipse((u - r, v - r, u + r, v + r), outline=(*own.tolist(), 230), width=3)
        turn = np.radians(angle)
        pen.line((u, v, u + r * np.cos(turn), v + r * np.sin(turn)), (*own.tolist(), 230), 3)
    return large.resize(image.size, Image.Resampling.LANCZOS)


def regions(
    image: Image.Image,
    boxes: np.ndarray,
    original: tuple[int, int],
    scores: np.ndarray | None = None,
    most: int = MOST,
    colour: Colour | None = None,
    masks: np.ndarray | None = None,
) -> Image.Image:
    """Boxes f[R, 4] over a picture, the best ``most`` of them, brighter and thicker the better.

    With ``colour`` they all have that, and the picture keeps its own. Masks bool[R, m, m] tint what is theirs.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    order = np.arange(len(boxes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    order, table = order[:most], colour_table()
    shown = _ground(image, colour)
    pen = ImageDraw.Draw(shown, "RGBA")
    scale = np.array([image.width / original[0], image.height / original[1]] * 2)
    for place in range(len(order) - 1, -1, -1):
        better = 1 - place / max(len(order) - 1, 1) if len(order) > 1 else 1.0
        x0, y0, x1, y1 = boxes[order[place]] * scale
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        width = round(2 + 2 * better)
        pen.rectangle(corners, outline=(0, 0, 0, 90), width=width + 2)
        own = colour or tuple(table[round(60 + 195 * better)].tolist())
        if masks is not None:
            at = (round(x0), round(y0), max(round(x1), round(x0) + 1), max(round(y1), round(y0) + 1))
            tint = Image.fromarray(masks[order[place]].astype(np.uint8) * TINT).resize(
                (at[2] - at[0], at[3] - at[1])
            )
            shown.paste(Image.new("RGB", tint.size, own), at, tint)
        pen.rectangle(corners, outline=(*own, 255), width=width)
    return shown


def ellipses(
    image: Image.Image,
    centres: np.ndarray,
    radii: np.ndarray,
    original: tuple[int, int],
    scores: np.ndarray | None = None,
    colour: Colour | None = None,
    angles: np.ndarray | None = None,
) -> Image.Image:
    """Ellipses over a picture, brighter the better: centres and radii f[m, 2] along x and y, turned by angles f[m].

    Thin and faint where there are more than MOST. With ``colour`` they all have that, and the picture keeps its own.
    """
    m, table = len(centres), colour_table()
    around = np.linspace(0, 2 * np.pi, 121)
    turns = np.zeros(m) if angles is None else np.asarray(angles)
    order = np.arange(m) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    scale = 2 * np.array([image.width / original[0], image.height / original[1]])
    large = _ground(image, colour).resize((image.width * 2, image.height * 2))
    pen, width = ImageDraw.Draw(large, "RGBA"), 5 if m <= MOST else 2
    for place in range(m - 1, -1, -1):
        k = order[place]
        own = colour or tuple(table[round(255 - 195 * place / max(m - 1, 1))].tolist())
        a, b = np.maximum(radii[k], 2 / scale)
        u, v, c, s = a * np.cos(around), b * np.sin(around), np.cos(turns[k]), np.sin(turns[k])
        outline = (centres[k] + np.stack([c * u - s * v, s * u + c * v], 1)) * scale
        path = [(float(x), float(y)) for x, y in outline]
        if m <= MOST:
            pen.line(path, (0, 0, 0, 90), width + 2, "curve")
        pen.line(path, (*own, 255 if m <= MOST else 80), width, "curve")
    return large.resize(image.size, Image.Resampling.LANCZOS)


def panels(shown: Sequence[tuple[str, Image.Image]], columns: int = 3) -> Image.Image:
    """Pictures in rows, each with its caption above; raises ValueError for none.

    All columns are as wide as the widest, a row is as high as its highest.
    """
    if not shown:
        raise ValueError("no panel to draw")
    columns = min(columns, len(shown))
    rows = [shown[first : first + columns] for first in range(0, len(shown), columns)]
    w, heights = max(p.width for _, p in shown), [max(p.height for _, p in row) for row in rows]
    gap, head = 28, 44
    size = gap + columns * (w + gap), gap // 2 + sum(heights) + len(rows) * head + gap
    sheet = Image.new("RGB", size, PAPER)
    draw, y = ImageDraw.Draw(sheet), gap // 2
    for row, height in zip(rows, heights, strict=True):
        for k, (caption, panel) in enumerate(row):
            x = gap + k * (w + gap)
            title, _, detail = caption.partition(": ")
            draw.text((x, y + 24), title, INK, font(21), anchor="lm", stroke_width=0.3)
            at = x + font(21).getlength(title) + 14
            draw.text((at, y + 25), clipped(detail, font(17), x + w - at), SOFT, font(17), anchor="lm")
            sheet.paste(panel, (x, y + head))
        y += height + head
    return sheet
