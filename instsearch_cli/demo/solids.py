"""Things with more than one side: tins, cartons, books."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from instsearch_cli.demo import artwork as art
from instsearch_cli.demo.artwork import SCALE, Thing, word


def tin(rng: np.random.Generator, name: str) -> Thing:
    """A tin with a label all around it, the same front twice."""
    w, h = 720, 300
    paper, ink, main, accent, second = art.palette(rng)
    sheet = art.blank(w, h, main)
    draw = ImageDraw.Draw(sheet)
    style, period = int(rng.integers(4)), w / int(rng.integers(16, 32))
    for i in range(round(w / period)):
        x, colour = i * period, second if i % 2 else main
        if style == 0:
            draw.rectangle(art.scaled(x, 0, x + period, h), fill=colour)
        elif style == 1:
            slanted = [(0.0, 0.0), (1.0, 0.0), (4.0, 1.0), (3.0, 1.0)]
            for shift in (0, -w):
                draw.polygon(art.polygon(slanted, (x + shift, 0, x + shift + period, h)), fill=colour)
        elif style == 2:
            for j in range(int(h / period) + 1):
                middle = (x, j * period, x + period, (j + 1) * period)
                draw.polygon(art.polygon(art.star(4, 0.5 + 0.2 * (j % 2)), middle), fill=second)
    bands = rng.uniform(0.12, 0.24) * h
    draw.rectangle(art.scaled(0, 0, w, bands), fill=paper)
    draw.rectangle(art.scaled(0, h - bands, w, h), fill=accent)
    ornament, n = int(rng.integers(3)), int(rng.integers(30, 48))
    for i in range(n):
        x = (i + 0.5) * w / n
        r = w / n * 0.36
        if ornament == 0:
            draw.ellipse(art.scaled(x - r, h - bands / 2 - r, x + r, h - bands / 2 + r), fill=ink)
        elif ornament == 1:
            draw.polygon(
                art.polygon([(0, 1), (0.5, 0), (1, 1)], (x - r, h - bands * 0.8, x + r, h - bands * 0.2)),
                paper,
            )
        else:
            draw.line(art.scaled(x - r, h - bands * 0.2, x + r, h - bands * 0.8), ink, 3 * SCALE)
    under, sign = f"{word(rng)} {word(rng)}", int(rng.integers(2**31))
    for centre in (w * 0.25, w * 0.75):
        draw.ellipse(art.scaled(centre - 118, bands - 22, centre + 118, h - bands + 22), fill=ink)
        draw.ellipse(art.scaled(centre - 112, bands - 16, centre + 112, h - bands + 16), fill=paper)
        art.emblem(
            sheet,
            np.random.default_rng(sign),
            (centre - 34, bands - 4, centre + 34, bands + 62),
            main,
            accent,
        )
        art.lettering(sheet, name, (centre - 96, h * 0.47, centre + 96, h * 0.63), ink, 0.06)
        art.lettering(sheet, under, (centre - 70, h * 0.67, centre + 70, h * 0.73), main)
    for side, left in enumerate((w * 0.44, w * 0.94)):
        box = (left, bands + 10, left + 46, h - bands - 10)
        if side:
            art.bar_code(sheet, rng, (left - 16, bands + 30, left + 30, h - bands - 30))
        else:
            draw.rectangle(art.scaled(box[0] - 10, box[1] + 8, box[2] + 36, box[3] - 8), fill=paper)
            art.small_print(sheet, rng, (box[0] - 4, box[1] + 12, box[2] + 32, box[3] - 12), 7, ink)
    return Thing("tin", "tin", (art.finish(sheet, rng),))


def carton(rng: np.random.Generator, name: str) -> Thing:
    """A box of cereal, tea or biscuits."""
    w, h, depth = 280, 390, int(rng.integers(80, 130))
    paper, ink, main, accent, second = art.palette(rng)
    if rng.random() < 0.5:
        main, second = second, main
    front = art.blank(w, h, main)
    draw = ImageDraw.Draw(front)
    style = int(rng.integers(3))
    if style == 0:
        rays = int(rng.integers(14, 26))
        for i in range(rays):
            a, b = 2 * np.pi * i / rays, 2 * np.pi * (i + 0.5) / rays
            draw.polygon(
                [(w / 2 * SCALE, h * 0.6 * SCALE)]
                + [
                    (float(w / 2 + 500 * np.cos(t)) * SCALE, float(h * 0.6 + 500 * np.sin(t)) * SCALE)
                    for t in (a, b)
                ],
                fill=accent,
            )
    elif style == 1:
        art.landscape(front, rng, (0, h * 0.34, w, h), (paper, ink, main, accent, second))
    else:
        for i in range(int(rng.integers(5, 10))):
            y = h * 0.3 + i * 34
            points = [(x, y + 10 * np.sin(x / 22 + i)) for x in range(0, w + 8, 8)]
            draw.line(
                [(x * SCALE, float(v) * SCALE) for x, v in points], (accent, paper, second)[i % 3], 7 * SCALE
            )
    draw.rectangle(art.scaled(0, h * 0.06, w, h * 0.28), fill=paper)
    draw.rectangle(art.scaled(0, h * 0.285, w, h * 0.3), fill=ink)
    art.lettering(front, name, (14, h * 0.08, w - 14, h * 0.2), ink, 0.08)
    art.lettering(front, f"{word(rng)} & {word(rng)}", (40, h * 0.215, w - 40, h * 0.26), main)
    cx, cy, r = w * rng.uniform(0.42, 0.58), h * 0.6, w * 0.3
    draw.ellipse(art.scaled(cx - r, cy - r, cx + r, cy + r), fill=paper, outline=ink, width=4 * SCALE)
    art.emblem(front, rng, (cx - r * 0.7, cy - r * 0.7, cx + r * 0.7, cy + r * 0.7), second, accent)
    corner = (w * 0.68, h * 0.76, w * 0.96, h * 0.96)
    draw.polygon(art.polygon(art.star(14, 0.8), corner), fill=ink)
    art.lettering(
        front, f"{int(rng.integers(2, 99)) * 10}g", (w * 0.72, h * 0.83, w * 0.92, h * 0.89), paper, 0.05
    )
    art.small_print(front, rng, (16, h * 0.9, w * 0.6, h * 0.98), 8, paper)

    side = art.blank(depth, h, paper)
    ImageDraw.Draw(side).rectangle(art.scaled(0, h * 0.06, depth, h * 0.28), fill=main)
    art.lettering(side, name, (6, h * 0.1, depth - 6, h * 0.24), paper, 0.05)
    art.small_print(side, rng, (8, h * 0.32, depth - 6, h * 0.72), 8, ink)
    art.bar_code(side, rng, (10, h * 0.76, depth - 10, h * 0.94))

    top = art.blank(w, depth, accent)
    art.lettering(top, name, (50, depth * 0.3, w - 50, depth * 0.7), ink, 0.05)
    ImageDraw.Draw(top).line(art.scaled(0, depth / 2, w, depth / 2), main, SCALE * 2)
    return Thing("carton", "carton", tuple(art.finish(face, rng) for face in (front, side, top, side)))


def book(rng: np.random.Generator, name: str) -> Thing:
    """A book: cover, spine and the edge of its pages."""
    w, h, depth = 270, 380, int(rng.integers(28, 60))
    paper, ink, main, accent, second = art.palette(rng)
    ground, text = (ink, paper) if rng.random() < 0.5 else (main, paper)
    cover = art.blank(w, h, ground)
    draw = ImageDraw.Draw(cover)
    style = int(rng.integers(4))
    if style == 0:
        art.landscape(cover, rng, (24, h * 0.42, w - 24, h * 0.93), (paper, ink, main, accent, second))
    elif style == 1:
        for i in range(int(rng.integers(9, 14)), 0, -1):
            r = i * 13
            colour = (accent, paper, second, ground)[i % 4]
            draw.ellipse(art.scaled(w * 0.5 - r, h * 0.95 - r, w * 0.5 + r, h * 0.95 + r), fill=colour)
    elif style == 2:
        for i in range(6):
            for j in range(5):
                box = (20 + j * 46, h * 0.43 + i * 33, 20 + (j + 1) * 46, h * 0.43 + (i + 1) * 33)
                colour = (accent, second, paper, main)[int(rng.integers(4))]
                shape = [[(0, 0), (1, 0), (0, 1)], [(1, 0), (1, 1), (0, 1)], [(0, 0), (1, 1), (0, 1)]]
                draw.polygon(art.polygon(shape[int(rng.integers(3))], box), fill=colour)
    else:
        art.emblem(cover, rng, (w * 0.2, h * 0.46, w * 0.8, h * 0.46 + w * 0.6), accent, second)
    title = [name, *(word(rng) for _ in range(int(rng.integers(1, 3))))]
    y = h * 0.06
    for line in title:
        height = h * 0.26 / len(title)
        art.lettering(cover, line, (22, y, w - 22, y + height * 0.82), text, 0.04)
        y += height
    art.lettering(cover, f"{word(rng).title()} {word(rng).title()}", (60, h * 0.36, w - 60, h * 0.395), text)
    draw.line(art.scaled(22, h * 0.345, w - 22, h * 0.345), accent, 3 * SCALE)

    across = art.blank(h, depth, ground)
    art.lettering(across, " ".join(title), (20, depth * 0.25, h * 0.78, depth * 0.75), text, 0.04)
    art.emblem(across, rng, (h * 0.86, depth * 0.2, h * 0.86 + depth * 0.6, depth * 0.8), accent, second)
    spine = across.transpose(Image.Transpose.ROTATE_270)
    head, edge = art.blank(w, depth, (232, 224, 206)), art.blank(depth, h, (232, 224, 206))
    for row in range(2, depth, 3):
        ImageDraw.Draw(head).line(art.scaled(0, row, w, row), (206, 196, 176), SCALE)
        ImageDraw.Draw(edge).line(art.scaled(row, 0, row, h), (206, 196, 176), SCALE)
    return Thing("book", "carton", tuple(art.finish(face, rng) for face in (cover, edge, head, spine)))
