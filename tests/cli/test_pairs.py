"""Matching pairs are found in the collection without labels, and an encoder learns from the file."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from instsearch_cli.engine.session import Index
from instsearch_cli.measure.pairs import Miner, Pair, at_most, writable
from instsearch_cli.progress import Quiet
from paired_scenes import SIFT, scene

Cli = Callable[..., Any]
SHOWS = {"a/0.png": "A", "a/1.png": "A", "b/2.png": "A", "b/3.png": "B", "b/4.png": "B", "c, d.png": "C"}
MATCHING = {("a/0.png", "a/1.png"), ("a/0.png", "b/2.png"), ("a/1.png", "b/2.png"), ("b/3.png", "b/4.png")}


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three pictures of one object, two of another, one of a third."""
    for i, (name, shows) in enumerate(SHOWS.items()):
        scene(tmp_path / "p" / name, i, shows)
    return tmp_path / "p"


@pytest.fixture
def index(cli: Cli, scenes: Path, tmp_path: Path) -> Path:
    cli("index", scenes, "--index", tmp_path / "i", *SIFT)
    return tmp_path / "i"


def read(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(line) for line in csv.reader(file)]


def unordered(pairs: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    found = {tuple(sorted(pair)) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def test_pictures_of_one_object_are_pairs_and_no_others(cli: Cli, index: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "pairs.csv", tmp_path / "pairs.png"
    said = cli("pairs", "--index", index, "-o", out, "--sheet", sheet).out
    assert unordered(read(out)) == MATCHING
    assert "6 images, 15 candidates checked, 4 pairs of 5 images" in said
    assert "15 candidates = 4 pairs + 11 with too few inliers" in said
    with PIL.Image.open(sheet) as drawn:
        assert drawn.size[0] > 4 * 240
    found = cli("pairs", "--index", index, "-o", out, "--force", "--json").json
    inliers = [pair["inliers"] for pair in found["pairs"]]
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == read(out)
    assert inliers == sorted(inliers, reverse=True)
    assert min(inliers) >= 15
    assert found["candidates"] == found["rejected"] + len(inliers) == 15
    assert found["images"] == {"wanted": 6, "asked": 6, "skipped": []}


def test_options(cli: Cli, index: Path, tmp_path: Path) -> None:
    run = ("pairs", "--index", index, "-o", tmp_path / "p.csv", "--force", "--json")
    few = cli(*run, "--images", "2", "--seed", "3").json
    assert few["images"]["asked"] == 2
    assert few["candidates"] == 5 + 4
    assert few == cli(*run, "--images", "2", "--seed", "3").json
    assert cli(*run, "--top", "1").json["candidates"] <= 6
    capped = cli(*run, "--per-image", "1").json
    assert len(capped["pairs"]) == 2
    assert capped["over per-image"] == 2
    assert capped["candidates"] == 2 + 2 + capped["rejected"]
    most = max(pair["inliers"] for pair in capped["pairs"])
    assert len(cli(*run, "--min-inliers", most).json["pairs"]) == 1
    strict = cli(*run, "--min-inliers", most, "--set", "rerank.geometric.ratio=0.1", status=1).err
    assert "no pair among 15 candidates of 6 images" in strict


def test_copies_of_a_file_are_no_pair(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    shutil.copy(scenes / "b/3.png", scenes / "again.png")
    cli("index", scenes, "--index", tmp_path / "i", *SIFT)
    cli("pairs", "--index", tmp_path / "i", "-o", tmp_path / "p.csv")
    assert unordered(read(tmp_path / "p.csv")) == {*MATCHING, ("again.png", "b/4.png")}


def test_what_cannot_be_asked_is_skipped_and_counted(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (240, 200), (90, 90, 90)).save(scenes / "plain.png")
    (scenes / "a/0.png").rename(scenes / " 0.png")
    cli("index", scenes, "--index", tmp_path / "i", *SIFT)
    (scenes / "b/3.png").unlink()
    found = cli("pairs", "--index", tmp_path / "i", "-o", tmp_path / "p.csv", "--json").json
    reasons = {entry["image"]: entry["reason"] for entry in found["images"]["skipped"]}
    assert reasons.pop("plain.png") == "no keypoints in the picture"
    assert reasons.pop(" 0.png") == "a pairs file cannot hold its name"
    assert reasons.pop("b/3.png").startswith("cannot be read: No such file")
    assert not reasons
    assert found["images"]["asked"] + 3 == found["images"]["wanted"]
    assert unordered(read(tmp_path / "p.csv")) == {("a/1.png", "b/2.png"), ("b/3.png", "b/4.png")}


def test_a_file_that_is_there_is_kept(cli: Cli, index: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    out.write_text("mine")
    assert "is there already: --force replaces it" in cli("pairs", "--index", index, "-o", out, status=1).err
    assert out.read_text() == "mine"
    assert "no folder" in cli("pairs", "--index", index, "-o", tmp_path / "no/p.csv", status=2).err
    assert "--out" in cli("pairs", "--index", index, status=2).err
    other = tmp_path / "other.csv"
    assert str(tmp_path / "gone") in cli("pairs", "--index", tmp_path / "gone", "-o", other, status=1).err
    assert "no pipeline" in cli("pairs", "--index", index, "--pipeline", "x", "-o", other, status=2).err
    assert not other.exists()


def test_unrelated_pictures_give_no_file(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    for name in ("a", "b/4.png"):
        shutil.rmtree(scenes / name) if (scenes / name).is_dir() else (scenes / name).unlink()
    cli("index", scenes, "--index", tmp_path / "i", *SIFT)
    failed = cli("pairs", "--index", tmp_path / "i", "-o", tmp_path / "p.csv", status=1)
    assert "no pair among 3 candidates of 3 images has 15 inliers" in failed.err
    assert not (tmp_path / "p.csv").exists()


def test_ctrl_c_keeps_what_was_found(
    cli: Cli, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Miner._ask, []

    def interrupted(self: Miner, row: int, *rest: Any) -> list[Pair]:
        asked.append(row)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, row, *rest)

    monkeypatch.setattr(Miner, "_ask", interrupted)
    stopped = cli("pairs", "--index", index, "-o", tmp_path / "p.csv", status=130)
    assert "4 of 6 images were not asked" in stopped.err
    assert "2 images, 9 candidates checked" in stopped.out
    assert unordered(read(tmp_path / "p.csv")) == {pair for pair in MATCHING if "a" in pair[0]}


def test_whitening_is_learnt_from_the_file(
    cli: Cli, tiny: tuple[str, ...], index: Path, scenes: Path, tmp_path: Path
) -> None:
    """Keypoints find the pairs; an encoder of maps, in the same index, learns from them."""
    out = tmp_path / "pairs.csv"
    cli("pairs", "--index", index, "-o", out)
    maps = ("--extractor", "cells", "--encoder", "regions-sum", "--detector", "grid", "--weighting", "flat")
    learnt = ("--set", "encoder.whiten=sum", "--set", f"encoder.pairs={out}")
    made = cli("index", "--index", index, *maps, *learnt, "--searcher", "faiss", "--name", "m", "--json").json
    assert "encoder 'regions-sum' on 6 images" in json.dumps(made["fitted"])
    hits = cli("query", scenes / "b/3.png", "--index", index, "--json").json["hits"]
    assert hits[0]["image"] == "b/3.png"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
    failed = cli("pairs", "--index", index, "-o", tmp_path / "p.csv", status=1).err
    assert "pipeline 'm' has none, 'cells' makes maps" in failed
    assert f"instsearch index --index {index} --preset sift" in failed
    again = cli("pairs", "--index", index, "--pipeline", "sift-bovw", "-o", tmp_path / "p.csv")
    assert read(tmp_path / "p.csv") == read(out), again


def test_the_best_pairs_of_an_image_stay() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    pairs = [Pair(*pair, box) for pair in ((0, 1, 20), (1, 2, 40), (2, 0, 30), (3, 4, 15), (0, 3, 15))]
    assert [pair[:3] for pair in at_most(pairs, None)] == [
        (1, 2, 40),
        (2, 0, 30),
        (0, 1, 20),
        (0, 3, 15),
        (3, 4, 15),
    ]
    assert [pair[:2] for pair in at_most(pairs, 1)] == [(1, 2), (0, 3)]
    assert [pair[:2] for pair in at_most(pairs, 2)] == [(1, 2), (2, 0), (0, 1), (3, 4)]


@pytest.mark.parametrize(
    ("name", "can"),
    [("a b.jpg", True), ('c, "d".jpg', True), ("ö.jpg", True), (" a.jpg", False), ("\udcff.jpg", False)],
)
def test_names_that_a_pairs_file_can_hold(name: str, can: bool) -> None:
    assert writable(name) == can


def test_pairs_are_verified_in_one_thread(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    miner, seen = Miner.of(Index.open(index)), []

    def verified(*asked: object) -> list[Pair]:
        seen.extend(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")
        return []

    monkeypatch.setattr(miner, "_verified", verified)
    with threadpool_limits(2, "blas"):
        miner.mine(miner.sample(0, 0), 3, 4, Quiet())
    assert set(seen) == {1}
