"""The small collections that trials are made with: drawn pictures, and an index of each kind of search structure."""

from __future__ import annotations

import functools
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw

from fuzzing.child import command, hits, must

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = 6
WORDS = ("--set", "encoder.words=24", "--set", "encoder.n-train=3000")
SIFT = ("--preset", "sift", "--set", "extractor.keypoints=150", "--quiet")
VLAD = (
    *(
        *SIFT,
        "--encoder",
        "vlad",
        "--rerank",
        "none",
        "--set",
        "encoder.over=local",
        "--set",
        "encoder.words=4",
    ),
    *("--set", "encoder.whiten=false", "--set", "encoder.n-train=3000"),
)
INVERTED = ("--searcher", "inverted", "--rerank", "none")
KINDS: dict[str, tuple[str, ...]] = {
    "hamming": (*SIFT, *WORDS),
    "inverted": (*SIFT, *WORDS, *INVERTED),
    "flat": (*VLAD, "--searcher", "faiss"),
    "hnsw": (*VLAD, "--searcher", "faiss", "--set", "searcher.factory=HNSW8"),
    "graph": (*VLAD, "--searcher", "diffusion", "--set", "searcher.k=3", "--set", "searcher.kq=2"),
    "features": (*SIFT, *WORDS, "--weighting", "gaussian", *INVERTED, "--keep-features"),
}
"""Pipelines that have every kind of layer and search structure between them, without a network."""


def texture(seed: int, size: tuple[int, int] = (160, 120)) -> PIL.Image.Image:
    """A picture full of corners, by its seed."""
    rng = np.random.default_rng(seed)
    image = PIL.Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = PIL.ImageDraw.Draw(image)
    for _ in range(60):
        x, y, a, b = (int(v) for v in (*rng.integers(0, size), *rng.integers(4, 24, 2)))
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x - a, y - b, x + a, y + b), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    return image


def draw(folder: Path, numbers: range) -> Path:
    """A folder of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        texture(i).save(folder / f"{i:03}.png")
    return folder


class Made(NamedTuple):
    """An index, and what it answers."""

    path: Path
    flags: tuple[str, ...]
    answer: list[Any]


class Shelf:
    """Photographs and indexes in a folder, made when they are first asked for; nothing changes them."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.photos = draw(work / "photos", range(PICTURES))
        self.others = draw(work / "others", range(100, 100 + PICTURES))
        self.picture = work / "asked.png"
        texture(3).resize((150, 112)).save(self.picture)

    @functools.cache  # noqa: B019  (a shelf lives as long as the program)
    def index(self, kind: str, photos: str = "photos") -> Made:
        """The index of a kind, over the photographs or over the others."""
        path = self.work / f"{photos}-{kind}"
        must("index", self.work / photos, "--index", path, *KINDS[kind])
        return Made(path, KINDS[kind], self.answer(path))

    def answer(self, index: Path) -> list[Any]:
        """What an index answers. Raises SystemExit where it does not."""
        found = hits(must("query", self.picture, "--index", index, "--json", "-k", "30"))
        assert found
        return found

    def copy(self, made: Made, to: Path) -> Path:
        """A copy of an index, to be harmed."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(made.path, to)
        return to


def verbs(shelf: Shelf, index: Path, answer: list[Any]) -> tuple[str, str]:
    """Ask a harmed index, and run every verb on it: the first fault, "" if there is none, and how it answered.

    That is "sound" where the answer is the old one, "refused" where there is none, or a word is said of it, "differs".
    """
    asked = command("query", shelf.picture, "--index", index, "--json", "-k", "30")
    fault, found = asked.fault, hits(asked)
    answered = "refused" if asked.status else "sound" if found == answer or asked.err.strip() else "differs"
    for arguments in (("verify",), ("info",), ("add", shelf.photos, "--quiet"), ("gc",)):
        ended = command(arguments[0], *arguments[1:], "--index", index)
        if ended.fault:
            fault = fault or f"{arguments[0]}: {ended.fault}"
    return fault, answered
