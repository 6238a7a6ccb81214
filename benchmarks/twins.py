"""Look-alikes: labels of one product that differ in a part, as flavours do, and whether they are told from each other.

    python benchmarks/twins.py [--pairs 100] [--photographs 3] [--seed 7] [--preset sift] [--rerank NAME]...

Each pair is drawn twice over the same layout, brand and colours; two of the name, the picture and the colour of a part
differ. A label is photographed among other things, from several sides, in other light, blurred, every other time with
a hand in front. Every label is asked for by a picture of its own. The table has, by what differs: the hits of 0.9 and
more, which share of them shows the twin, or something else, and which share of the label's photographs is among them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from arguments import Parser
from evaluating import evaluate
from instsearch_cli.demo import artwork as art
from instsearch_cli.demo.compose import compose
from instsearch_cli.demo.objects import others
from instsearch_cli.demo.solids import carton, tin

if TYPE_CHECKING:
    from instsearch_cli.demo.artwork import Thing

SURE = 0.9
DIFFERENT = ("name picture", "name colour", "picture colour", "name picture colour")
FLAVOURS = ("VANILLA", "ORANGE", "CHERRY", "COCOA", "LEMON", "HAZELNUT", "MINT", "APPLE", "PEACH", "COFFEE")


def flavoured(thing: Thing, name: str, picture: int, colour: tuple[int, int, int]) -> Thing:
    """A carton or tin with a band that names a flavour, and a picture of it in a disc."""
    face = thing.faces[0]
    h, w = face.shape[:2]
    sheet = Image.fromarray(face[..., :3]).resize((w * art.SCALE, h * art.SCALE))
    draw = ImageDraw.Draw(sheet)
    for centre in (w * 0.25, w * 0.75) if thing.solid == "tin" else (w * 0.5,):
        half = 112 if thing.solid == "tin" else w * 0.42
        top, low = (h * 0.64, h * 0.75) if thing.solid == "tin" else (h * 0.315, h * 0.39)
        draw.rectangle(art.scaled(centre - half, top, centre + half, low), colour)
        art.lettering(
            sheet, name, (centre - half * 0.8, top + 4, centre + half * 0.8, low - 4), (250, 250, 245), 0.06
        )
        r, y = (34, h * 0.29) if thing.solid == "tin" else (w * 0.24, h * 0.6)
        draw.ellipse(art.scaled(centre - r, y - r, centre + r, y + r), (248, 246, 238), colour, 6)
        corners = (centre - r * 0.7, y - r * 0.7, centre + r * 0.7, y + r * 0.7)
        art.emblem(sheet, np.random.default_rng(picture), corners, colour, (60, 50, 50))
    label = np.concatenate([np.asarray(sheet.resize((w, h), Image.Resampling.BOX)), face[..., 3:]], axis=2)
    return replace(thing, faces=(label, *thing.faces[1:]))


def twins(seed: int, number: int) -> tuple[Thing, Thing]:
    """Two labels of one product, which differ in what DIFFERENT says."""
    rng = np.random.default_rng([seed, number])
    make, brand = (carton, tin)[number % 2], str(rng.choice(art.NAMES))
    product = make(rng, brand)
    names = rng.choice(FLAVOURS, 2, replace=False)
    pictures = rng.choice(1000, 2, replace=False)
    hue = int(rng.integers(180))
    wheel = np.array([[[hue, 190, 170], [(hue + int(rng.integers(40, 140))) % 180, 190, 170]]], np.uint8)
    colours = cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)[0].tolist()
    different = DIFFERENT[number // 2 % len(DIFFERENT)]
    name, picture, colour = (word in different for word in ("name", "picture", "colour"))
    first, second = (
        flavoured(product, str(names[name * i]), int(pictures[picture * i]), tuple(colours[colour * i]))
        for i in (0, 1)
    )
    return first, second


def covered(rng: np.random.Generator, pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A picture with something like a hand that reaches over a side of a box (x, y, w, h)."""
    x, y, w, h = box
    size = max(w, h)
    skin = np.array([212, 165, 138]) * rng.uniform(0.55, 1.05) + rng.normal(0, 6, 3)
    side = 1 if rng.random() < 0.5 else -1
    palm = np.array([x + w / 2 + side * w * rng.uniform(0.5, 0.65), y + h * rng.uniform(0.45, 0.9)])
    mask = np.zeros(pixels.shape[:2], np.float32)
    cv2.ellipse(
        mask, palm.astype(int).tolist(), (int(size * 0.16), int(size * 0.22)), 20 * side, 0, 360, 1, -1
    )
    for finger in range(4):
        start = palm + np.array([0, (finger - 1.5) * size * 0.09])
        end = start - size * np.array([side * rng.uniform(0.2, 0.34), rng.uniform(0, 0.08)])
        cv2.line(mask, start.astype(int).tolist(), end.astype(int).tolist(), 1, max(2, int(size * 0.075)))
    shade = cv2.GaussianBlur(mask, (0, 0), size * 0.02)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
    hand = skin * (0.55 + 0.45 * shade[..., None]) + rng.normal(0, 4, (*pixels.shape[:2], 1))
    return (pixels * (1 - mask) + hand * mask).clip(0, 255).astype(np.uint8)


def draw(folder: Path, pairs: int, photographs: int, seed: int) -> Path:
    """Photographs, queries and manifest.json, drawn where they are not there yet."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        return manifest
    for name in ("images", "queries"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[str] = []
    queries: list[dict[str, Any]] = []
    for number in range(pairs):
        rest = others(1000 * seed + number, 1)
        for i, thing in enumerate(twins(seed, number)):
            mine: list[str] = []
            for k in range(-1, photographs):
                rng = np.random.default_rng([seed, number, i, k + 1])
                scene = compose(rng, [(1, thing)], rest, easy=k < 0)
                pixels = (
                    covered(rng, scene.pixels, scene.boxes[1])
                    if k in range(1, photographs, 2)
                    else scene.pixels
                )
                path = f"{'images' if k >= 0 else 'queries'}/{number:03d}{'ab'[i]}{max(k, 0)}.jpg"
                Image.fromarray(pixels).save(folder / path, quality=int(rng.integers(70, 93)))
                if k >= 0:
                    mine.append(path)
                else:
                    box = list(scene.boxes[1])
            images += mine
            queries.append(
                {
                    "id": f"{number:03d}{'ab'[i]}",
                    "image": f"queries/{number:03d}{'ab'[i]}0.jpg",
                    "box": box,
                    "positives": mine,
                }
            )
    manifest.write_text(json.dumps({"name": folder.name, "images": images, "queries": queries}, indent=1))
    return manifest


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--photographs", type=int, default=3, help="of each label")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--out", type=Path, default=Path("out/twins"), help="where pictures and index are kept"
    )
    parser.add_argument("--preset", default="sift")
    parser.add_argument("--rerank", action="append", default=[], help="instead of the preset's; repeatable")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="STAGE.OPTION=VALUE"
    )
    options = parser.parse_args()
    folder = options.out / f"twins-{options.pairs}-{options.photographs}-{options.seed}"
    manifest = draw(folder, options.pairs, options.photographs, options.seed)
    flags = [x for name in options.rerank for x in ("--rerank", name)]
    flags += [x for assignment in options.assignments for x in ("--set", assignment)]
    run = folder / "run.txt"
    report = evaluate(
        "--dataset", manifest, "--index", folder / "index", "--preset", options.preset, *flags, "--run", run
    )
    hits: dict[str, list[tuple[str, float]]] = {}
    for line in run.read_text().splitlines():
        query, _, image, _, score, _ = line.split()
        hits.setdefault(query, []).append((Path(image).name, float(score)))
    print(f"mAP {report['metrics']['mAP']:.3f}\n")
    print(f"{'different':<22}{'hits':>7}{'twins':>9}{'others':>9}{'found':>9}")
    for different in ("", *DIFFERENT):
        counts = np.zeros(4, int)  # hits, twins, others, right ones
        of = 0
        for query in hits:
            if different in ("", DIFFERENT[int(query[:3]) // 2 % len(DIFFERENT)]):
                of += options.photographs
                for name, score in hits[query]:
                    if score >= SURE:
                        twin, right = name[:3] == query[:3], name[:4] == query
                        counts += [1, twin and not right, not twin, right]
        n, twin, other, right = counts.tolist()
        print(
            f"{different or 'all':<22}{n:>7}{twin / max(n, 1):>9.3f}{other / max(n, 1):>9.3f}{right / max(of, 1):>9.3f}"
        )


if __name__ == "__main__":
    main()
