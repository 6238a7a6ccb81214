"""Flat things: posters, badges, stamps, rugs, enamel signs, cards."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from instsearch_cli.demo import artwork as art
from instsearch_cli.demo.artwork import SCALE, Thing, word


def poster(rng: np.random.Generator, name: str) -> Thing:
    """A grid of quarter discs, triangles, stripes and rings, with a line of print below."""
    columns, rows, cell = int(rng.integers(3, 5)), int(rng.integers(3, 6)), 76
    w, h = columns * cell + 40, rows * cell + 96
    paper, ink, *colours = art.palette(rng)
    sheet = art.blank(w, h, paper)
    draw = ImageDraw.Draw(sheet)
    for i in range(rows):
        for j in range(columns):
            x, y = 20 + j * cell, 20 + i * cell
            box = (x, y, x + cell, y + cell)
            order = rng.permutation(3)
            first, second, third = colours[order[0]], colours[order[1]], colours[order[2]]
            draw.rectangle(art.scaled(*box), fill=second if rng.random() < 0.6 else paper)
            turn = int(rng.integers(4))
            kind = int(rng.integers(7))
            if kind <= 1:
                ox, oy = x - cell * (turn % 2), y - cell * (turn // 2)
                tile = Image.new("L", (cell * SCALE, cell * SCALE))
                pen = ImageDraw.Draw(tile)
                for k, r in enumerate((1.0,) if kind == 0 else (1.0, 0.75, 0.5, 0.25)):
                    size = 2 * cell * SCALE
                    left, top = (ox - x) * SCALE, (oy - y) * SCALE
                    inset = size / 2 * (1 - r)
                    pen.ellipse(
                        (left + inset, top + inset, left + size - inset, top + size - inset),
                        255 * (1 - k % 2),
                    )
                sheet.paste(first, (x * SCALE, y * SCALE), tile)
            elif kind == 2:
                corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
                draw.polygon(art.polygon(corners[:turn] + corners[turn + 1 :], box), fill=first)
            elif kind == 3:
                for k in range(5):
                    a, b = k / 5, (k + 0.5) / 5
                    strip = [(a, 0), (b, 0), (b, 1), (a, 1)] if turn % 2 else [(0, a), (0, b), (1, b), (1, a)]
                    draw.polygon(art.polygon(strip, box), fill=first)
            elif kind == 4:
                draw.ellipse(art.scaled(x + 6, y + 6, x + cell - 6, y + cell - 6), fill=first)
                draw.pieslice(
                    art.scaled(x + 6, y + 6, x + cell - 6, y + cell - 6), turn * 90, turn * 90 + 180, third
                )
                draw.ellipse(art.scaled(x + 28, y + 28, x + cell - 28, y + cell - 28), fill=ink)
            elif kind == 5:
                for k in range(9):
                    u, v = x + (k % 3 + 0.5) * cell / 3, y + (k // 3 + 0.5) * cell / 3
                    draw.ellipse(art.scaled(u - 7, v - 7, u + 7, v + 7), fill=first if k != turn * 2 else ink)
            else:
                art.emblem(sheet, rng, (x + 8, y + 8, x + cell - 8, y + cell - 8), first, third)
    art.lettering(sheet, name, (20, h - 66, w * 0.66, h - 24), ink, 0.05)
    art.small_print(sheet, rng, (w * 0.7, h - 66, w - 18, h - 14), 8, ink)
    return Thing("poster", "sheet", (art.finish(sheet, rng),))


def badge(rng: np.random.Generator, name: str) -> Thing:
    """A round sign with lettering around an emblem."""
    d = 330
    paper, ink, main, accent, second = art.palette(rng)
    sheet = art.blank(d, d, main)
    draw = ImageDraw.Draw(sheet)
    c = d / 2

    def disc(r: float, colour: art.Colour) -> None:
        draw.ellipse(art.scaled(c - r, c - r, c + r, c + r), fill=colour)

    disc(c, ink)
    disc(c - 6, main)
    text = f"{name} · {word(rng)} · "
    text = text * max(1, round(26 / len(text)))
    art.ring_lettering(sheet, text, (c, c), c - 36, 40, paper)
    disc(c - 66, paper)
    disc(c - 71, ink)
    disc(c - 74, paper)
    for i in range(n := int(rng.integers(18, 40))):
        a = 2 * np.pi * i / n
        x, y = c + (c - 82) * np.cos(a), c + (c - 82) * np.sin(a)
        draw.ellipse(art.scaled(x - 3, y - 3, x + 3, y + 3), fill=accent)
    art.emblem(sheet, rng, (c - 58, c - 62, c + 58, c + 46), second, accent)
    art.lettering(sheet, str(int(rng.integers(1880, 2020))), (c - 34, c + 50, c + 34, c + 68), ink, 0.04)
    mask = Image.new("L", sheet.size)
    ImageDraw.Draw(mask).ellipse((0, 0, mask.width - 1, mask.height - 1), fill=255)
    return Thing("badge", "sheet", (art.finish(sheet, rng, mask),))


def stamp(rng: np.random.Generator, name: str) -> Thing:
    """A postage stamp, engraved and perforated."""
    w, h = (320, 390) if rng.random() < 0.5 else (400, 300)
    paper, ink, main, accent, second = art.palette(rng)
    sheet = art.blank(w, h, (248, 244, 232))
    draw = ImageDraw.Draw(sheet)
    inner = (30, 30, w - 30, h - 30)
    draw.rectangle(art.scaled(*inner), fill=paper)
    view = (44, 44, w - 44, h - 86)
    art.landscape(sheet, rng, view, (paper, ink, main, accent, second))
    cx, cy, r = w * rng.uniform(0.35, 0.65), (view[1] + view[3]) / 2, min(w, h) * 0.2
    art.emblem(sheet, rng, (cx - r, cy - r, cx + r, cy + r), second, paper)
    t = np.linspace(0, 1, 160)
    f, g = int(rng.integers(3, 9)), int(rng.integers(11, 23))
    for phase in np.linspace(0, 1, 5):
        for y, amp in ((36.0, 5.0), (h - 36.0, 5.0)):
            wave = y + amp * np.sin(2 * np.pi * (g * t + phase)) * np.cos(2 * np.pi * f * t)
            draw.line([*zip((30 + t * (w - 60)) * SCALE, wave * SCALE, strict=True)], main, SCALE)
    draw.rectangle(art.scaled(*view), outline=ink, width=2 * SCALE)
    art.lettering(sheet, name, (46, h - 80, w * 0.68, h - 46), ink, 0.03)
    value = str(int(rng.choice([5, 10, 15, 20, 25, 40, 50, 60, 75, 80, 90])))
    art.lettering(sheet, value, (w * 0.72, h - 84, w - 46, h - 44), main, 0.06)
    mask = Image.new("L", sheet.size, 255)
    holes, step = ImageDraw.Draw(mask), 20
    for x in np.arange(step / 2, w, step):
        for y in (0, h):
            holes.ellipse(art.scaled(x - 6, y - 6, x + 6, y + 6), fill=0)
    for y in np.arange(step / 2, h, step):
        for x in (0, w):
            holes.ellipse(art.scaled(x - 6, y - 6, x + 6, y + 6), fill=0)
    return Thing("stamp", "sheet", (art.finish(sheet, rng, mask),))


def rug(rng: np.random.Generator, name: str) -> Thing:
    """A woven rug, mirrored both ways, with borders and a fringe."""
    half_w, half_h, knot = 17, 26, 8
    colours = np.asarray(art.palette(rng), np.uint8)
    y, x = np.mgrid[:half_h, :half_w]
    a, b = int(rng.integers(5, 9)), int(rng.integers(7, 13))
    field = (np.abs(x - half_w + 1) * b + (half_h - 1 - y) * a) // int(rng.integers(18, 34))
    pattern = np.asarray(rng.permutation([2, 3, 4, 0, 1]))[field % 5]
    for _ in range(int(rng.integers(7, 13))):
        u, v, s = int(rng.integers(5, half_w)), int(rng.integers(5, half_h)), int(rng.integers(1, 5))
        ring = np.abs(x - u) + np.abs(y - v)
        pattern = np.where(ring <= s, int(rng.integers(5)), pattern)
        pattern = np.where(ring == max(s - 1, 0), int(rng.integers(5)), pattern)
    edge = np.minimum(x, y)
    zigzag = (x + y) // 2 % 2 if rng.random() < 0.5 else (x // 2 + y // 2) % 2
    pattern = np.where(edge < 4, np.where(zigzag == 0, 3, 1), pattern)
    pattern = np.where((edge == 0) | (edge == 4), 0, pattern)
    whole = np.concatenate([pattern, pattern[:, ::-1]], 1)
    whole = np.concatenate([whole, whole[::-1]], 0)
    woven = np.kron(colours[whole], np.ones((knot, knot, 1), np.uint8)).astype(np.float32)
    weave = 0.84 + 0.16 * np.sin(np.arange(woven.shape[0]) * np.pi / 1.5)[:, None] ** 2
    woven *= (weave * rng.normal(1, 0.05, woven.shape[:2]))[..., None]
    fringe = 9
    w, h = woven.shape[1], woven.shape[0] + 2 * fringe
    sheet = np.zeros((h, w, 4), np.uint8)
    sheet[..., :3] = (224, 212, 188)
    sheet[fringe:-fringe, :, :3] = np.clip(woven, 0, 255)
    sheet[fringe:-fringe, :, 3] = 255
    sheet[:, :, 3] = np.maximum(sheet[:, :, 3], np.where(np.arange(w) % 6 < 3, 255, 0)[None].astype(np.uint8))
    return Thing("rug", "sheet", (sheet,))


def sign(rng: np.random.Generator, name: str) -> Thing:
    """An enamel street sign with a house number."""
    w, h = 400, int(rng.integers(180, 240))
    ground, text = (
        ((22, 58, 120), (246, 246, 240)),
        ((20, 92, 66), (250, 246, 226)),
        ((150, 28, 34), (252, 244, 230)),
        ((240, 226, 190), (34, 34, 40)),
        ((34, 34, 38), (240, 200, 70)),
    )[int(rng.integers(5))]
    sheet = art.blank(w, h, ground)
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle(art.scaled(9, 9, w - 10, h - 10), 12 * SCALE, outline=text, width=5 * SCALE)
    number = str(int(rng.integers(2, 299)))
    art.lettering(sheet, number, (28, h * 0.16, w * 0.4, h * 0.84), text, 0.05)
    draw.line(art.scaled(w * 0.43, h * 0.2, w * 0.43, h * 0.8), text, 3 * SCALE)
    art.lettering(sheet, name, (w * 0.47, h * 0.18, w - 26, h * 0.46), text, 0.03)
    art.lettering(sheet, f"{word(rng)} ST.", (w * 0.47, h * 0.52, w * 0.8, h * 0.68), text, 0.02)
    art.emblem(sheet, rng, (w * 0.83, h * 0.52, w * 0.83 + h * 0.28, h * 0.8), text, ground)
    art.lettering(sheet, f"{word(rng)} {word(rng)}", (w * 0.47, h * 0.73, w * 0.8, h * 0.81), text)
    for x, y in ((24, 24), (w - 25, 24), (24, h - 25), (w - 25, h - 25)):
        for _ in range(int(rng.integers(3, 12))):
            dx, dy = rng.normal(0, 5), abs(rng.normal(0, 12))
            r = rng.uniform(1, 5)
            draw.ellipse(art.scaled(x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=(122, 70, 38))
        draw.ellipse(art.scaled(x - 5, y - 5, x + 5, y + 5), fill=(150, 146, 140))
    return Thing("sign", "sheet", (art.finish(sheet, rng, art.rounded(w, h, 18)),))


def card(rng: np.random.Generator, name: str) -> Thing:
    """A fortune teller's card: rays, a face in the middle, stars, a number and a name."""
    w, h = 250, 410
    paper, ink, main, accent, second = art.palette(rng)
    sheet = art.blank(w, h, paper)
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle(art.scaled(10, 10, w - 10, h - 10), 12 * SCALE, outline=main, width=4 * SCALE)
    frame = (22, 56, w - 22, h - 62)
    draw.rectangle(art.scaled(*frame), fill=second)
    cx, cy = w / 2, (frame[1] + frame[3]) / 2
    n = int(rng.integers(9, 20))
    sheet_in = Image.new("RGB", sheet.size, second)
    pen = ImageDraw.Draw(sheet_in)
    for i in range(n):
        a, b = 2 * np.pi * i / n, 2 * np.pi * (i + rng.uniform(0.35, 0.6)) / n
        points = [(cx * SCALE, cy * SCALE)]
        points += [(float(cx + 400 * np.cos(t)) * SCALE, float(cy + 400 * np.sin(t)) * SCALE) for t in (a, b)]
        pen.polygon(points, fill=accent if i % 2 else main)
    left, top, right, bottom = (round(v * SCALE) for v in frame)
    sheet.paste(sheet_in.crop((left, top, right, bottom)), (left, top))
    draw.rectangle(art.scaled(*frame), outline=ink, width=3 * SCALE)
    r = w * 0.27
    draw.ellipse(art.scaled(cx - r, cy - r, cx + r, cy + r), fill=paper, outline=ink, width=4 * SCALE)
    art.emblem(sheet, rng, (cx - r * 0.66, cy - r * 0.66, cx + r * 0.66, cy + r * 0.66), ink, accent)
    for _ in range(int(rng.integers(5, 11))):
        x, y, s = rng.uniform(34, w - 34), rng.uniform(68, h - 74), rng.uniform(8, 16)
        if (x - cx) ** 2 + (y - cy) ** 2 > (r + 14) ** 2:
            draw.polygon(
                art.polygon(art.star(int(rng.integers(4, 7)), 0.4), (x - s, y - s, x + s, y + s)), fill=ink
            )
    numeral = str(rng.choice(["I", "II", "IV", "V", "VII", "IX", "XII", "XIV", "XVI", "XIX", "XXI"]))
    art.lettering(sheet, numeral, (w * 0.3, 22, w * 0.7, 48), ink, 0.03)
    art.lettering(sheet, f"THE {word(rng)}", (34, h - 52, w - 34, h - 26), ink, 0.03)
    return Thing("card", "sheet", (art.finish(sheet, rng, art.rounded(w, h, 16)),))
