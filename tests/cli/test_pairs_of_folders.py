"""Pairs of folders that share file names, as the cards of cameras do: named as hits are, read as what they name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import instsearch
from instsearch_cli.engine.names import Names
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.training.netvlad_tuples import by_pairs
from paired_scenes import SIFT, scene

Cli = Callable[..., Any]
SHOWS = {"one/1.png": "A", "one/2.png": "B", "two/1.png": "C", "two/2.png": "A", "two/3.png": "B"}
MATCHING = {("one/1.png", "two/2.png"), ("3.png", "one/2.png")}


@pytest.fixture
def index(cli: Cli, tmp_path: Path) -> Path:
    for i, (name, shows) in enumerate(SHOWS.items()):
        scene(tmp_path / name, i, shows)
    cli("index", tmp_path / "one", tmp_path / "two", "--index", tmp_path / "i", *SIFT)
    return tmp_path / "i"


def test_pairs_name_images_as_hits_do(cli: Cli, index: Path, tmp_path: Path) -> None:
    cli("pairs", "--index", index, "-o", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        assert {tuple(sorted(pair)) for pair in csv.reader(file)} == MATCHING
    places = by_pairs(index, tmp_path / "p.csv")
    called = ["/".join(path.parts[-2:]) for path in places.paths]
    matching = {tuple(sorted((called[i], called[j]))) for i in range(5) for j in places.positives(i)}
    assert matching == {("one/1.png", "two/2.png"), ("one/2.png", "two/3.png")}


def test_a_name_of_two_images_is_none(index: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("1.png,2.png\n", "utf-8")
    with pytest.raises(InstsearchError, match=r"names 2 images .*: 1\.png, 2\.png"):
        by_pairs(index, tmp_path / "p.csv")


def test_every_name_of_hits_is_a_row(index: Path) -> None:
    store = instsearch.open(index).store
    names, rows = Names(store), np.flatnonzero(store.images.alive()).tolist()
    named = store.images.named(rows)
    assert {named[names.of(store.images.record(row))] for row in rows} == set(rows)
    assert named["3.png"] == named["two/3.png"]
    assert "1.png" not in named
    assert store.images.named(rows[:2])["1.png"] == rows[0]  # of these no other
