"""What printed things are made of: palettes, lettering, emblems, landscapes, bar codes.

Everything is drawn with Pillow at twice the size wanted and reduced at the end (:func:`finish`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    Colour = tuple[int, int, int]

SCALE = 2  #: drawing units per final pixel


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing: its family, its solid (sheet, carton or tin), and the pictures on its faces.

    faces  u8[h, w, 4] each: (front,) of a sheet; (front, right, top, left) of a carton; (label,) of a tin,
           all around it
    """

    family: str
    solid: str
    faces: tuple[np.ndarray, ...]


PALETTES: tuple[tuple[str, ...], ...] = (
    # paper, ink, main, accent, second accent
    ("f4ead5", "1d2b3a", "c8452d", "e9a23b", "2f6f73"),
    ("fbf7ef", "22223b", "3d5a80", "ee6c4d", "98c1d9"),
    ("f1e4c8", "2b2118", "6a994e", "bc4749", "f2b95a"),
    ("fdf0e0", "231942", "9f4a7c", "f2a65a", "5e548e"),
    ("eef2ea", "14281d", "1f6f5c", "e3b23c", "d1495b"),
    ("f7efe5", "0b2545", "13678a", "f4a259", "bc4b51"),
    ("ffe8d1", "3a0f0f", "d62828", "fcbf49", "3d405b"),
    ("e9ecef", "212529", "495057", "ffb703", "d00000"),
    ("f3e9dc", "5e3023", "895737", "c08552", "3c6e71"),
    ("fff3d6", "1b1b3a", "f0a202", "d95d39", "202c59"),
    ("e7f0ee", "0d3b3e", "2a9d8f", "f4a261", "e76f51"),
    ("f8e9ee", "40142b", "b5446e", "6d8fae", "f0c987"),
)

NAMES = (
    "NORDVIND",
    "ALMA",
    "KESTREL",
    "OOLONG",
    "FJORD",
    "SOLARA",
    "MIRABEL",
    "TUNDRA",
    "PICCOLO",
    "HARBOUR",
    "ZEPHYR",
    "QUINTA",
    "BORETT",
    "LUMEN",
    "CASCADE",
    "VERANO",
    "GALLEON",
    "EMBER",
    "JUNIPER",
    "WAYFARER",
    "OSTRA",
    "DRUMLIN",
    "HALCYON",
    "MARZIPAN",
    "BASALT",
    "PALOMA",
    "RIVULET",
    "THISTLE",
)

_PROSE = """
the of and harvest river stone garden winter copper letter morning paper window coast island roasted
natural extract salt sugar flour contains traces keep cool dry place best before end see base net
weight grams produce selected hand picked slowly dried original recipe since market road bridge
harbour museum gallery open daily edition volume chapter north south line express limited quality
first class
"""
WORDS = _PROSE.split()


@functools.lru_cache(maxsize=64)
def face(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface at a size in pixels."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@functools.lru_cache(maxsize=4096)
def word_width(word: str, size: int) -> float:
    """How wide a word and the space after it are, in pixels."""
    return float(face(size).getlength(word + " "))


def palette(rng: np.random.Generator) -> list[Colour]:
    """Five colours: paper, ink, main, accent, second accent."""
    chosen = PALETTES[int(rng.integers(len(PALETTES)))]
    return [(int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in chosen]


def blank(w: int, h: int, colour: Colour) -> Image.Image:
    """An empty sheet of w x h final pixels."""
    return Image.new("RGB", (w * SCALE, h * SCALE), colour)


def lettering(
    sheet: Image.Image,
    text: str,
    box: Sequence[float],
    fill: Colour,
    weight: float = 0.0,
) -> None:
    """Draw a line of text as large as fits in ``box`` (x0, y0, x1, y1), centred.

    weight  thickening of the strokes, as a share of the letter height
    """
    size = 96
    stroke = round(size * weight)
    mask = Image.new("L", (int(face(size).getlength(text)) + (3 * len(text) + 4) * stroke + 4, 2 * size))
    draw, x = ImageDraw.Draw(mask), 2.0 + stroke
    for letter in text:
        draw.text((x, size // 2), letter, 255, face(size), stroke_width=stroke)
        x += face(size).getlength(letter) + 1.6 * stroke
    mask = mask.crop(mask.getbbox())
    w, h = (box[2] - box[0]) * SCALE, (box[3] - box[1]) * SCALE
    fit = min(w / mask.width, h / mask.height)
    size_to = (max(1, round(mask.width * fit)), max(1, round(mask.height * fit)))
    mask = mask.resize(size_to, Image.Resampling.BICUBIC)
    x = round((box[0] + box[2]) / 2 * SCALE - mask.width / 2)
    y = round((box[1] + box[3]) / 2 * SCALE - mask.height / 2)
    sheet.paste(fill, (x, y), mask)


def ring_lettering(
    sheet: Image.Image, text: str, centre: tuple[float, float], radius: float, height: float, fill: Colour
) -> None:
    """Write text around a circle, clockwise from the left, reading from outside."""
    step = 2 * np.pi / len(text)
    size = round(min(height, 1.15 * radius * step) * SCALE)
    for i, letter in enumerate(text):
        angle = i * step - np.pi
        tile = Image.new("L", (size * 2, size * 2))
        ImageDraw.Draw(tile).text((size, size), letter, 255, face(size), anchor="mm", stroke_width=size // 22)
        tile = tile.rotate(-np.degrees(angle) - 90, Image.Resampling.BICUBIC)
        x = (centre[0] + radius * np.cos(angle)) * SCALE - size
        y = (centre[1] + radius * np.sin(angle)) * SCALE - size
        sheet.paste(fill, (round(x), round(y)), tile)


def small_print(
    sheet: Image.Image, rng: np.random.Generator, box: Sequence[float], size: float, fill: Colour
) -> None:
    """Fill a box with lines of running text, ``size`` final pixels high."""
    font, draw = face(round(size * SCALE)), ImageDraw.Draw(sheet)
    y = box[1] * SCALE
    while y + font.size < box[3] * SCALE:
        room, line = (box[2] - box[0]) * SCALE, ""
        while (word := WORDS[int(rng.integers(len(WORDS)))]) and (
            room := room - word_width(word, round(font.size))
        ) > 0:
            line += word + " "
        draw.text((box[0] * SCALE, y), line, fill, font)
        y += font.size * 1.28


def polygon(points: Sequence[tuple[float, float]], box: Sequence[float]) -> list[tuple[float, float]]:
    """Points of the unit square put into ``box``, in drawing units."""
    w, h = box[2] - box[0], box[3] - box[1]
    return [((box[0] + x * w) * SCALE, (box[1] + y * h) * SCALE) for x, y in points]


def scaled(*box: float) -> list[float]:
    """Final pixels to drawing units."""
    return [v * SCALE for v in box]


def star(n: int, inner: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """A star with n points in the unit square."""
    angles = turn - np.pi / 2 + np.pi * np.arange(2 * n) / n
    radii = np.where(np.arange(2 * n) % 2 == 0, 0.5, 0.5 * inner)
    return [(0.5 + r * np.cos(a), 0.5 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]


def emblem(
    sheet: Image.Image, rng: np.random.Generator, box: Sequence[float], first: Colour, second: Colour
) -> None:
    """A star, mountain, fish, crown, sun, tree, sail, leaf or owl, with details of its own."""
    draw = ImageDraw.Draw(sheet)
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0

    def part(points: Sequence[tuple[float, float]], colour: Colour) -> None:
        draw.polygon(polygon(points, box), fill=colour)

    def disc(cx: float, cy: float, r: float, colour: Colour, ry: float | None = None) -> None:
        ry = r if ry is None else ry
        draw.ellipse(
            scaled(x0 + (cx - r) * w, y0 + (cy - ry) * h, x0 + (cx + r) * w, y0 + (cy + ry) * h), colour
        )

    kind = int(rng.integers(9))
    if kind == 0:
        n = int(rng.integers(5, 12))
        part(star(n, rng.uniform(0.35, 0.65)), first)
        part([(0.5 + (x - 0.5) * 0.55, 0.5 + (y - 0.5) * 0.55) for x, y in star(n, 0.5, np.pi / n)], second)
        disc(0.5, 0.5, 0.09, first)
    elif kind == 1:
        disc(rng.uniform(0.25, 0.75), 0.28, 0.13, second)
        for peak, foot in ((0.3, 0.36), (0.7, 0.3)):
            top = rng.uniform(0.2, 0.45)
            part([(peak, top), (peak + foot, 0.95), (peak - foot, 0.95)], first)
            part(
                [
                    (peak, top),
                    (peak + foot / 3, top + 0.22),
                    (peak, top + 0.15),
                    (peak - foot / 3, top + 0.22),
                ],
                second,
            )
    elif kind == 2:
        disc(0.45, 0.5, 0.36, first, 0.22)
        part([(0.72, 0.5), (1.0, 0.24), (0.93, 0.5), (1.0, 0.76)], first)
        disc(0.24, 0.45, 0.045, second)
        for i in range(4):
            draw.arc(
                scaled(x0 + (0.3 + i * 0.09) * w, y0 + 0.36 * h, x0 + (0.42 + i * 0.09) * w, y0 + 0.64 * h),
                -80,
                80,
                second,
                3 * SCALE,
            )
    elif kind == 3:
        part(
            [(0.05, 0.85), (0.0, 0.25), (0.28, 0.55), (0.5, 0.1), (0.72, 0.55), (1.0, 0.25), (0.95, 0.85)],
            first,
        )
        part([(0.05, 0.76), (0.95, 0.76), (0.95, 0.86), (0.05, 0.86)], second)
        for cx, cy in ((0.0, 0.22), (0.5, 0.1), (1.0, 0.22)):
            disc(cx, cy, 0.06, second)
    elif kind == 4:
        n = int(rng.integers(10, 22))
        part(star(n, 0.66), first)
        disc(0.5, 0.5, 0.28, second)
        disc(0.5, 0.5, 0.2, first)
    elif kind == 5:
        part([(0.46, 0.6), (0.54, 0.6), (0.56, 1.0), (0.44, 1.0)], second)
        for i in range(3):
            y = 0.04 + i * 0.22
            part([(0.5, y), (0.68 + i * 0.1, y + 0.36), (0.32 - i * 0.1, y + 0.36)], first)
    elif kind == 6:
        part([(0.48, 0.04), (0.48, 0.68), (0.08, 0.68)], first)
        part([(0.53, 0.16), (0.53, 0.68), (0.92, 0.68)], second)
        part([(0.02, 0.74), (0.98, 0.74), (0.8, 0.95), (0.2, 0.95)], first)
    elif kind == 7:
        for angle in np.linspace(-1.1, 1.1, int(rng.integers(3, 8))):
            t = np.linspace(0, 1, 12)
            half = np.sin(np.pi * t) * 0.11
            rim = np.concatenate([np.stack([half, t * 0.85], 1), np.stack([-half, t * 0.85], 1)[::-1]])
            c, s = np.cos(angle), np.sin(angle)
            part([(0.5 + px * c + py * s, 0.95 + px * s - py * c) for px, py in rim], first)
            draw.line(polygon([(0.5, 0.95), (0.5 + 0.8 * s, 0.95 - 0.8 * c)], box), second, SCALE * 2)
    else:
        disc(0.5, 0.55, 0.34, first, 0.42)
        part([(0.18, 0.08), (0.42, 0.24), (0.2, 0.4)], first)
        part([(0.82, 0.08), (0.58, 0.24), (0.8, 0.4)], first)
        for cx in (0.36, 0.64):
            disc(cx, 0.38, 0.13, second)
            disc(cx, 0.38, 0.06, first)
        part([(0.45, 0.48), (0.55, 0.48), (0.5, 0.6)], second)


def landscape(
    sheet: Image.Image, rng: np.random.Generator, box: Sequence[float], colours: Sequence[Colour]
) -> None:
    """Sky, a sun or moon, and ranges of hills, one before the other."""
    x0, y0, x1, y1 = (round(v * SCALE) for v in box)
    w, h = x1 - x0, y1 - y0
    view = Image.new("RGB", (w, h), colours[0])
    draw = ImageDraw.Draw(view)
    r, cx, cy = rng.uniform(0.1, 0.2) * w, rng.uniform(0.2, 0.8) * w, rng.uniform(0.2, 0.4) * h
    for ring in range(int(rng.integers(1, 5)), 0, -1):
        grow = r * (1 + 0.22 * (ring - 1))
        draw.ellipse((cx - grow, cy - grow, cx + grow, cy + grow), colours[3] if ring % 2 else colours[0])
    t = np.linspace(0, 1, 60)
    layers = int(rng.integers(3, 6))
    for i in range(layers):
        level = 0.42 + 0.5 * i / layers
        ridge = np.full_like(t, level)
        for f in (1, 2, 4):
            waves = np.sin(2 * np.pi * (f * t * rng.uniform(0.6, 1.4) + rng.random()))
            ridge += rng.uniform(0.02, 0.1) / f * waves
        mix = (i + 1) / layers
        colour = tuple(
            round(a * (1 - mix) + b * mix) for a, b in zip(colours[2 + 2 * (i % 2)], colours[1], strict=True)
        )
        draw.polygon([*zip(t * w, ridge * h, strict=True), (w, h), (0, h)], fill=colour)
    sheet.paste(view, (x0, y0))


def bar_code(sheet: Image.Image, rng: np.random.Generator, box: Sequence[float]) -> None:
    """Bars of one to four units on white, with digits below."""
    x0, y0, x1, y1 = scaled(*box)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x0, y0, x1, y1), fill=(252, 252, 250))
    unit = (x1 - x0) / 80
    x, low = x0 + 4 * unit, y1 - (y1 - y0) * 0.24
    while x < x1 - 6 * unit:
        width = unit * int(rng.integers(1, 4))
        draw.rectangle((x, y0 + 3 * SCALE, x + width, low), fill=(20, 20, 22))
        x += width + unit * int(rng.integers(1, 4))
    digits = " ".join(str(d) for d in rng.integers(0, 10, 12))
    lettering(sheet, digits, (box[0] + 4, low / SCALE + 1, box[2] - 4, box[3] - 1), (20, 20, 22))


def word(rng: np.random.Generator) -> str:
    """A noun or adjective in capitals."""
    return WORDS[int(rng.integers(3, len(WORDS)))].upper()


def finish(sheet: Image.Image, rng: np.random.Generator, mask: Image.Image | None = None) -> np.ndarray:
    """Reduce to final pixels with the wear of a printed thing: u8[h, w, 4], alpha from ``mask``."""
    import cv2

    size = (sheet.width // SCALE, sheet.height // SCALE)
    small = np.asarray(sheet.resize(size, Image.Resampling.BOX), np.float32)
    grain = rng.normal(0, 3.5, (size[1], size[0], 1)).astype(np.float32)
    stains = cv2.resize(rng.random((5, 5), np.float32), size, interpolation=cv2.INTER_CUBIC)[..., None]
    worn = np.clip(small * (0.93 + 0.09 * stains) + grain, 0, 255)
    scratches = Image.new("L", size)
    draw = ImageDraw.Draw(scratches)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        dx, dy = rng.normal(0, size[0] / 7, 2)
        draw.line((x, y, x + dx, y + dy), int(rng.integers(40, 120)))
    scratch = np.asarray(scratches, np.float32)[..., None] / 255
    worn = worn * (1 - scratch) + 235 * scratch
    alpha = np.full((size[1], size[0], 1), 255, np.uint8)
    if mask is not None:
        alpha = np.asarray(mask.resize(size, Image.Resampling.BOX))[..., None]
    return np.concatenate([worn.astype(np.uint8), alpha], 2)


def rounded(w: int, h: int, radius: float) -> Image.Image:
    """A mask with rounded corners, in drawing units."""
    mask = Image.new("L", (w * SCALE, h * SCALE))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, w * SCALE - 1, h * SCALE - 1), radius * SCALE, 255)
    return mask
