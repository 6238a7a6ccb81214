"""Measuring changes nothing: what `query` answers is equal before and after, whatever is measured and however."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from instsearch_cli.engine.query import Engine
from instsearch_cli.engine.runner import Runner
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


def test_what_an_interrupted_run_left_is_not_finished(
    cli: Cli, index: Path, photos: Path, manifest: Path, draw: Callable[..., None], monkeypatch: Any
) -> None:
    """Layers are shared: measuring the last pipeline would make the new images searchable."""
    cli("index", "--index", index, "--set", "extractor.side=5", "--name", "five", "--quiet")
    cli("index", "--index", index, "--set", "extractor.side=8", "--name", "eight", "--quiet")
    for i in range(20, 23):
        draw(photos / f"{i}.png", i)
    with monkeypatch.context() as patched:
        patched.setattr(Runner, "index_all", stop)
        cli("add", photos, "--index", index, status=130)
    before = answer(cli, index, photos)
    flags = ("--dataset", manifest, "--index", index)
    for more in ((), ("--rerank", "none"), ("--keep-features",)):
        told = cli("eval", *flags, *more, status=1).err
        assert "3 images of" in told
        assert f"Run `instsearch index --index {index}` first." in told
        assert answer(cli, index, photos) == before
    cli("eval", *flags, "--weighting", "bright")  # which shares nothing that is searched
    assert answer(cli, index, photos) == before
    told = cli("eval", *flags, "--pipeline", "five", status=1).err
    assert f"Run `instsearch add IMAGES --index {index} --pipeline five` first." in told
    cli("index", "--index", index, "--quiet")
    cli("eval", *flags)


def test_a_picture_that_went_bad_stays_where_a_query_finds_it(
    cli: Cli, index: Path, photos: Path, manifest: Path
) -> None:
    before, path = answer(cli, index, photos), photos / "b" / "8.png"
    good, times = path.read_bytes(), path.stat()
    path.write_bytes(good[:60] + bytes(len(good) - 60))  # of equal size and time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for verb in (("eval", "--set", "extractor.side=6"), ("saliency", "--precision", "--weighting", "bms")):
        told = cli(*verb, "--dataset", manifest, "--index", index, status=1).err
        assert "1 of the 10 images" in told
        assert "have changed: photos/b/8.png\nMeasuring adds none" in told
        after = answer(cli, index, photos)
        (caution,) = after.pop("cautions")
        assert caution.startswith("b/8.png changed since it was indexed")
        assert after | {"cautions": []} == before
    path.write_bytes(good)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    cli("eval", "--dataset", manifest, "--index", index, "--set", "extractor.side=6")


def test_an_image_that_cannot_be_read_is_skipped_as_add_skips_it(
    cli: Cli, index: Path, photos: Path, manifest: Path
) -> None:
    table = json.loads(manifest.read_text())
    (photos / "bad.png").write_bytes(b"no picture")
    table["images"].append("photos/bad.png")
    manifest.write_text(json.dumps(table))
    before, flags = answer(cli, index, photos), ("--dataset", manifest, "--index", index)
    told = cli("eval", *flags, "--json")
    assert told.json["images"] == {"dataset": 11, "indexed": 10}
    assert "warning: skipped photos/bad.png: " in told.err
    assert "photos/bad.png" in cli("eval", *flags, "--strict", status=1).err
    assert answer(cli, index, photos) == before


@pytest.mark.parametrize("where", [(Runner, "_map"), (Runner, "_build_search"), (Engine, "search")])
def test_stopped_by_ctrl_c(
    cli: Cli, index: Path, photos: Path, manifest: Path, monkeypatch: Any, where: tuple[type, str]
) -> None:
    before = answer(cli, index, photos)
    run = (
        "eval",
        "--dataset",
        manifest,
        "--index",
        index,
        "--set",
        "extractor.side=6",
        "--detector",
        "halves",
    )
    with monkeypatch.context() as patched:
        patched.setattr(*where, stop)
        told = cli(*run, "--run", index.parent / "x.run", status=130)
    assert "stopped; what was finished is kept, the same command goes on from there" in told.err
    assert "Traceback" not in told.err
    assert not (index.parent / "x.run").exists()
    assert answer(cli, index, photos) == before
    cli("verify", "--index", index, "--quiet")
    cli(*run)
    assert answer(cli, index, photos) == before
    fresh = index.parent / "fresh"
    with monkeypatch.context() as patched:
        patched.setattr(*where, stop)
        cli("eval", "--dataset", manifest, "--index", fresh, status=130)
    cli("eval", "--dataset", manifest, "--index", fresh)


def stop(*arguments: Any, **options: Any) -> None:
    """Ctrl-C, pressed here."""
    signal.raise_signal(signal.SIGINT)
