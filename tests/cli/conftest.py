"""A folder of small pictures, the tiny plugin, and the program run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_cli import main
from instsearch_cli.engine.registry import load_registry

FAKES = Path(__file__).parent / "fake_plugins"
TINY = ("--extractor", "cells", "--encoder", "centred", "--weighting", "flat", "--searcher", "scan")


@dataclass
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process; the status must be the expected one, if one is."""

    def call(*arguments: object, status: int | None = 0) -> Outcome:
        capsys.readouterr()
        code = main.run([str(a) for a in arguments])
        caught = capsys.readouterr()
        outcome = Outcome(code, caught.out, caught.err)
        assert status is None or code == status, outcome
        return outcome

    return call


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Install the tiny plugin; gives the flags that choose its components."""
    monkeypatch.syspath_prepend(str(FAKES / "tiny"))
    load_registry.cache_clear()
    yield TINY
    load_registry.cache_clear()


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> None:
    """A picture of random coloured blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures in two folders."""
    for i in range(10):
        picture(tmp_path / "photos" / ("a" if i % 2 else "b") / f"{i}.png", i)
    return tmp_path / "photos"


@pytest.fixture
def draw() -> Callable[..., None]:
    """Draw another picture: ``draw(path, seed, size)``."""
    return picture


@pytest.fixture
def run(cli: Callable[..., Any], tiny: tuple[str, ...], tmp_path: Path) -> Callable[..., Any]:
    """``run(dataset, root, ...)``: evaluate with the tiny components."""

    def call(name: str, root: Path, *arguments: object, status: int = 0) -> Any:
        index = ("--index", tmp_path / f"index-{name}")
        return cli("eval", "--dataset", name, "--root", root, *index, *tiny, *arguments, status=status)

    return call


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("tiny", "whole"):
        monkeypatch.syspath_prepend(str(FAKES / name))
    load_registry.cache_clear()
    yield
    load_registry.cache_clear()


Draw = Callable[..., None]


def people(rng: np.random.Generator, size: tuple[int, int], n: int = 4) -> list[Any]:
    return [(rng.random((int(rng.integers(1, 6)), 2)) * size).tolist() for _ in range(n)]


@pytest.fixture
def data(tmp_path: Path, draw: Draw) -> Path:
    """Six pictures of two sizes, each looked at by four people."""
    rng = np.random.default_rng(7)
    entries = {}
    for i in range(6):
        size = (96, 64) if i % 2 else (64, 48)
        draw(tmp_path / "data" / "images" / f"{i}.png", i, size)
        entries[f"{i}.png"] = {"size": size, "fixations": people(rng, size)}
    (tmp_path / "data" / "fixations.json").write_text(json.dumps(entries))
    return tmp_path / "data"
