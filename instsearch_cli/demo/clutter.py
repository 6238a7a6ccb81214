"""Small things that lie about: leaves, pencils, coins, notes, cables. Each is a sprite u8[h, w, 4]."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from instsearch_cli.demo import artwork as art
from instsearch_cli.demo.textures import draw_leaf, leaves

SCALE = art.SCALE


def _reduced(sheet: Image.Image) -> np.ndarray:
    """Half the size, colours weighed by alpha."""
    return np.asarray(sheet.resize((sheet.width // SCALE, sheet.height // SCALE), Image.Resampling.BOX))


def pencil(rng: np.random.Generator, size: float) -> np.ndarray:
    """A hexagonal pencil, ``size`` pixels long."""
    length, thick = size * SCALE, max(8.0, size / 18) * SCALE
    colour = art.palette(rng)[2 + int(rng.integers(3))]
    sheet = Image.new("RGBA", (round(length), round(thick)), (*colour, 0))
    draw = ImageDraw.Draw(sheet)
    tip = thick * 1.6
    for i, tone in enumerate((0.72, 1.0, 0.85)):
        lit = tuple(min(255, round(c * tone)) for c in colour)
        draw.rectangle((thick, i * thick / 3, length - tip, (i + 1) * thick / 3), (*lit, 255))
    draw.polygon([(length - tip, 0), (length, thick / 2), (length - tip, thick)], (226, 190, 148, 255))
    draw.polygon(
        [(length - tip / 3, thick / 3), (length, thick / 2), (length - tip / 3, thick * 2 / 3)],
        (40, 40, 44, 255),
    )
    draw.rectangle((thick * 0.8, 0, thick * 1.6, thick), (176, 178, 182, 255))
    draw.rounded_rectangle((0, 0, thick * 0.9, thick), thick / 4, (214, 120, 124, 255))
    return _reduced(sheet)


def coin(rng: np.random.Generator, size: float) -> np.ndarray:
    """A coin with a number, ``size`` pixels across."""
    d = max(16, round(size / 6)) * SCALE
    metal = ((196, 160, 92), (186, 188, 192), (184, 116, 78))[int(rng.integers(3))]
    sheet = Image.new("RGBA", (d, d), (*metal, 0))
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((0, 0, d - 1, d - 1), (*metal, 255))
    draw.ellipse(
        (d * 0.08, d * 0.08, d * 0.92, d * 0.92),
        outline=(*(round(c * 0.7) for c in metal), 255),
        width=SCALE * 2,
    )
    draw.text(
        (d / 2, d / 2),
        str(int(rng.integers(1, 50))),
        (*(round(c * 0.6) for c in metal), 255),
        art.face(d // 2),
        anchor="mm",
    )
    return _reduced(sheet)


def note(rng: np.random.Generator, size: float) -> np.ndarray:
    """A handwritten note on coloured paper."""
    side = max(40, round(size * 0.45))
    colour = ((250, 226, 110), (250, 176, 190), (168, 220, 236), (188, 232, 160))[int(rng.integers(4))]
    sheet = art.blank(side, side, colour)
    draw = ImageDraw.Draw(sheet)
    for row in range(int(rng.integers(2, 5))):
        t = np.linspace(0.1, rng.uniform(0.5, 0.9), 40)
        y = 0.22 + row * 0.17 + 0.035 * np.sin(t * rng.uniform(60, 90)) * rng.uniform(0.6, 1.2, 40)
        draw.line([*zip(t * side * SCALE, y * side * SCALE, strict=True)], (52, 56, 86), SCALE)
    return art.finish(sheet, rng)


def sprig(rng: np.random.Generator, size: float) -> np.ndarray:
    """A twig with leaves on both sides."""
    d = max(48, round(size))
    canvas = np.zeros((d, d, 3), np.uint8)
    hue = np.asarray(
        [(92, 138, 62), (66, 116, 82), (150, 140, 60), (170, 96, 52)][int(rng.integers(4))], float
    )
    canvas[:] = hue * 0.7
    mask = np.zeros((d, d, 3), np.uint8)
    bend, n = rng.uniform(-0.5, 0.5), int(rng.integers(5, 10))
    t = np.linspace(0, 1, 30)
    stem = np.stack([d * (0.5 + bend * 0.4 * t**2), d * (0.96 - 0.72 * t)], 1)
    path = np.round(stem * 16).astype(np.int32)
    for target, colour in ((canvas, (hue * 0.6).tolist()), (mask, (255, 255, 255))):
        cv2.polylines(target, [path], False, colour, max(1, d // 60), cv2.LINE_AA, 4)
    at = stem[np.round(29 * np.linspace(0.15, 1, n)).astype(int)]
    side = np.where(np.arange(n) % 2, -1.0, 1.0) * (np.arange(n) < n - 1)
    angle = side * rng.uniform(0.5, 1.0, n) - np.pi / 2
    for outline in leaves(rng, at[:, 0], at[:, 1], d * rng.uniform(0.26, 0.4, n), angle):
        draw_leaf(canvas, outline, np.clip(hue * rng.uniform(0.75, 1.2), 0, 255))
        cv2.fillConvexPoly(mask, outline, (255, 255, 255), cv2.LINE_AA, 4)
    return np.concatenate([canvas, mask[..., :1]], 2)


def cable(rng: np.random.Generator, size: float) -> np.ndarray:
    """A cable in a loose curve, with light along its middle."""
    w, h = round(size * 2.2), round(size * 1.2)
    anchors = np.stack([np.linspace(-0.05, 1.05, 6), rng.uniform(0.1, 0.9, 6)], 1)
    t = np.linspace(0, 5, 90)
    i = np.clip(t.astype(int), 0, 4)
    f = (t - i)[:, None]
    smooth = f * f * (3 - 2 * f)
    x = anchors[i, :1] * (1 - f) + anchors[i + 1, :1] * f
    y = anchors[i, 1:] * (1 - smooth) + anchors[i + 1, 1:] * smooth
    path = np.round(np.concatenate([x * w, y * h], 1) * 16).astype(np.int32)
    tone = ((34, 34, 38), (228, 226, 222), (168, 52, 48))[int(rng.integers(3))]
    sheet, mask = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
    thick = max(4, round(size / 30))
    cv2.polylines(mask, [path], False, 255, thick, cv2.LINE_AA, 4)
    sheet[:] = tone
    lit = tuple(min(255, c + 46) for c in tone)
    cv2.polylines(sheet, [path], False, lit, max(1, thick // 3), cv2.LINE_AA, 4)
    return np.concatenate([sheet, mask[..., None]], 2)


SMALL = (pencil, coin, note, sprig, coin, pencil, sprig, cable)
