"""Photographs of known things, drawn by the program: a collection to try everything on, with ground truth."""

from __future__ import annotations

import csv
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from instsearch_cli.demo.compose import compose
from instsearch_cli.demo.objects import WANTED, others, wanted
from instsearch_cli.errors import InstsearchError, UsageError

if TYPE_CHECKING:
    from instsearch_cli.components import Progress

DEMO = "instsearch-demo"


def _jpeg(rng: np.random.Generator, pixels: np.ndarray, easy: bool) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=90 if easy else int(rng.integers(48, 93)))
    return data.getvalue()


def plan(n: int, seed: int) -> list[tuple[int, ...]]:
    """Which objects (counted from 1) each of n scenes shows: none in a fifth of them, two in some."""
    rng = np.random.default_rng([seed, 1])
    shown = n - n // 5
    objects = max(1, min(len(WANTED), shown // 4))
    scenes: list[tuple[int, ...]] = []
    for i in range(shown):
        first = i % objects + 1
        if i % 9 == 4 and objects > 1:
            second = (first + int(rng.integers(objects - 1))) % objects + 1
            scenes.append((first, second))
        else:
            scenes.append((first,))
    scenes += [()] * (n - shown)
    return [scenes[i] for i in rng.permutation(n)]


def make_scenes(folder: Path, n: int = 150, seed: int = 7, progress: Progress | None = None) -> Path:
    """Draw n scenes, a query for each object in them, and the ground truth; return the path of its manifest.

    ``folder`` gets images/0001.jpg ..., queries/*.jpg, boxes.csv (image, x, y, w, h: a row for each object
    seen in an image) and last of all manifest.json, as `eval` reads it. The same n and seed give the same
    files. A folder that holds this very demo is left as it is, another demo in it is replaced.

    Raises UsageError for n < 8 and InstsearchError where ``folder`` holds something else or cannot be written.
    """
    if n < 8:
        raise UsageError(f"a demo of {n} images is too small to search: ask for 8 or more")
    folder, name = Path(folder), f"{DEMO}-{n}-{seed}"
    manifest, draft = folder / "manifest.json", folder / "drawing.partial"
    here = _found(folder)
    if here is not None and here["name"] == name and all((folder / i).is_file() for i in _files(here)):
        return manifest
    if folder.is_file():
        raise InstsearchError(f"{folder} is a file: name a folder")
    if here is None and folder.exists() and any(path != draft for path in folder.iterdir()):
        raise InstsearchError(f"{folder} is not empty and no demo: name another folder")
    for old in (draft, folder / "images", folder / "queries"):
        shutil.rmtree(old, ignore_errors=True)
    try:
        (draft / "images").mkdir(parents=True)
        (draft / "queries").mkdir()
    except OSError as error:
        raise InstsearchError(f"cannot write to {folder}: {error.strerror or error}") from error

    scenes = plan(n, seed)
    objects = max((max(scene) for scene in scenes if scene), default=0)
    things, rest = dict(enumerate(wanted(seed)[:objects], 1)), others(seed)
    if progress is not None:
        progress.start("drawing scenes", n + objects)

    def draw(index: int) -> dict[int, tuple[int, int, int, int]]:
        """Scene ``index``, or past the last one the query of object ``index`` - n + 1."""
        rng, easy = np.random.default_rng([seed, 2, index]), index >= n
        owners = (index - n + 1,) if easy else scenes[index]
        path = f"queries/{_query_id(owners[0])}.jpg" if easy else f"images/{index + 1:04d}.jpg"
        scene = compose(rng, [(owner, things[owner]) for owner in owners], rest, easy)
        (draft / path).write_bytes(_jpeg(rng, scene.pixels, easy))
        return scene.boxes

    with ThreadPoolExecutor(2) as pool:
        boxes = []
        for found in pool.map(draw, range(n + objects)):
            boxes.append(found)
            if progress is not None:
                progress.advance()
    images = [f"images/{i + 1:04d}.jpg" for i in range(n)]
    queries = [
        {
            "id": _query_id(owner),
            "image": f"queries/{_query_id(owner)}.jpg",
            "box": list(boxes[n + owner - 1][owner]),
            "positives": [image for image, seen in zip(images, boxes, strict=False) if owner in seen],
            "junk": [],
            "exclude": [],
        }
        for owner in things
    ]
    with (draft / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "x", "y", "w", "h"])
        rows.writerows(
            (image, *seen[owner]) for image, seen in zip(images, boxes, strict=False) for owner in seen
        )
    text = json.dumps({"name": name, "images": images, "queries": queries}, indent=1)
    (draft / "manifest.json").write_text(text + "\n", "utf-8")
    for part in ("images", "queries", "boxes.csv", "manifest.json"):
        (draft / part).replace(folder / part)
    draft.rmdir()
    return manifest


def _query_id(owner: int) -> str:
    return f"{owner:02d}-{WANTED[owner - 1]}"


def _found(folder: Path) -> dict[str, Any] | None:
    """The manifest of the demo that a folder holds."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        return manifest if manifest["name"].startswith(DEMO) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _files(manifest: dict[str, Any]) -> list[str]:
    return ["boxes.csv", *manifest["images"], *(query["image"] for query in manifest["queries"])]
