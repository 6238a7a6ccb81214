"""Surfaces drawn by the program: wood, brick, plaster, cloth, pebbles, tiles, leaves, paper.

Every surface is a function ``(rng, h, w) -> u8[h, w, 3]`` of its random generator alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from instsearch_cli.demo.artwork import WORDS, face, word_width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Colour = tuple[float, float, float]
    Surface = Callable[[np.random.Generator, int, int], np.ndarray]


def noise(
    rng: np.random.Generator, h: int, w: int, cell: float, octaves: int = 4, stretch: float = 1.0
) -> np.ndarray:
    """Fractal noise f32[h, w] in [0, 1].

    sum over o of 2^-o n_o, where n_o is uniform noise on cells of ``cell`` / 2^o pixels, ``stretch`` times as
    wide as high, interpolated cubically; stretched to [0, 1] at the end.
    """
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        rows, columns = int(h / size) + 2, int(w / (size * stretch)) + 2
        grid = rng.random((rows, columns), np.float32)
        total += cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / max(high - low, 1e-6), np.float32)


def ramp(values: np.ndarray, stops: Sequence[Colour]) -> np.ndarray:
    """Colours of values in [0, 1] along evenly spaced stops: u8[h, w, 3]."""
    at = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), at, [s[c] for s in stops]) for c in range(3)], axis=1)
    index = cv2.convertScaleAbs(np.clip(values, 0, 1), alpha=255)
    return np.asarray(cv2.LUT(cv2.merge([index] * 3), np.round(table).astype(np.uint8)[None]))


def shade(picture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The picture times a factor per pixel, clipped: u8[h, w, 3]."""
    return np.asarray(cv2.multiply(picture, cv2.merge([factor.astype(np.float32)] * 3), dtype=cv2.CV_8U))


def _pick(rng: np.random.Generator, *choices: Sequence[Colour]) -> Sequence[Colour]:
    return choices[int(rng.integers(len(choices)))]


def wood(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Planks with grain along x."""
    stops = _pick(
        rng,
        [(74, 44, 26), (128, 82, 48), (164, 112, 68)],
        [(130, 96, 62), (184, 146, 102), (214, 180, 136)],
        [(52, 40, 34), (88, 68, 56), (116, 94, 78)],
        [(150, 132, 112), (186, 170, 150), (208, 196, 178)],
    )
    board = int(rng.integers(55, 120))
    warp = noise(rng, h, w, 40, 3, stretch=7)
    fibre = noise(rng, h, w, 5, 2, stretch=30)
    tone = np.repeat(rng.uniform(-0.16, 0.16, h // board + 2).astype(np.float32), board)[:h, None]
    phase = np.repeat(rng.uniform(0, 9, h // board + 2).astype(np.float32), board)[:h, None]
    y = np.arange(h, dtype=np.float32)[:, None]
    rings = 0.5 + 0.5 * np.sin(warp * 26 + phase + y * 0.05)
    picture = ramp(np.clip(0.42 * rings + 0.4 * fibre + 0.12 + tone, 0, 1), stops)
    seam = np.minimum(y % board, board - y % board)
    return shade(picture, np.broadcast_to(0.45 + 0.55 * np.clip(seam / 2.2, 0, 1), (h, w)))


def _cells(
    rng: np.random.Generator, h: int, w: int, bw: int, bh: int, running: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Tone of each brick f32[h, w] in [0, 1], and distance in pixels to the joint, with worn edges."""
    wobble = (noise(rng, h, w, 14, 2) - 0.5) * 3
    y, x = np.mgrid[:h, :w].astype(np.float32)
    x, y = x + wobble, y + wobble.T[:h, :w] if h == w else y + wobble[:, ::-1]
    row = np.floor(y / bh).astype(np.int32)
    x = x + (row % 2) * (bw / 2 if running else 0)
    column = np.floor(x / bw).astype(np.int32)
    tones = rng.random((h // bh + 4, w // bw + 6), np.float32)
    u, v = x - column * bw, y - row * bh
    joint = np.minimum(np.minimum(u, bw - u), np.minimum(v, bh - v))
    return tones[row + 1, column + 1], joint


def brick(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A brick wall in running bond."""
    stops = _pick(
        rng,
        [(96, 44, 34), (150, 72, 52), (188, 108, 80)],
        [(150, 140, 128), (190, 182, 170), (222, 216, 206)],
        [(70, 66, 66), (104, 98, 96), (140, 132, 126)],
    )
    bh = int(rng.integers(20, 32))
    tone, joint = _cells(rng, h, w, int(bh * 2.6), bh, running=True)
    grain = noise(rng, h, w, 9, 3)
    picture = ramp(0.6 * tone + 0.4 * grain, stops)
    mortar = ramp(0.4 + 0.6 * grain, [(120, 112, 104), (196, 190, 180)])
    solid = np.clip((joint - 1.4) / 1.5, 0, 1)[..., None]
    relief = 0.82 + 0.18 * np.clip(joint / 5, 0, 1)
    return shade((picture * solid + mortar * (1 - solid)).astype(np.uint8), relief)


def tiles(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Glazed tiles."""
    stops = _pick(
        rng,
        [(206, 214, 214), (228, 234, 232), (246, 248, 246)],
        [(34, 86, 92), (58, 122, 124), (110, 168, 162)],
        [(196, 172, 140), (220, 200, 172), (238, 224, 204)],
        [(44, 62, 96), (70, 94, 136), (120, 144, 180)],
    )
    side = int(rng.integers(38, 72))
    tone, joint = _cells(rng, h, w, side * int(rng.integers(1, 3)), side, running=bool(rng.integers(2)))
    glaze = noise(rng, h, w, 90, 2)
    picture = ramp(0.45 * tone + 0.55 * glaze, stops)
    solid = np.clip((joint - 1.0) / 1.2, 0, 1)[..., None]
    grout = np.float32(150) * (1 - solid)
    return shade((picture * solid + grout).astype(np.uint8), 0.9 + 0.1 * np.clip(joint / 6, 0, 1))


def plaster(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A painted wall with stains and fine grain."""
    hue = np.asarray(
        _pick(
            rng, [(222, 214, 200)], [(186, 200, 196)], [(214, 186, 160)], [(168, 174, 188)], [(228, 226, 222)]
        )
    )[0]
    stain, grain = noise(rng, h, w, 160, 3), noise(rng, h, w, 5, 2)
    return shade(np.broadcast_to(hue, (h, w, 3)), 0.8 + 0.18 * stain + 0.09 * grain)


def concrete(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Cast concrete with pores."""
    body = noise(rng, h, w, 70, 5)
    pores = noise(rng, h, w, 7, 1)
    picture = ramp(body, [(112, 110, 106), (152, 150, 146), (184, 182, 178)])
    return shade(picture, 1 - 0.45 * np.clip((pores - 0.82) / 0.1, 0, 1))


def marble(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Veined stone."""
    stops = _pick(
        rng,
        [(120, 122, 128), (214, 212, 210), (240, 238, 236)],
        [(60, 92, 84), (34, 62, 56), (22, 44, 40)],
        [(196, 150, 130), (226, 196, 178), (240, 222, 208)],
    )
    y, x = np.mgrid[:h, :w].astype(np.float32)
    turbulence = noise(rng, h, w, 170, 5)
    vein = np.abs(np.sin((x * rng.uniform(0.004, 0.012) + y * rng.uniform(0.004, 0.012)) + turbulence * 9))
    return ramp(np.clip(vein**0.35 * 0.85 + 0.15 * noise(rng, h, w, 6, 2), 0, 1), stops)


def cloth(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Woven cloth: tartan, gingham or plain, with folds."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    colours = np.asarray(
        _pick(
            rng,
            [(168, 44, 48), (236, 228, 214), (36, 44, 76)],
            [(52, 84, 78), (226, 220, 200), (196, 152, 72)],
            [(70, 98, 148), (236, 238, 240), (180, 196, 220)],
            [(196, 184, 164), (212, 202, 184), (176, 160, 138)],
            [(90, 58, 96), (206, 178, 196), (240, 226, 214)],
        ),
        np.float32,
    )
    period = int(rng.integers(36, 90))
    widths = np.sort(rng.uniform(0.1, 0.9, 2)) * period

    def stripe(t: np.ndarray) -> np.ndarray:
        return np.asarray((t % period > widths[0]).astype(np.intp) + (t % period > widths[1]))

    warp, weft = colours[stripe(x)], colours[stripe(y)]
    over = ((x.astype(np.int32) // 2 + y.astype(np.int32) // 2) % 2).astype(np.float32)[..., None]
    mixed = warp * (0.35 + 0.3 * over) + weft * (0.65 - 0.3 * over)
    folds = 0.78 + 0.34 * noise(rng, h, w, 150, 2, stretch=0.6)
    return shade(mixed, folds * (0.93 + 0.07 * np.sin(x * 2.1) * np.sin(y * 2.1)))


def pebbles(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Pebbles, gravel or terrazzo: the cells of scattered points, rounded by the distance to their seams."""
    size = int(rng.integers(12, 40))
    seeds = np.full((h, w), 255, np.uint8)
    rows, columns = np.mgrid[0 : h + size : size, 0 : w + size : size]
    at_y = np.clip(rows + rng.uniform(-0.45, 0.45, rows.shape) * size, 0, h - 1).astype(np.intp)
    at_x = np.clip(columns + rng.uniform(-0.45, 0.45, rows.shape) * size, 0, w - 1).astype(np.intp)
    seeds[at_y, at_x] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tone = rng.random(int(label.max()) + 1, np.float32)[label.astype(np.intp)]
    stops = _pick(
        rng,
        [(86, 78, 70), (150, 138, 124), (206, 198, 186)],
        [(70, 84, 92), (128, 140, 146), (196, 200, 198)],
        [(150, 108, 78), (196, 164, 130), (224, 206, 180)],
    )
    dome = np.clip(1.12 - (distance / (size * 0.62)) ** 2 * 0.75, 0.25, 1.2)
    return shade(ramp(0.75 * tone + 0.25 * noise(rng, h, w, 5, 2), stops), dome.astype(np.float32))


def leaves(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: np.ndarray, angle: np.ndarray
) -> np.ndarray:
    """Outlines of leaves, their stems at (x, y), all f[n]: i32[n, 28, 2] with 4 fractional bits."""
    t = np.linspace(0, 1, 14)
    half = np.sin(np.pi * t) ** 0.8 * (1 - 0.35 * t) * rng.uniform(0.2, 0.34, (len(x), 1))
    along = np.concatenate([t, t[::-1]]) * size[:, None]
    across = np.concatenate([half, -half[:, ::-1]], 1) * size[:, None]
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    outline = np.stack([x[:, None] + along * c - across * s, y[:, None] + along * s + across * c], 2)
    return np.asarray(np.round(outline * 16).astype(np.int32))


def draw_leaf(picture: np.ndarray, outline: np.ndarray, colour: np.ndarray) -> None:
    """Paint a leaf into ``picture``, in place: a lit half, a shaded half and the midrib between them."""
    cv2.fillConvexPoly(picture, outline, colour.tolist(), cv2.LINE_AA, 4)
    cv2.fillPoly(picture, [outline[: len(outline) // 2]], (colour * 0.84).tolist(), cv2.LINE_AA, 4)
    stem, tip = (tuple(int(v) for v in outline[i]) for i in (0, len(outline) // 2 - 1))
    cv2.line(picture, stem, tip, (colour * 1.25).clip(0, 255).tolist(), 1, cv2.LINE_AA, 4)


def foliage(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Leaves upon leaves, the deeper the darker."""
    picture = ramp(noise(rng, h, w, 60, 3), [(16, 26, 16), (40, 58, 30)])
    hue = np.asarray(_pick(rng, [(96, 140, 58)], [(74, 124, 76)], [(150, 148, 62)], [(178, 104, 48)]), float)[
        0
    ]
    count = max(24, h * w // 520)
    size = rng.uniform(26, 60)
    outlines = leaves(
        rng,
        rng.uniform(-20, w, count),
        rng.uniform(-20, h, count),
        size * rng.uniform(0.6, 1.2, count),
        rng.uniform(0, 2 * np.pi, count),
    )
    depth = np.linspace(0.3, 1, count)[:, None] * rng.uniform(0.75, 1.2, (count, 1))
    colours = np.clip(hue * depth + rng.uniform(-12, 12, (count, 3)), 0, 255)
    for outline, colour in zip(outlines, colours, strict=True):
        draw_leaf(picture, outline, colour)
    return picture


def wallpaper(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A printed motif repeated in half drop."""
    ground, ink, second = np.asarray(
        _pick(
            rng,
            [(226, 220, 202), (150, 164, 140), (190, 142, 110)],
            [(48, 70, 82), (104, 128, 132), (196, 166, 110)],
            [(232, 210, 200), (196, 140, 132), (142, 110, 120)],
            [(216, 222, 226), (150, 172, 190), (96, 120, 148)],
        ),
        float,
    )
    side = int(rng.integers(44, 76))
    tile = np.empty((side * 2, side, 3), np.uint8)
    tile[:] = ground
    petals, turn = int(rng.integers(4, 9)), rng.uniform(0, 1)
    for cx, cy in ((side / 2, side / 2), (0, side * 1.5), (side, side * 1.5)):
        around = turn + 2 * np.pi * np.arange(petals) / petals
        stem = np.ones(petals)
        for outline in leaves(rng, cx * stem, cy * stem, side * 0.42 * stem, around):
            draw_leaf(tile, outline, ink)
        cv2.circle(
            tile, (round(cx * 16), round(cy * 16)), round(side * 1.6), second.tolist(), -1, cv2.LINE_AA, 4
        )
    whole = np.tile(tile, (h // (side * 2) + 1, w // side + 1, 1))[:h, :w]
    return shade(whole, 0.88 + 0.14 * noise(rng, h, w, 120, 3))


def newsprint(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Columns of small print."""
    page = Image.new("RGB", (w, h), (226, 220, 206))
    draw = ImageDraw.Draw(page)
    column, ink = int(rng.integers(110, 170)), (62, 58, 54)
    for left in range(8, w, column):
        y = float(rng.uniform(-30, 6))
        while y < h:
            headline = rng.random() < 0.08
            size = int(rng.integers(16, 24)) if headline else 9
            room, line = column - 14.0, ""
            while (word := WORDS[int(rng.integers(len(WORDS)))]) and (
                room := room - word_width(word, size)
            ) > 0:
                line += word + " "
            draw.text((left, y), line.title() if headline else line, ink, face(size))
            y += size * 1.25
    return shade(np.asarray(page), 0.9 + 0.12 * noise(rng, h, w, 100, 3))


WALLS: tuple[Surface, ...] = (brick, plaster, tiles, wallpaper, concrete, plaster, brick, foliage)
TABLES: tuple[Surface, ...] = (wood, wood, cloth, marble, concrete, tiles)
FLOORS: tuple[Surface, ...] = (wood, cloth, pebbles, newsprint, marble, concrete, cloth, foliage)
