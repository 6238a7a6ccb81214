"""A paper's figures: one option swept, measured value by value, printed and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from instsearch_cli.engine.registry import load_registry

Cli = Callable[..., Any]


@pytest.fixture
def collection(photos: Path) -> Path:
    """A manifest of ten pictures; each of the first three looks for itself and for the next one."""
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [
        {"id": names[i], "image": names[i], "box": [0, 0, 64, 48], "positives": names[i : i + 2]}
        for i in range(3)
    ]
    (photos / "mine.json").write_text(json.dumps({"name": "mine", "images": names, "queries": queries}))
    return photos / "mine.json"


@pytest.fixture
def flags(tiny: tuple[str, ...], collection: Path, tmp_path: Path) -> tuple[object, ...]:
    small = ("--extractor", "cells", "--set", "extractor.side=8")
    return ("--dataset", collection, "--index", tmp_path / "indexes", *small)


def layers(tmp_path: Path, kind: str) -> list[str]:
    folder = tmp_path / "indexes" / "mine" / kind
    return sorted(p.name.rpartition("-")[0] for p in folder.iterdir())


def test_a_figure_is_swept_and_what_lies_left_of_the_option_is_made_once(
    cli: Cli, flags: tuple[object, ...], tmp_path: Path, collection: Path
) -> None:
    run = ("reproduce", "simeoni2018", "--figure", 5, *flags, "--keep-features")
    said = cli(*run, "--values", "1, 2.5,5", "--json").json
    assert (said["figure"], said["x"], said["datasets"]) == ("5", "detector.rho", [str(collection)])
    curves = {row["name"]: row["results"][str(collection)] for row in said["rows"]}
    assert set(curves) == {"FS.EGM", "OS.EGM"}
    for points in curves.values():
        assert [point["x"] for point in points] == [1, 2.5, 5]
        assert all(0 < point["measured"] <= 1 and point["seconds"] > 0 for point in points)
    assert layers(tmp_path, "features") == ["cells"]
    assert layers(tmp_path, "weights") == ["fs", "os"]
    assert [name for name in layers(tmp_path, "models") if name == "os"] == ["os"]
    assert layers(tmp_path, "regions") == ["egm"] * 6
    recorded = {p.stem for p in (tmp_path / "indexes/mine/pipelines").glob("*.toml")}
    assert recorded == {f"simeoni2018-fig5-{c}-rho-{v}" for c in ("FS.EGM", "OS.EGM") for v in (1, 2.5, 5)}
    one = (tmp_path / "indexes/mine/pipelines/simeoni2018-fig5-FS.EGM-rho-2.5.toml").read_text()
    assert "rho = 2.5" in one
    assert "tau = 0.4" in one
    written = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "indexes/mine").rglob("part-*.h5"))
    again = cli(*run, "--values", "5").out
    assert written == sorted(
        (p, p.stat().st_mtime_ns) for p in (tmp_path / "indexes/mine").rglob("part-*.h5")
    )
    assert again.splitlines()[-2].split() == ["5", *(f"{c[-1]['measured']:.3f}" for c in curves.values())]


def test_a_sweep_measures_what_eval_does(
    cli: Cli, flags: tuple[object, ...], tmp_path: Path, collection: Path
) -> None:
    run = ("reproduce", "simeoni2018", "--figure", 7, *flags, "--values", "2", "--json")
    rows = cli(*run, "--set", "searcher.k=4").json["rows"]
    assert [row["name"] for row in rows] == ["FS.EGM", "OS.EGM"]
    chosen = {
        "FS.EGM": ("fs", "detector.rho=5", "detector.tau=0.4"),
        "OS.EGM": ("os", "detector.rho=2", "detector.tau=0"),
    }
    for row in rows:
        weighting, *settings = chosen[row["name"]]
        settings += ["encoder.whiten=sum", "encoder.weighted=false", "encoder.query-levels=0", "searcher.k=4"]
        settings += ["detector.sigma=2", "extractor.side=8"]
        stages = {"extractor": "cells", "weighting": weighting, "detector": "egm", "encoder": "regions-sum"}
        alone = cli(
            *("eval", "--dataset", collection, "--index", tmp_path / "alone", "--searcher", "diffusion"),
            *(word for stage, name in stages.items() for word in (f"--{stage}", name)),
            *(word for setting in settings for word in ("--set", setting)),
            *("--rerank", "none", "--json"),
        ).json
        (point,) = row["results"][str(collection)]
        assert point["measured"] == pytest.approx(alone["metrics"]["mAP"])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_figure_is_drawn(cli: Cli, flags: tuple[object, ...], tmp_path: Path, suffix: str) -> None:
    plot = tmp_path / f"sweep{suffix}"
    said = cli("reproduce", "simeoni2018", "--figure", 6, *flags, "--values", "0,0.5", "--plot", plot)
    assert "--keep-features keeps them on disk" in said.err
    assert "simeoni2018-fig6-OS.EGM-tau-0.5 on mine" in said.err
    out = said.out
    assert out.startswith("simeoni2018, figure 6: ")
    assert "mine, mAP\ntau " in out
    assert [line.split()[0] for line in out.splitlines()[4:6]] == ["0", "0.5"]
    assert out.endswith(f"wrote {plot}\n")
    if suffix == ".png":
        with PIL.Image.open(plot) as image:
            assert image.width > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    else:
        assert "<svg" in plot.read_text()[:500]


def test_curves_of_one_point_and_the_time_of_a_query(
    cli: Cli, flags: tuple[object, ...], tmp_path: Path, collection: Path
) -> None:
    plot = tmp_path / "10.svg"
    run = ("reproduce", "simeoni2018", "--figure", 10, *flags, "--values", "2,5")
    said = cli(*run, "--json", "--plot", plot).json
    assert said["seconds"] is True
    points = {row["name"]: row["results"][str(collection)] for row in said["rows"]}
    assert [point["x"] for point in points["OS.EGM, diffusion"]] == [1]
    for name in ("R-Match", "regional diffusion"):
        assert [point["x"] for point in points[name]] == [2, 5]
    for curve in points.values():
        assert all(0 < point["measured"] <= 1 and point["seconds"] > 0 for point in curve)
    assert plot.stat().st_size > 1000
    lines = cli(*run).out.splitlines()
    by_x = {line.split()[0]: line for line in lines[4:7]}
    assert list(by_x) == ["1", "2", "5"]
    assert by_x["1"].count("ms") == 2
    assert by_x["5"].count("ms") == 2


def test_a_curve_that_cannot_be_measured_says_why(
    cli: Cli, flags: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(load_registry().offers["weighting"], "os")
    plot = tmp_path / "5.png"
    run = ("reproduce", "simeoni2018", "--figure", 5, *flags, "--plot", plot)
    out = cli(*run, "--values", "2,5").out
    assert [line.split()[-1] for line in out.splitlines()[4:6]] == ["[1]", "[1]"]
    assert "\n[1] no weighting is called 'os'." in out
    assert plot.exists()
    plot.unlink()
    monkeypatch.delitem(load_registry().offers["weighting"], "fs")
    failed = cli(*run, "--values", "2,5", status=1)
    assert "[2] no weighting is called 'os'" in failed.out
    assert "nothing of figure 5 was measured" in failed.err
    assert not plot.exists()


def test_a_figure_that_another_command_makes_names_it(cli: Cli) -> None:
    assert "instsearch saliency --precision" in cli("reproduce", "simeoni2018", "--figure", 8).out
    said = cli("reproduce", "simeoni2018", "--figure", 8, "--json").json
    assert said["command"].startswith("instsearch saliency --precision")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--figure", 1), "simeoni2018 has no figure 1 here. There is table 1: --table 1."),
        (("--figure", 11), "simeoni2018 has no figure 11 here. Did you mean '10'?"),
        (("--table", 5), "simeoni2018 has no table 5 here. There is figure 5: --figure 5."),
        (("--table", 9, "--figure", 5), "There is figure 9"),
        (("--values", "1,2"), "--values are of one figure that is measured"),
        (("--figure", 5, "--figure", 6, "--values", "1"), "--values are of one figure"),
        (("--figure", 8, "--values", "1"), "--values are of one figure that is measured"),
        (("--figure", 5, "--values", ","), "1,2,5 say"),
        (("--figure", 5, "--values", "1,b"), "detector.rho is a number, not 'b'"),
        (("--figure", 6, "--values", "0.2,2"), "tau is from 0 to 1, not 2"),
        (("--table", 1, "--plot", "x.png"), "--plot draws one figure"),
        (("--figure", 5, "--plot", "x.gif"), "--plot x.gif: name a .png or .svg file"),
        (("--figure", 5, "--plot", "no/x.png"), "there is no folder no"),
        (("--figure", 5, "--plot", "."), "--plot: . is a folder"),
        (("--figure", 5, "--set", "detector.rho=3"), "--set detector.rho=3: figure 5 sweeps it"),
        (("--figure", 8, "--set", "detector.rho=3"), "no row of figure 8 has such an option"),
        (("--figure", 5, "--set", "encoder.wrods=3"), "no row of figure 5 has such an option"),
        (
            ("--set", "rerank.spatial.depth=3"),
            "no row of table 1, figure 5, figure 6, figure 7, figure 10 has",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(cli: Cli, words: tuple[object, ...], said: str) -> None:
    refused = cli("reproduce", "simeoni2018", *words, status=2)
    assert said in refused.err
    assert refused.out == ""
