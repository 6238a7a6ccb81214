"""Measuring changes nothing: what `query` answers is equal before and after, whatever is measured and however."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_formats import Index

Cli = Callable[..., Any]

MIXES = (
    "eval",
    "eval --rerank none",
    "eval --rerank again",
    "eval --rerank aqe --set rerank.aqe.depth=3",
    "eval --weighting bright",
    "eval --weighting gaussian --set weighting.sigma=0.4",
    "eval --detector halves",
    "eval --detector grid --set detector.levels=2",
    "eval --encoder centred --searcher scan",
    "eval --encoder sum --set encoder.dims=2 --searcher faiss",
    "eval --searcher scan --set extractor.side=8",
    "eval --extractor sift",
    "eval --preset sift --rerank none",
    "eval --pipeline cells-centred-flat",
    "eval --pipeline other --pipeline sift --html -",
    "eval --keep-features",
    "eval --weigh-query --weighting bright",
    "eval --crop-query",
    "eval --absent --min-score 0.1",
    "eval --top 3 --top-of reachable",
    "eval --present-only --strict",
    "eval --regions --detector halves",
    "eval --fit-on none --weighting bright --detector halves",
    "saliency --precision --weighting bms --weighting gaussian",
)


@pytest.fixture
def manifest(photos: Path, tmp_path: Path) -> Path:
    """Two queries over the ten photographs, with annotated boxes."""
    names = sorted(str(p.relative_to(tmp_path)) for p in photos.rglob("*.png"))
    queries = [
        {"id": f"q{i}", "image": names[i], "box": [8, 8, 40, 32], "positives": names[i + 1 : i + 3]}
        for i in range(2)
    ]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"name": "small", "images": names, "queries": queries}))
    lines = [f"{name},8,8,40,32" for name in names[:4]]
    (tmp_path / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *lines]) + "\n")
    return path


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    """An index of the photographs that has been asked for two pipelines; the last one has a reranker."""
    cli(
        "index",
        photos,
        "--index",
        tmp_path / "i",
        *tiny,
        "--set",
        "extractor.side=8",
        "--name",
        "other",
        "--quiet",
    )
    cli("index", "--index", tmp_path / "i", *tiny, "--rerank", "again", "--quiet")
    return tmp_path / "i"


def answer(cli: Cli, index: Path, photos: Path) -> Any:
    told = cli("query", photos / "a/1.png", "--index", index, "--box", "8,8,40,32", "--json").json
    return {key: value for key, value in told.items() if key != "seconds"}


def test_a_query_answers_as_before(cli: Cli, index: Path, photos: Path, manifest: Path) -> None:
    before, last = answer(cli, index, photos), (index / "pipelines" / "LAST").read_bytes()
    for mix in MIXES:
        verb, *flags = mix.split()
        cli(verb, "--dataset", manifest, "--index", index, *flags)
        assert answer(cli, index, photos) == before, mix
        assert (index / "pipelines" / "LAST").read_bytes() == last, mix
    recorded = cli("info", "--index", index, "--json").json
    assert set(recorded["pipelines"]) - set(recorded["measured"]) == {"cells-centred-flat", "other"}
    assert "eval-sift" in recorded["measured"]
    cli("gc", "--index", index, "--forget", "eval-*")
    assert answer(cli, index, photos) == before
    assert cli("info", "--index", index, "--json").json["measured"] == []


def test_reproducing_in_an_index_that_is_asked(cli: Cli, index: Path, photos: Path, manifest: Path) -> None:
    moved = index.parent / "several" / "manifest"  # where `reproduce --index several` has a manifest's index
    moved.parent.mkdir()
    index.rename(moved)
    before = answer(cli, moved, photos)
    flags = ("--dataset", manifest, "--index", moved.parent, "--extractor", "cells")
    told = cli("reproduce", "mohedano2018", "--table", "5", *flags, "--json").out
    assert '"measured": 0.' in told
    assert answer(cli, moved, photos) == before


def test_no_image_is_added_where_a_query_would_find_it(
    cli: Cli, tiny: tuple[str, ...], index: Path, photos: Path, manifest: Path, tmp_path: Path
) -> None:
    table = json.loads(manifest.read_text())
    PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photos" / "new.png")
    table["images"].append("photos/new.png")
    manifest.write_text(json.dumps(table))
    before = answer(cli, index, photos)
    for verb in (("eval",), ("saliency", "--precision", "--weighting", "bms")):
        told = cli(*verb, "--dataset", manifest, "--index", index, status=1)
        assert "1 of the 11 images of 'small' are not in" in told.err
        assert (
            "photos/new.png\nMeasuring adds none where `query` would find them: `instsearch add` them"
            in told.err
        )
        assert answer(cli, index, photos) == before
    cli("add", photos, "--index", index)
    assert cli("eval", "--dataset", manifest, "--index", index, "--json").json["images"]["indexed"] == 11
    assert len(Index.open(index).images) == 11
    shutil.copy(photos / "a/1.png", photos / "new.png")
    assert "are not in" in cli("eval", "--dataset", manifest, "--index", index, status=1).err


def test_an_index_that_is_only_measured_is_not_asked_unless_by_name(
    cli: Cli, tiny: tuple[str, ...], photos: Path, manifest: Path, tmp_path: Path
) -> None:
    index = tmp_path / "new"
    cli("eval", "--dataset", manifest, "--index", index, *tiny)
    told = cli("query", photos / "a/1.png", "--index", index, status=1).err
    assert "has no searchable pipeline yet.\nRun `instsearch index" in told
    assert "or ask one that was only measured: --pipeline eval-cells-centred-flat." in told
    assert cli("query", photos / "a/1.png", "--index", index, "--pipeline", "eval-cells-centred-flat").out
    assert "pipeline eval-cells-centred-flat (all images, only measured)" in cli("info", "--index", index).out
    cli("eval", "--dataset", manifest, "--index", index, *tiny, "--set", "extractor.side=8")
    first, second = cli("info", "--index", index, "--json").json["measured"]
    assert first == "eval-cells-centred-flat"
    assert second.startswith("eval-cells-centred-flat-")  # another pipeline of that name: nothing is lost
    cli("eval", "--dataset", manifest, "--index", index, *tiny)
    assert len(cli("info", "--index", index, "--json").json["measured"]) == 2


def test_what_is_measured_is_said_first_and_what_of_it_came_from_the_last_one(
    cli: Cli, index: Path, manifest: Path
) -> None:
    told = cli("eval", "--dataset", manifest, "--index", index, "--weighting", "bright").err
    lines = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert lines["weighting"] == "bright"
    assert lines["encoder"] == "centred  [from the last pipeline]"
    assert lines["rerank"] == "again  [from the last pipeline]"
    told = cli(
        "eval", "--dataset", manifest, "--index", index, "--encoder", "centred", "--searcher", "scan"
    ).err
    lines = dict(line.split(maxsplit=1) for line in told.splitlines() if line.startswith("  "))
    assert lines["weighting"] == "none"
    assert "rerank" not in lines
