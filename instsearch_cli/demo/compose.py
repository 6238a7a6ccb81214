"""Things put together into a scene: on a wall, on a desk seen from above, standing on a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from instsearch_cli.demo import clutter, textures
from instsearch_cli.demo.lens import camera, photograph
from instsearch_cli.demo.objects import FAMILIES
from instsearch_cli.demo.render import Canvas, Pose, rolled, sprite_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.demo.artwork import Thing

SIZES = ((640, 480), (640, 480), (640, 427), (480, 640))
SHEETS = ("poster", "badge", "stamp", "sign", "rug", "card")
SOLIDS = ("tin", "carton", "book")


@dataclass(frozen=True)
class Scene:
    """A picture and the boxes (x, y, w, h) of the things asked for that are seen in it, by owner."""

    pixels: np.ndarray
    boxes: dict[int, tuple[int, int, int, int]]


@dataclass(frozen=True)
class Placed:
    """A thing on its way into a scene: how long (pixels), and which owner, 0 for a thing nobody asked for."""

    thing: Thing
    size: float
    owner: int = 0


def _spots(
    rng: np.random.Generator, sizes: Sequence[float], area: tuple[float, float, float, float], crowding: float
) -> list[tuple[float, float]]:
    """A centre for each disc of a given diameter: the random one that overlaps the others least."""
    spots: list[tuple[float, float]] = []
    for diameter in sizes:
        best, least = (0.0, 0.0), np.inf
        for _ in range(24):
            x, y = rng.uniform(area[0], area[2]), rng.uniform(area[1], area[3])
            overlap = sum(
                max(0.0, (diameter + other) * 0.5 * crowding - float(np.hypot(x - u, y - v)))
                for (u, v), other in zip(spots, sizes, strict=False)
            )
            if overlap < least:
                best, least = (x, y), overlap
        spots.append(best)
    return spots


def _flat(item: Thing) -> Thing:
    """A carton or book as it lies on its back: its front."""
    return replace(item, solid="sheet", faces=item.faces[:1]) if item.solid == "carton" else item


def _plane(
    rng: np.random.Generator,
    size: tuple[int, int],
    items: Sequence[Placed],
    ground: textures.Surface,
    roll: float,
) -> tuple[Canvas, float]:
    """Flat things on a plane much larger than the picture; the margin around the picture on each side."""
    margin = 0.22
    w, h = round(size[0] * (1 + 2 * margin)), round(size[1] * (1 + 2 * margin))
    canvas = Canvas(ground(rng, h, w))
    inset = 0.17
    area = (w * (margin + inset) / (1 + 2 * margin), h * (margin + inset) / (1 + 2 * margin))
    spots = _spots(rng, [i.size for i in items], (*area, w - area[0], h - area[1]), 0.92)
    for i in rng.permutation(len(items)):
        item, (x, y) = items[i], spots[i]
        turn = rng.normal(0, 1) * roll if roll < 90 else rng.uniform(-180, 180)
        sprite = sprite_of(_flat(item.thing), Pose(roll=turn), item.size)
        lift = {"carton": 9.0, "book": 6.0}.get(item.thing.family, rng.uniform(1.5, 4))
        canvas.lay(sprite, round(x - sprite.shape[1] / 2), round(y - sprite.shape[0] / 2), item.owner, lift)
    return canvas, margin


def wall(rng: np.random.Generator, size: tuple[int, int], items: Sequence[Placed], slant: float) -> Canvas:
    """Things on a wall, seen from the side; twigs in front of it."""
    ground = textures.WALLS[int(rng.integers(len(textures.WALLS)))]
    canvas, _ = _plane(rng, size, items, ground, 5.0)
    pose = Pose(rng.uniform(-1, 1) * 48 * slant, rng.uniform(-1, 1) * 22 * slant, rng.normal(0, 5) * slant)
    view = canvas.warped(
        camera(size, (canvas.owner.shape[1], canvas.owner.shape[0]), pose, rng.uniform(1.0, 1.15)), size
    )
    for _ in range(int(rng.integers(0, 4))):
        sprite = rolled(clutter.sprig(rng, rng.uniform(110, 240)), rng.uniform(-40, 40))
        blurred = cv2.GaussianBlur(sprite, (0, 0), rng.uniform(0.5, 2.5))
        view.lay(
            blurred,
            int(rng.uniform(-60, size[0] - 60)),
            round(size[1] - sprite.shape[0] * rng.uniform(0.5, 0.95)),
            0,
            10,
        )
    return view


def desk(rng: np.random.Generator, size: tuple[int, int], items: Sequence[Placed], slant: float) -> Canvas:
    """Things lying on a desk or on the ground, seen from above, with small things among and upon them."""
    ground = textures.FLOORS[int(rng.integers(len(textures.FLOORS)))]
    lying = [i for i in items if i.thing.solid != "tin"]
    canvas, margin = _plane(rng, size, lying, ground, 180.0 if slant > 0.5 else 14.0)
    h, w = canvas.owner.shape
    for _ in range(int(rng.integers(3, 9))):
        small = clutter.SMALL[int(rng.integers(len(clutter.SMALL)))]
        sprite = rolled(small(rng, rng.uniform(110, 190)), rng.uniform(-180, 180))
        x, y = rng.uniform(margin / 2, 1 - margin / 2) * w, rng.uniform(margin / 2, 1 - margin / 2) * h
        canvas.lay(sprite, round(x - sprite.shape[1] / 2), round(y - sprite.shape[0] / 2), 0, 4)
    pose = Pose(rng.uniform(-1, 1) * 20 * slant, -rng.uniform(0, 46) * slant, rng.uniform(-1, 1) * 30 * slant)
    view = canvas.warped(camera(size, (w, h), pose, rng.uniform(0.95, 1.1)), size)
    for item in items:
        if item.thing.solid == "tin":
            yaw = rng.uniform(-45, 45) * slant + 180 * int(rng.integers(2))
            sprite = sprite_of(
                item.thing, Pose(yaw, rng.uniform(4, 30), rng.uniform(-180, 180) * slant), item.size
            )
            x = rng.uniform(0.1, 0.9) * size[0] - sprite.shape[1] / 2
            y = rng.uniform(0.15, 0.85) * size[1] - sprite.shape[0] / 2
            view.lay(sprite, round(x), round(y), item.owner, 12)
    return view


def table(rng: np.random.Generator, size: tuple[int, int], items: Sequence[Placed], slant: float) -> Canvas:
    """Things standing on a table before a wall, the nearer ones in front of the farther ones."""
    w, h = size
    horizon = round(h * rng.uniform(0.3, 0.5))
    behind = textures.WALLS[int(rng.integers(len(textures.WALLS)))](rng, horizon + 20, w)
    top = textures.TABLES[int(rng.integers(len(textures.TABLES)))](rng, 560, 900)
    near, far = rng.uniform(1.3, 1.8), rng.uniform(0.55, 0.75)
    source = np.asarray([[0, 0], [900, 0], [900, 560], [0, 560]], np.float32)
    away = np.asarray([[w * (0.5 - far), horizon], [w * (0.5 + far), horizon]], np.float32)
    front = np.asarray([[w * (0.5 + near), h], [w * (0.5 - near), h]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, np.concatenate([away, front]))
    picture = cv2.warpPerspective(top, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    picture[: horizon + 1] = cv2.GaussianBlur(behind, (0, 0), rng.uniform(0.4, 3.5))[: horizon + 1]
    canvas = Canvas(picture)
    canvas.darken(np.full((10, w), 255, np.uint8), 0, horizon - 5, 0.45, 6)
    pitch = rng.uniform(6, 26)
    sizes = [i.size for i in items]
    area = (w * 0.1, (horizon + 0.12 * h) * 1.6, w * 0.9, (h - 12) * 1.6)
    spots = _spots(rng, sizes, area, 0.8)
    for i in sorted(range(len(items)), key=lambda j: spots[j][1]):
        item, (x, y) = items[i], (spots[i][0], spots[i][1] / 1.6)
        near_by = 0.72 + 0.28 * (y - horizon) / (h - horizon)
        half_turn = 180 * int(rng.integers(2)) if item.thing.solid == "tin" else 0
        pose = Pose(rng.uniform(-1, 1) * 46 * slant + half_turn, pitch, rng.normal(0, 3) * slant)
        if item.thing.solid == "sheet":
            pose = Pose(rng.uniform(-1, 1) * 40 * slant, 12, rng.normal(0, 4) * slant)
        sprite = sprite_of(item.thing, pose, item.size * near_by)
        canvas.stand(sprite, round(x - sprite.shape[1] / 2), round(y - sprite.shape[0] * 0.94), item.owner)
    for _ in range(int(rng.integers(0, 3))):
        sprite = rolled(clutter.sprig(rng, rng.uniform(120, 220)), rng.uniform(-50, 50))
        canvas.lay(
            cv2.GaussianBlur(sprite, (0, 0), 1.5),
            int(rng.uniform(-80, w - 40)),
            h - sprite.shape[0] // 2,
            0,
            8,
        )
    return canvas


def compose(
    rng: np.random.Generator, wanted: Sequence[tuple[int, Thing]], rest: Sequence[Thing], easy: bool = False
) -> Scene:
    """A scene with what is ``asked`` for (owner, thing) well enough visible, among some of the ``rest``."""
    size = SIZES[int(rng.integers(len(SIZES)))]
    unit = min(size) / 480
    slant = 0.35 if easy else 1.0
    families = {item.family for _, item in wanted} or {str(rng.choice([*FAMILIES]))}
    kinds = (
        [table, table, desk]
        if families <= set(SOLIDS)
        else [wall, desk]
        if families <= set(SHEETS)
        else [desk]
    )
    shuffled = [rest[i] for i in rng.permutation(len(rest))]
    for attempt in range(24):
        build = kinds[int(rng.integers(len(kinds)))]
        fitting = SOLIDS if build is table else SHEETS if build is wall else (*SHEETS, *SOLIDS)
        items = []
        for owner, item in wanted:
            least = (0.45 if item.family == "tin" else 0.36) + 0.02 * attempt
            scale = rng.uniform(0.8, 1.0) if easy else float(np.exp(rng.uniform(np.log(min(least, 0.8)), 0)))
            items.append(Placed(item, 340 * unit * scale, owner))
        count = int(rng.integers(1, 4)) if easy else int(rng.integers(2, 7))
        items += [
            Placed(o, unit * rng.uniform(120, 290))
            for o in [o for o in shuffled if o.family in fitting][:count]
        ]
        canvas = build(rng, size, items, slant)
        if all(canvas.visible(owner) >= (0.97 if easy else 0.55) for owner, _ in wanted):
            break
    boxes = {owner: box for owner, _ in wanted if (box := canvas.box(owner)) is not None}
    return Scene(photograph(rng, canvas.pixels, 0.25 if easy else rng.uniform(0.2, 0.95)), boxes)
