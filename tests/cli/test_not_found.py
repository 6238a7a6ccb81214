"""Objects that are not there: --min-score, what every report says then, `eval --absent`, and queries of nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

Cli = Callable[..., Any]
JUDGED = ("--rerank", "geometric", "--rerank", "verdict")
HIDDEN = (3, 5, 8)  # the scenes that show the object
BOX = "30,20,100,100"


def texture(seed: int, size: tuple[int, int], blur: float = 1.5) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stretched: np.ndarray = cv2.normalize(
        cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX
    )
    return stretched


def scene(path: Path, seed: int, thing: np.ndarray | None = None, at: tuple[int, int] = (30, 20)) -> Path:
    """A faint background with something on it."""
    pixels = 90 + texture(seed, (240, 180), 4) // 4
    if thing is not None:
        pixels[at[1] : at[1] + thing.shape[0], at[0] : at[0] + thing.shape[1]] = thing
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes in ``c``, three with the object in another place, and two queries with textured boxes."""
    folder = tmp_path_factory.mktemp("scenes")
    thing = texture(100, (100, 100))
    for i in range(10):
        other = thing if i in HIDDEN else texture(i + 50, (100, 100))
        scene(folder / "c" / f"{i}.png", i, other, (10 * i, 5 * i))
    scene(folder / "q" / "there.png", 20, thing)
    scene(folder / "q" / "absent.png", 21, texture(101, (100, 100)))
    PIL.Image.fromarray(np.full((180, 240, 3), 90, np.uint8)).save(folder / "q" / "blank.png")
    return folder


@pytest.fixture
def index(cli: Cli, place: Path) -> Path:
    path = place / "index"
    if not path.exists():
        cli(
            "index",
            place / "c",
            "--index",
            path,
            "--preset",
            "sift",
            "--searcher",
            "inverted",
            "--rerank",
            "none",
            "--quiet",
        )
    return path


def test_what_is_there_is_found_and_the_rest_left_out(cli: Cli, place: Path, index: Path) -> None:
    ask = ("query", place / "q" / "there.png", "--box", BOX, "--index", index, *JUDGED)
    plain = cli(*ask, "--json").json
    assert plain["found"] is True
    assert plain["threshold"] is None
    assert plain["probability"] is True
    scores = [hit["score"] for hit in plain["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    told = cli(*ask, "--json", "--min-score", 0.5).json
    assert told["found"] is True
    assert told["threshold"] == 0.5
    assert told["best"] == scores[0] > 0.9
    assert {hit["image"] for hit in told["hits"]} == {f"{i}.png" for i in HIDDEN}
    assert told["hits"] == [hit for hit in plain["hits"] if hit["score"] >= 0.5]
    for more, least in ((), ""), (("--min-score", 0.5), " of at least 0.5"):
        *_, third, line, fourth, _, _, _, _, _, _, summary = cli(*ask, *more).out.splitlines()
        assert third.startswith("   3  ")
        assert line == "-- below 0.5 --"
        assert fourth.startswith("   4  ")
        assert summary.startswith(f"3 found{least} among 10 images in ")
        assert summary.endswith("; the 7 nearest below the line")


def test_not_found_is_an_answer(cli: Cli, place: Path, index: Path) -> None:
    page, sheet = place / "none.html", place / "none.png"
    ask = ("query", place / "q" / "absent.png", "--box", BOX, "--index", index, *JUDGED, "--min-score", 0.9)
    out = cli(*ask, "--html", page, "--sheet", sheet).out
    assert out.splitlines()[1] == "-- below 0.9 --"
    assert "\nnot found: nothing reached 0.9; the best is " in out
    assert " among 10 images in " in out
    assert "; the 10 nearest below the line\n" in out
    written = page.read_text("utf-8")
    assert "<h1>Nothing reached 0.9; the best is 0." in written
    assert written.count("<li ") == 10
    assert "below 0.9</p>" in written
    assert sheet.stat().st_size > 0
    told = cli(*ask, "--json").json
    assert (told["found"], told["hits"]) == (False, [])
    assert told["best"] < 0.9
    paths = cli(*ask, "--paths0")
    assert paths.out == ""
    assert paths.err.startswith("not found: ")


def test_a_pipeline_may_say_how_much_is_enough(cli: Cli, place: Path, index: Path) -> None:
    ask = ("query", place / "q" / "absent.png", "--box", BOX, "--index", index, *JUDGED, "--json")
    enough = ("--set", "rerank.verdict.min-score=0.9")
    assert cli(*ask, *enough).json["found"] is False
    assert cli(*ask, *enough, "--min-score", 0).json["found"] is True
    wrong = cli(*ask, "--min-score", 90, status=2).err
    assert "are probabilities, and a min-score of them is from 0 to 1: 0.9 for 90 %" in wrong
    assert "between 0 and 1" in cli(*ask, "--set", "rerank.verdict.min-score=50", status=2).err


def test_refine_takes_the_pipelines_surer_rerankers(cli: Cli, place: Path, tmp_path: Path) -> None:
    """The images are read again: descriptors of the query's keypoints, not words alone, decide."""
    index = tmp_path / "index"
    shown = cli("presets", "sift").out
    refine = (
        '\n[[refine]]\nname = "verified-qe"\n[[refine]]\nname = "geometric"\n[[refine]]\nname = "verdict"\n'
    )
    (tmp_path / "sift.toml").write_text(shown + refine)
    cli("index", place / "c", "--index", index, "--preset", tmp_path / "sift.toml", "--quiet")
    ask = ("query", place / "q" / "there.png", "--box", BOX, "--index", index, "--json")
    plain, refined = (cli(*ask, *more).json for more in ((), ("--refine",)))
    for told in (plain, refined):
        assert {hit["image"] for hit in told["hits"][:3]} == {f"{i}.png" for i in HIDDEN}
    surer = ("--rerank", "verified-qe", "--rerank", "geometric")
    inliers, words = (cli(*ask, *more).json["hits"][0] for more in (surer, surer[:2]))
    assert refined["hits"][0]["box"] == inliers["box"]
    assert inliers["score"] > words["score"] > 1
    assert refined["hits"][0]["score"] > 0.9
    assert "exclude each other" in cli(*ask, "--refine", "--rerank", "none", status=2).err
    cli("index", "--index", index, "--encoder", "vlad", "--set", "encoder.over=local", "--quiet")
    assert "no [[refine]]" in cli(*ask, "--refine", status=2).err


def test_images_without_a_local_feature_are_named(cli: Cli, place: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "c", tmp_path / "index"
    for i in (3, 4):
        scene(folder / f"{i}.png", i, texture(i, (100, 100)))
    PIL.Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / "blank.png")
    said = cli("index", folder, "--index", index, "--preset", "sift", "--quiet").out
    assert "1 without a local feature, which no query finds: blank.png\n" in said
    scene(folder / "5.png", 5, texture(5, (100, 100)))
    assert cli("index", folder, "--index", index, "--json", "--quiet").json["blank"] == []


def test_min_score_goes_with_any_scores(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    ask = ("query", photos / "a" / "1.png", "--index", tmp_path / "i", "--json")
    hits = cli(*ask).json["hits"]
    third = hits[2]["score"]
    assert [hit["rank"] for hit in cli(*ask, "--min-score", third).json["hits"]] == [1, 2, 3]
    told = cli(*ask, "--min-score", 1.5)
    assert told.json["found"] is False
    assert "are no probabilities" in told.err
    assert "1.5 only cuts the list there" in told.json["cautions"][0]
    assert "'--min-score': nan is no number" in cli(*ask, "--min-score", "nan", status=2).err


def test_eval_asks_again_without_the_object(cli: Cli, place: Path, index: Path) -> None:
    images = [f"c/{i}.png" for i in range(10)]
    box = [int(v) for v in BOX.split(",")]
    queries = [
        {"id": "t", "image": "q/there.png", "box": box, "positives": [f"c/{i}.png" for i in HIDDEN[:2]]}
    ]
    manifest = place / "manifest.json"

    def measured(junk: list[str], *more: object) -> tuple[dict[str, float], dict[str, Any]]:
        table = {"name": "s", "images": images, "queries": [queries[0] | {"junk": junk}]}
        manifest.write_text(json.dumps(table))
        got = cli("eval", "--dataset", manifest, "--index", index, *JUDGED, "--absent", *more, "--json").json
        return got["metrics"], got["queries"][0]

    metrics, query = measured([f"c/{HIDDEN[2]}.png"], "--min-score", 0.5)
    assert (metrics["found"], metrics["false found"], metrics["found at 5% false"]) == (1, 0, 1)
    assert query["first"]
    assert query["true score"] == query["first score"] > 0.9 > 0.5 > query["absent score"]
    assert metrics["calibration error"] < 0.3
    # the third shows the object, and if it is not said to, it is found for something else
    metrics, query = measured([])
    assert "found" not in metrics
    assert query["absent score"] > 0.9
    plain = cli("eval", "--dataset", manifest, "--index", index, *JUDGED, "--json").json
    assert not any("found" in name or "calibration" in name for name in plain["metrics"])
    assert plain["metrics"]["mAP"] == metrics["mAP"]
    text = cli("eval", "--dataset", manifest, "--index", index, *JUDGED, "--absent").out
    assert "found at 5% false" in text


def test_options_that_need_each_other(cli: Cli, place: Path) -> None:
    run = ("eval", "--dataset", place / "manifest.json", "--index", place / "index")
    assert "--absent" in cli(*run, "--min-score", 0.5, status=2).err
    assert "no --absent" in cli(*run, "--absent", "--regions", status=2).err


# -- queries of nothing -------------------------------------------------------------------------------


def test_a_picture_without_a_keypoint(cli: Cli, place: Path, index: Path) -> None:
    err = cli("query", place / "q" / "blank.png", "--index", index, status=1).err
    assert "no keypoints in the picture" in err
    assert "larger box" not in err
    assert "--extractor squeezenet1_0" in err
    boxed = cli("query", place / "q" / "blank.png", "--box", "0,0,50,50", "--index", index, status=1).err
    assert "no keypoints in the picture" in boxed


def test_a_box_without_a_keypoint_says_that_there_are_elsewhere(cli: Cli, place: Path, index: Path) -> None:
    err = cli("query", place / "q" / "there.png", "--box", "200,150,20,20", "--index", index, status=1).err
    assert "no keypoints in the box, " in err
    assert " in the whole picture. Take a larger box" in err


def test_too_few_keypoints_to_verify_are_said(cli: Cli, place: Path, index: Path) -> None:
    ask = ("query", place / "q" / "there.png", "--index", index)
    assert "warning" not in cli(*ask).err
    err = cli(*ask, *JUDGED, "--box", BOX, "--set", "rerank.geometric.min-inliers=5000").err
    assert " keypoints in the box, and reranker 'geometric' verifies no hit by fewer than 5000: take a" in err
    assert "warning" not in cli(*ask, "--rerank", "none").err
