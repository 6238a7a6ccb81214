"""`instsearch eval --regions`: a detector's boxes against the annotated ones, from the index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_formats import Index
from schema_check import valid

Cli = Callable[..., Any]


@pytest.fixture
def manifest(photos: Path) -> Path:
    """Ten pictures; four have boxes, two of them one that is a half of the picture, as the detector has it."""
    names = [f"photos/a/{i}.png" for i in (1, 3, 5, 7, 9)] + [f"photos/b/{i}.png" for i in (0, 2, 4, 6, 8)]
    queries = [{"id": "q", "image": names[0], "box": None, "positives": [names[0], names[1]]}]
    path = photos.parent / "manifest.json"
    path.write_text(json.dumps({"name": "small", "images": names, "queries": queries}))
    rows = [
        f"{names[0]},0,0,32,48",
        f"{names[1]},32,0,32,48",
        f"{names[1]},0,0,32,36",
        f"{names[2]},16,0,32,48",
        f"{names[3]},0,0,4,4",
    ]
    (photos.parent / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *rows]))
    return path


def test_recall_of_the_pipelines_of_an_index(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    index = ("--index", tmp_path / "i")
    run = ("eval", "--dataset", manifest, *index)
    report = valid("eval-regions", cli(*run, *tiny, "--detector", "halves", "--regions", "--json").out)
    assert report["dataset"] == "small"
    assert report["images"] == {"dataset": 10, "indexed": 10}
    assert len(report["iou"]) == 19
    [row] = report["pipelines"]
    assert row["config"]["detector"]["name"] == "halves"
    assert (row["annotated_images"], row["annotated_boxes"], row["regions_per_image"]) == (4, 5, 2)
    at = dict(zip(report["iou"], row["recall"], strict=True))
    # overlaps of the five: 1, 1, 36 / 48, 1 / 3, 16 / 1536
    assert [at[t] for t in (0.05, 0.3, 0.35, 0.75, 0.8, 0.95)] == pytest.approx(
        [0.8, 0.8, 0.6, 0.6, 0.4, 0.4]
    )
    assert row["mean_best_iou"] == pytest.approx((1 + 1 + 0.75 + 1 / 3 + 16 / 1536) / 5)
    of = dict(zip(report["iou"], row["covering"], strict=True))
    # of the eight regions: 1, 0, 1, 0.75, 1/3, 1/3, 16/1536, 0
    assert [of[t] for t in (0.05, 0.3, 0.5, 0.95)] == pytest.approx([5 / 8, 5 / 8, 3 / 8, 2 / 8])

    cli(*run, *tiny, "--detector", "none")
    whole = cli(*run, *tiny, "--detector", "grid", "--set", "detector.levels=1", "--regions", "--json").json
    assert [r["config"]["detector"]["name"] for r in whole["pipelines"]] == ["grid"]
    both = cli(*run, "--regions", "--json").json
    assert sorted(r["config"]["detector"]["name"] for r in both["pipelines"]) == ["grid", "halves"]
    assert row in both["pipelines"]
    assert Index.open(tmp_path / "i").read_text("pipelines/LAST") is None  # what was measured is not asked

    plot = tmp_path / "recall.png"
    text = cli(*run, "--regions", "--plot", plot).out
    assert "small: 5 annotated boxes in 4 images" in text
    assert "wrote" in text
    assert plot.stat().st_size > 5000


def test_regions_are_read_not_found_again(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    import tiny_plugin  # type: ignore[import-not-found]

    run = (
        "eval",
        "--dataset",
        manifest,
        "--index",
        tmp_path / "i",
        *tiny,
        "--detector",
        "halves",
        "--regions",
    )
    first = cli(*run, "--json").json
    tiny_plugin.CALLS.clear()
    assert cli(*run, "--json").json == first
    assert tiny_plugin.CALLS == []


def test_what_cannot_be_measured_is_said(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest, "--index", tmp_path / "i", *tiny)
    assert "name a detector with --detector" in cli(*run, "--regions", status=2).err
    cli(*run)
    again = ("eval", "--dataset", manifest, "--index", tmp_path / "i", "--regions")
    assert "name a detector with --detector" in cli(*again, status=2).err
    found = (*run, "--detector", "halves", "--regions")
    assert "name a .png or .svg" in cli(*found, "--plot", tmp_path / "x.pdf", status=2).err
    assert "no folder" in cli(*found, "--plot", tmp_path / "nowhere/x.png", status=2).err
    assert "give both" in cli(*run, "--plot", tmp_path / "x.png", status=2).err
    assert "runs no queries" in cli(*found, "--top", 10, status=2).err
    (manifest.parent / "boxes.csv").unlink()
    assert "'small' has no annotated boxes" in cli(*found, status=1).err
