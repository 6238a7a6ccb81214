"""`instsearch saliency`: its options, the pictures it leaves out, and what it prints and draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.io

import instsearch
from instsearch_cli.measure.fixations import Fixations
from instsearch_cli.measure.saliency import METRICS
from instsearch_cli.measure.saliency_metrics import cc
from saliency_scores import by_name, expected, numbers, red

pytestmark = pytest.mark.usefixtures("fakes")

Cli = Callable[..., Any]
Draw = Callable[..., None]


def test_a_picture_that_cannot_be_scored_is_counted_and_told(cli: Cli, data: Path) -> None:
    table = json.loads((data / "fixations.json").read_text())
    table["0.png"]["fixations"] = []
    table["1.png"]["size"] = [10, 10]
    table["3.png"]["fixations"][0].append([500, 1])
    (data / "images" / "2.png").write_bytes(b"")
    (data / "fixations.json").write_text(json.dumps(table))
    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "gaussian")
    report = cli(*run, "--limit", 5, "--json").json
    assert report["images"]["scored"] == 2
    assert report["images"]["not asked for"] == 1
    assert report["outside"] == 1
    assert {s["image"]: s["reason"] for s in report["images"]["skipped"]} == {
        "0.png": "nobody looked anywhere in it",
        "1.png": "is 96 x 64 pixels, and its fixations were recorded on 10 x 10",
        "2.png": "empty file",
    }
    text = cli(*run).out
    assert "6 images = scored 3 + skipped 3 + not asked for 0" in text
    assert "skipped 2.png: empty file" in text
    assert "1 fixations outside their image dropped" in text
    for i in (3, 4, 5):
        (data / "images" / f"{i}.png").write_bytes(b"x")
    failed = cli(*run, status=1)
    assert "none of the 6 pictures could be scored: 0.png: nobody" in failed.err


def test_the_table_for_people(cli: Cli, data: Path) -> None:
    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "none", "--weighting", "red")
    rows, text = by_name(cli(*run, "--json").json), cli(*run).out
    header, *lines = text.splitlines()[:5]
    assert header.split() == [*METRICS, "images", "images/s"]
    assert lines[1].split()[:7] == ["red", *(f"{v:.3f}" for v in numbers(rows["red"]).values()), "6"]
    assert lines[0].split()[1:4] == ["–", "–", "–"]
    assert len({len(line) for line in (header, *lines)}) == 1
    assert "none: AUC-Judd, CC, NSS, SIM not defined in 6 of 6 images, left out" in text


def test_which_images(cli: Cli, data: Path) -> None:
    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "red", "--json")
    held = cli(*run, "--held-out", 2).json
    assert held["images"] == {"found": 6, "scored": 2, "skipped": [], "not asked for": 4}
    fixations = Fixations(data)
    pair = [cc(red(fixations.read(n)), fixations.read(n).density) for n in ("4.png", "5.png")]
    assert by_name(held)["red"]["CC"] == pytest.approx(np.mean(pair))
    every = [cc(red(fixations.read(n)), fixations.read(n).density) for n in ("0.png", "2.png", "4.png")]
    assert by_name(cli(*run, "--limit", 3).json)["red"]["CC"] == pytest.approx(np.mean(every))
    assert "1 to 5" in cli(*run, "--held-out", 6, status=2).err


def test_salicon_is_read_too(cli: Cli, tmp_path: Path, draw: Draw) -> None:
    for split in ("train", "val"):
        draw(tmp_path / "images" / split / "a.jpg", 1, (64, 48))
        (tmp_path / "fixations" / split).mkdir(parents=True)
        gaze = np.zeros((2, 1), [("fixations", "O")])
        gaze[:, 0] = [(np.array([[10, 20]]),), (np.array([[40, 30], [12, 22 if split == "val" else 5]]),)]
        file = tmp_path / "fixations" / split / "a.mat"
        scipy.io.savemat(file, {"gaze": gaze, "resolution": np.array([[48, 64]])})
    run = ("saliency", "--no-jitter", "--data", tmp_path, "--weighting", "red", "--json")
    val, train = (cli(*run, "--split", split).json for split in ("val", "train"))
    assert cli(*run).json["rows"][0]["CC"] == val["rows"][0]["CC"] != train["rows"][0]["CC"]
    assert numbers(val["rows"][0]) == pytest.approx(expected(tmp_path, red))
    wide = cli(*run, "--sigma", 12).json["rows"][0]
    assert wide["NSS"] == val["rows"][0]["NSS"]
    assert wide["CC"] != val["rows"][0]["CC"]


def test_the_library_says_what_the_command_line_says(cli: Cli, data: Path) -> None:
    run = ("saliency", "--data", data, "--weighting", "red", "--limit", 4, "--blur", 0.02, "-j")
    said, report = cli(*run).json, instsearch.saliency(["red"], data, limit=4, blur=0.02).plain()
    for each in (said, report):
        for row in each["rows"]:
            row.pop("images/s")
    assert json.loads(json.dumps(report)) == said
    asked = {"split": None, "held_out": None, "limit": 4, "sigma": None, "blur": 0.02, "jitter": True}
    assert said["protocol"] == asked
    assert (said["data"], said["images"]["not asked for"]) == (str(data), 2)


def test_options_of_one_weighting_and_of_one_among_several(cli: Cli, data: Path) -> None:
    run = ("saliency", "--no-jitter", "--data", data, "--json")
    single = cli(*run, "--weighting", "red", "--set", "weighting.power=2").json["rows"][0]
    assert numbers(single) == pytest.approx(expected(data, lambda scene: red(scene) ** 2))
    assert single["config"] == {"weighting": {"name": "red", "power": 2.0}}
    both = ("--weighting", "red", "--weighting", "gaussian", "--weighting", "red")
    rows = cli(*run, *both, "--set", "weighting.red.power=2", "--set", "weighting.gaussian.sigma=.2").json
    assert [row["name"] for row in rows["rows"]][:2] == ["red", "gaussian"]
    assert numbers(rows["rows"][0]) == numbers(single)
    assert rows["rows"][1]["config"]["weighting"]["sigma"] == 0.2
    one = cli(
        *run, "--weighting", "bright", "--extractor", "cells", "--set", "extractor.side=1", status=0
    ).json["rows"][0]
    assert one["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6, "SIM": 6}


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--weighting", "gausian"], 2, "Did you mean 'gaussian'"),
        (["--weighting", "red", "--extractor", "cels"], 2, "Did you mean 'cells'"),
        (["--weighting", "red", "--set", "weighting.pover=2"], 2, "Did you mean 'power'"),
        (["--weighting", "red", "--set", "weighting.power=x"], 2, "is a number"),
        (["--weighting", "red", "--set", "weighting.rad.power=2"], 2, "Did you mean 'red'"),
        (["--weighting", "red", "--set", "encoder.words=2"], 2, "no stage 'encoder'"),
        (["--weighting", "red", "--set", "weighting.power"], 2, "--set takes"),
        (["--weighting", "red", "--weighting", "none", "--set", "weighting.power=2"], 2, "NAME.power=value"),
        (["--weighting", "fitted"], 2, "needs an indexed collection"),
        (["--weighting", "worded"], 2, "needs an indexed collection"),
        (["--weighting", "l2norm", "--extractor", "sift"], 2, "needs a feature map"),
        (
            ["--weighting", "wrong"],
            1,
            "weighting 'wrong' of tiny-plugin 1.0, image 0.png: made a torch.float32 tensor",
        ),
        (["--weighting", "hole"], 1, "not finite and not negative, for 0.png"),
        (["--weighting", "red", "--split", "val"], 2, "no splits"),
        (["--weighting", "red", "--sheet", "no/where.png"], 2, "there is no folder no"),
        (["--weighting", "red", "--sheet", "."], 2, "--sheet: . is a folder"),
        (["--weighting", "red", "--wait", "1"], 2, "--wait goes with --precision"),
        (["--weighting", "red", "--present-only"], 2, "--present-only goes with --precision"),
        (["--weighting", "red", "--no-keep-features"], 2, "--keep-features goes with --precision"),
        (["--weighting", "red", "--blur", "7"], 2, "--blur"),
        (["--weighting", "red", "--sigma", "0"], 2, "--sigma"),
        (["--weighting", "red", "--data", "x"], 2, "--data is given twice"),
        (["--weighting", "red", "--max-pixels", "9"], 1, "too large: 64 x 48 pixels"),
        ([], 2, "Missing option '--weighting'"),
    ],
)
def test_wrong_usage_is_told_in_a_line_or_two(
    cli: Cli, data: Path, flags: list[str], status: int, message: str
) -> None:
    failed = cli("saliency", "--no-jitter", "--data", data, "--quiet", *flags, status=status)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 3
    assert "bug" not in failed.err


def test_a_folder_without_fixations(cli: Cli) -> None:
    failed = cli("saliency", "--weighting", "red", "--data", "nowhere", "--quiet", status=1)
    assert "nowhere holds no fixations" in failed.err


def test_a_sheet_of_maps(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "red", "--weighting", "none")
    out = tmp_path / "maps.png"
    (data / "images" / "3.png").write_bytes(b"x")
    assert f"wrote {out}" in cli(*run, "--sheet", out).out
    with PIL.Image.open(out) as sheet:
        assert sheet.format == "PNG"
        sheet.load()
        assert sheet.width == 28 + 4 * (96 + 28)  # four columns
        assert sheet.height == 14 + 3 * (48 + 44) + 2 * (64 + 44) + 28  # a row a picture that was scored
        pixels = np.asarray(sheet.convert("RGB"))
    first = np.asarray(PIL.Image.open(data / "images" / "0.png"))
    assert (pixels[14 + 44 : 14 + 44 + 48, 28 : 28 + 64] == first).all()
    people = pixels[58 : 58 + 48, 152 : 152 + 64].astype(int)
    F0 = Fixations(data).read("0.png").density
    yellow = people[..., 0] + people[..., 1] - people[..., 2]
    assert yellow[F0 > 0.9].mean() > yellow[F0 < 0.05].mean() + 100
