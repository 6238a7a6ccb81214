"""`instsearch query --per-image`: every region of an image a hit of its own, in every report; who cannot do it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

Cli = Callable[..., Any]
SIZE = (32, 24)
PLACES = {0: [(16, 12)], 1: [(0, 0), (32, 24)], 2: [(32, 0), (0, 24)]}  #: picture -> where the object is
GRID = ("--extractor", "cells", "--set", "extractor.side=8", "--weighting", "flat", "--detector", "grid")


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], tmp_path: Path) -> Path:
    """Six pictures without any blue, and a blue object in three of them, twice in two of these."""
    (tmp_path / "p").mkdir()
    for i in range(6):
        rng = np.random.default_rng(i)
        blocks = rng.integers(60, 250, (6, 8, 3), np.uint8) * np.array([1, 1, 0], np.uint8)
        pixels = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
        for x, y in PLACES.get(i, ()):
            pixels[y : y + SIZE[1], x : x + SIZE[0]] = (0, 0, 250)
        PIL.Image.fromarray(pixels).save(tmp_path / "p" / f"{i}.png")
    cli("index", tmp_path / "p", "--index", tmp_path / "i", *GRID, "--encoder", "regions")
    return tmp_path / "i"


def asked(index: Path, *more: object) -> tuple[object, ...]:
    return ("query", index.parent / "p" / "0.png", "--box", "16,12,32,24", "--index", index, *more)


def listed(cli: Cli, index: Path, *more: object) -> list[tuple[str, tuple[float, ...]]]:
    hits = cli(*asked(index, "--json", *more)).json["hits"]
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    return [(hit["image"], tuple(hit["box"])) for hit in hits]


OBJECTS = {(f"{i}.png", (x, y, *SIZE)) for i, places in PLACES.items() for x, y in places}


def test_all_instances_are_listed_with_their_boxes(cli: Cli, index: Path) -> None:
    assert set(listed(cli, index, "--per-image", 0, "-k", 5)) == OBJECTS


def test_one_an_image_is_the_default(cli: Cli, index: Path) -> None:
    one = listed(cli, index)
    assert one == listed(cli, index, "--per-image", 1)
    assert len(one) == len({image for image, _ in one}) == 6
    assert set(one[:3]) <= OBJECTS


def test_at_most_so_many(cli: Cli, index: Path) -> None:
    two = listed(cli, index, "--per-image", 2, "-k", 100)
    assert len(two) == 12
    assert {sum(image == name for name, _ in two) for image, _ in two} == {2}
    assert set(two[:5]) == OBJECTS


def test_every_factory(cli: Cli, index: Path) -> None:
    cli("index", "--index", index, "--searcher", "faiss", "--set", "searcher.factory=HNSW8")
    assert set(listed(cli, index, "--per-image", 0, "-k", 5)) == OBJECTS


def test_several_segments(cli: Cli, index: Path) -> None:
    """Pictures added later are a segment of their own."""
    more = index.parent / "more"
    more.mkdir()
    PIL.Image.open(index.parent / "p" / "2.png").save(more / "9.png")
    cli("add", more, "--index", index)
    found = listed(cli, index, "--per-image", 0, "-k", 7)
    again = {("9.png", box) for image, box in OBJECTS if image == "2.png"}
    assert {(Path(image).name, box) for image, box in found} == OBJECTS | again


def test_the_reports_show_each_region(cli: Cli, index: Path) -> None:
    page, sheet = index.parent / "hits.html", index.parent / "hits.png"
    out = cli(*asked(index, "--per-image", 0, "-k", 5, "--html", page, "--sheet", sheet)).out
    rows = [line.split() for line in out.splitlines()[1:6]]
    assert {(row[3], row[2]) for row in rows} == {(image, ",".join(map(str, box))) for image, box in OBJECTS}
    assert "5 hits in 3 images among 6 images in " in out
    text = page.read_text("utf-8")
    assert "<h1>5 hits in 3 images</h1>" in text
    for _, (x, y, w, h) in OBJECTS:
        assert f'<div class="where">{x},{y},{w},{h}</div>' in text
    assert text.count("<li ") == 5
    alone = index.parent / "alone.png"
    cli(*asked(index, "-k", 5, "--sheet", alone))
    assert PIL.Image.open(sheet).tobytes() != PIL.Image.open(alone).tobytes()


def test_paths_are_printed_once(cli: Cli, index: Path) -> None:
    paths = cli(*asked(index, "--per-image", 0, "-k", 5, "--paths0")).out.split("\0")[:-1]
    assert sorted(paths) == [str(index.parent / "p" / f"{i}.png") for i in range(3)]


def test_rerankers_and_other_searchers_say_what_to_do(cli: Cli, index: Path) -> None:
    err = cli(*asked(index, "--per-image", 2, "--rerank", "aqe"), status=2).err
    assert "reranker 'aqe'" in err
    assert "--rerank none" in err
    cli(*asked(index, "--per-image", 1, "--rerank", "aqe"))
    cli("index", "--index", index, "--searcher", "scan")
    assert "searcher 'scan' ranks whole images" in cli(*asked(index, "--per-image", 0), status=2).err
    cli(*asked(index, "--per-image", -1), status=2)


def test_queries_of_several_vectors_say_what_to_do(cli: Cli, index: Path) -> None:
    apart = ("--set", "encoder.query-apart=true", "--set", "encoder.query-levels=2")
    assert "query-apart=false" in cli(*asked(index, "--per-image", 0, *apart), status=2).err


def test_measuring_stays_with_images(cli: Cli, index: Path) -> None:
    queries = [{"id": "q", "image": "p/0.png", "box": [16, 12, 32, 24], "positives": ["p/1.png", "p/2.png"]}]
    images = [f"p/{i}.png" for i in range(6)]
    manifest = index.parent / "manifest.json"
    manifest.write_text(json.dumps({"name": "small", "images": images, "queries": queries}))
    report = cli(
        "eval", "--dataset", manifest, "--index", index.parent / "e", *GRID, "--encoder", "regions", "--json"
    )
    assert report.json["metrics"]["mAP"] == pytest.approx(1, abs=0.5)
    cli("eval", "--dataset", manifest, "--index", index.parent / "e", "--per-image", 2, status=2)
