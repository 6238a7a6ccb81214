"""`query --per-image` of the default: several of one object in a picture are several boxes, as sure as one is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

import instsearch

Cli = Callable[..., Any]


def noise(h: int, w: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (h // 4, w // 4, 3), np.uint8)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)


LABEL = noise(220, 180, 5)
#: picture -> the labels in it, and by how much they turn
TURNS = {
    "none": (),
    "one": (4,),
    "three": (-5, 3, 8),
}


def shelf(turns: tuple[float, ...], seed: int) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
    """A picture of labels side by side, each turned by so much, and the bounds x, y, w, h of each."""
    pixels = cv2.GaussianBlur(noise(480, 1000, 100 + seed), (0, 0), 3)
    boxes = []
    for i, degrees in enumerate(turns):
        A = cv2.getRotationMatrix2D((90, 110), degrees, 1.1)
        A[:, 2] += 80 + 320 * i, 120 + 20 * i
        seen = cv2.warpAffine(LABEL, A, (1000, 480))
        there = cv2.warpAffine(np.ones(LABEL.shape[:2], np.uint8), A, (1000, 480), flags=cv2.INTER_NEAREST)
        pixels[there > 0] = seen[there > 0]
        y, x = np.nonzero(there)
        boxes.append((float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))))
    return pixels, boxes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    (folder / "p").mkdir()
    for seed, (name, turns) in enumerate(TURNS.items()):
        PIL.Image.fromarray(shelf(turns, seed)[0]).save(folder / "p" / f"{name}.png")
    PIL.Image.fromarray(LABEL).save(folder / "q.png")
    with instsearch.create(folder / "i") as index:
        index.index(folder / "p")
    return folder


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w, h = (max(0.0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def found(cli: Cli, place: Path, *more: object) -> dict[str, list[tuple[float, ...]]]:
    written = cli("query", place / "q.png", "--index", place / "i", "--json", *more).json
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for hit in written["hits"]:
        if hit["score"] >= 0.9:
            boxes.setdefault(hit["image"], []).append(tuple(hit["box"]))
    return boxes


@pytest.mark.parametrize("flags", [(), ("--not", "p/none.png")])
def test_each_is_a_box(
    cli: Cli, place: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    boxes = found(cli, place, "--per-image", 0, *flags)
    assert {image: len(each) for image, each in boxes.items()} == {"one.png": 1, "three.png": 3}
    for seed, (name, turns) in enumerate(TURNS.items()):
        for truth in shelf(turns, seed)[1]:
            assert max(iou(truth, box) for box in boxes[f"{name}.png"]) > 0.7


def test_so_many_of_an_image_at_most(cli: Cli, place: Path) -> None:
    assert {image: len(each) for image, each in found(cli, place, "--per-image", 2).items()} == {
        "one.png": 1,
        "three.png": 2,
    }
    assert {image: len(each) for image, each in found(cli, place).items()} == {"one.png": 1, "three.png": 1}


def test_further_places_are_no_surer_than_the_first(place: Path) -> None:
    with instsearch.open(place / "i") as index:
        one, every = (index.query(place / "q.png", per_image=n) for n in (1, 0))
    best = {hit.image: hit.score for hit in one}
    assert all(hit.score <= best[hit.image] + 1e-6 for hit in every)
    assert [hit.score for hit in every] == sorted((hit.score for hit in every), reverse=True)


def test_a_photograph_that_is_another_now_is_named(cli: Cli, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "p", tmp_path / "p")
    cli("index", tmp_path / "p", "--index", tmp_path / "i", "--quiet")
    ask = ("query", place / "q.png", "--index", tmp_path / "i")
    assert "changed since" not in cli(*ask).err
    (tmp_path / "p" / "one.png").touch()
    assert "changed since" not in cli(*ask).err
    shutil.copy(tmp_path / "p" / "none.png", tmp_path / "p" / "one.png")
    said = cli(*ask).err
    assert "one.png changed since it was indexed, and may not show what was found" in said
    assert "three.png changed" not in said
    (tmp_path / "p" / "one.png").unlink()
    assert "changed since" not in cli(*ask).err


def test_a_mirrored_object_is_compared_as_its_mirror_image(place: Path, tmp_path: Path) -> None:
    pixels, _ = shelf(TURNS["one"], 1)
    (tmp_path / "p").mkdir()
    PIL.Image.fromarray(pixels[:, ::-1]).save(tmp_path / "p" / "mirror.png")
    with instsearch.create(tmp_path / "i") as index:
        index.index(tmp_path / "p")
        scores = {}
        for mirrored in (True, False):
            options = [f"rerank.aligned.mirrored={mirrored}"]
            (hit,) = index.query(place / "q.png", options=options).shown
            scores[mirrored] = hit.score
            beside = index.beside(place / "q.png", None, "mirror.png", options=options)
            assert (beside is not None and beside.agreement > 0.5) == mirrored
        assert scores[True] > max(scores[False], 0.9)
        assert hit.box is not None
        assert iou(hit.box, (1000 - 80 - 198, 120, 198, 242)) > 0.5
