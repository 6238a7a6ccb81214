"""`instsearch saliency`: the numbers of the table are those of the metrics, whatever the maps come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.io
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, WeightMap
from instsearch_cli.fixations import Fixations, blurred, fixated
from instsearch_cli.plugins import load_registry
from instsearch_cli.saliency import METRICS, centre_gaussian, people_scores, spread
from instsearch_cli.saliency_metrics import auc_judd, cc, kl, nss

FAKES = Path(__file__).parent / "fake_plugins"
SCENES = Path(__file__).parents[3] / "shared" / "data" / "scene-fixations"

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("tiny", "whole"):
        monkeypatch.syspath_prepend(str(FAKES / name))
    load_registry.cache_clear()
    yield
    load_registry.cache_clear()


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


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["rows"]}


def expected(data: Path, mapped: Callable[[Any], np.ndarray], jitter: float = 0.0) -> dict[str, float]:
    fixations = Fixations(data)
    table = []
    for name in fixations.names:
        scene = fixations.read(name)
        P = mapped(scene).astype(np.float64)
        S, Q = scene.fixations, scene.density
        table.append([auc_judd(P / P.max(), S, jitter), cc(P, Q), nss(P, S), kl(P, Q)])
    return dict(zip(METRICS, np.mean(table, axis=0).tolist(), strict=True))


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {m: row[m] for m in METRICS}


def bright(scene: Any) -> np.ndarray:
    """The tiny plugin's `bright` on its `cells`, spread by torch."""
    image = PIL.Image.open(scene.path)
    small = image.resize((min(image.width, 64), min(image.height, 48)), PIL.Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
    cells = F.adaptive_avg_pool2d(x, (4, 4)).half().float().mean(0)
    size = scene.pixels.shape[:2]
    return F.interpolate(cells[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


def red(scene: Any) -> np.ndarray:
    return np.asarray(scene.pixels[..., 0] / np.float32(255))


def test_maps_on_cells_are_scored_as_the_metrics_say(cli: Cli, data: Path) -> None:
    run = (
        "saliency",
        "--no-jitter",
        "--data",
        data,
        "--weighting",
        "bright",
        "--extractor",
        "cells",
        "--json",
    )
    report = cli(*run, "--weighting", "gaussian", "--weighting", "none").json
    rows = by_name(report)
    assert [row["name"] for row in report["rows"]] == [
        "bright",
        "gaussian",
        "none",
        "centre Gaussian",
        "people",
    ]
    assert numbers(rows["bright"]) == pytest.approx(expected(data, bright), abs=2e-3)
    assert numbers(rows["centre Gaussian"]) == pytest.approx(
        expected(data, lambda scene: centre_gaussian(scene.size))
    )
    assert numbers(rows["gaussian"]) == pytest.approx(expected(data, centre_cells), abs=2e-3)
    assert [rows["none"][m] for m in METRICS[:3]] == [None] * 3
    flat = expected(data, lambda scene: np.ones(scene.pixels.shape[:2]))
    assert rows["none"]["KL"] == pytest.approx(flat["KL"])
    assert rows["none"]["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6}
    assert all(row["images"] == 6 for row in report["rows"])
    assert rows["bright"]["images/s"] > 0
    assert rows["people"]["images/s"] is None
    assert rows["bright"]["config"]["extractor"]["name"] == "cells"
    assert rows["gaussian"]["config"] == {"weighting": {"name": "gaussian"}}
    skipped: list[Any] = []
    assert report["images"] == {"found": 6, "scored": 6, "skipped": skipped, "not asked for": 0}


def centre_cells(scene: Any) -> np.ndarray:
    """`gaussian` on the nominal grid, 32 cells along the longer side, spread by torch."""
    w, h = scene.size
    gw, gh = (max(1, round(n / (max(w, h) / 32))) for n in (w, h))
    y, x = (torch.linspace(-(n // 2), n // 2, n) for n in (gh, gw))
    g = torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * (min(gh, gw) / 3) ** 2))
    g = (g - g.min()) / (g.max() - g.min())
    return F.interpolate(g[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0].numpy()


def test_a_component_with_a_map_of_the_picture_is_scored_on_it(cli: Cli, data: Path) -> None:
    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "red", "--weighting", "half", "--json")
    rows = by_name(cli(*run).json)
    assert numbers(rows["red"]) == pytest.approx(expected(data, red))

    def half(scene: Any) -> np.ndarray:
        P = torch.from_numpy(red(scene)[::2, ::2].copy())[None, None]
        return F.interpolate(P, size=scene.pixels.shape[:2], mode="bilinear")[0, 0].numpy()

    assert numbers(rows["half"]) == pytest.approx(expected(data, half), abs=2e-3)
    jittered = by_name(cli("saliency", *run[2:]).json)
    assert numbers(jittered["red"]) == pytest.approx(expected(data, red, 1e-7))
    assert jittered["red"]["AUC-Judd"] != rows["red"]["AUC-Judd"]  # blocks of one colour tie
    assert jittered["red"]["NSS"] == rows["red"]["NSS"]


def test_a_weighting_that_reads_the_picture_gets_it_as_in_an_index_run(cli: Cli, data: Path) -> None:
    run = (
        "saliency",
        "--no-jitter",
        "--data",
        data,
        "--weighting",
        "narrow",
        "--extractor",
        "cells",
        "--json",
    )
    assert by_name(cli(*run).json)["narrow"]["undefined"] == {}


def test_blur_is_laid_over_maps_and_not_over_the_scale(cli: Cli, data: Path) -> None:
    from scipy.ndimage import gaussian_filter

    run = ("saliency", "--no-jitter", "--data", data, "--weighting", "red", "--weighting", "none", "--json")
    rows, plain = by_name(cli(*run, "--blur", 0.05).json), by_name(cli(*run).json)
    soft = expected(data, lambda s: gaussian_filter(red(s), 0.05 * s.size[0], mode="nearest"))
    assert numbers(rows["red"]) == pytest.approx(soft)
    assert rows["red"]["CC"] != plain["red"]["CC"]
    assert rows["none"]["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6}
    for name in ("centre Gaussian", "people"):
        assert rows[name] == plain[name]


def test_people_predict_each_other(cli: Cli, data: Path) -> None:
    fixations = Fixations(data)
    each = []
    for name in fixations.names:
        scene = fixations.read(name)
        turns = []
        for i, own in enumerate(scene.points):
            others = np.concatenate([p for j, p in enumerate(scene.points) if j != i])
            P, Q = (blurred(p, scene.size, scene.sigma) for p in (others, own))
            S = fixated(own, scene.size)
            turns.append([auc_judd(P, S), cc(P, Q), nss(P, S), kl(P, Q)])
        each.append(np.mean(turns, axis=0))
        assert people_scores(scene) == pytest.approx(each[-1], rel=1e-6)
    row = by_name(cli("saliency", "--no-jitter", "--data", data, "--weighting", "none", "--json").json)[
        "people"
    ]
    assert list(numbers(row).values()) == pytest.approx(np.mean(each, axis=0).tolist(), rel=1e-6)


def test_one_person_cannot_be_predicted_and_a_crowd_is_sampled(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instsearch_cli.saliency as module

    table = json.loads((data / "fixations.json").read_text())
    table["0.png"]["fixations"] = [[[3, 4], [8, 9]], []]
    (data / "fixations.json").write_text(json.dumps(table))
    fixations = Fixations(data)
    assert np.isnan(people_scores(fixations.read("0.png"))).all()
    scene = fixations.read("1.png")
    monkeypatch.setattr(module, "MOST_PEOPLE", 2)
    first_and_last = people_scores(scene)
    monkeypatch.setattr(module, "MOST_PEOPLE", 15)
    assert not np.allclose(first_and_last, people_scores(scene))


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
    assert lines[1].split()[:6] == ["red", *(f"{v:.3f}" for v in numbers(rows["red"]).values()), "6"]
    assert lines[0].split()[1:4] == ["–", "–", "–"]
    assert len({len(line) for line in (header, *lines)}) == 1
    assert "none: AUC-Judd, CC, NSS not defined in 6 of 6 images, left out" in text


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
    assert one["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6}


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
        (["--weighting", "wrong"], 1, "weighting 'wrong' of tiny-plugin 1.0 gave a map that is not finite"),
        (["--weighting", "hole"], 1, "not finite and not negative, for 0.png"),
        (["--weighting", "red", "--split", "val"], 2, "no splits"),
        (["--weighting", "red", "--sheet", "no/where.png"], 2, "there is no folder no"),
        (["--weighting", "red", "--blur", "7"], 2, "--blur"),
        (["--weighting", "red", "--sigma", "0"], 2, "--sigma"),
        (["--weighting", "red", "--data", "nowhere"], 1, "nowhere holds no fixations"),
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


rows_of_weights = st.integers(1, 5).flatmap(
    lambda h: st.integers(1, 5).flatmap(
        lambda w: st.lists(st.floats(0, 1, width=32), min_size=h * w, max_size=h * w).map(
            lambda v: np.array(v, np.float32).reshape(1, h, w)
        )
    )
)


@given(rows_of_weights, st.integers(6, 20), st.integers(6, 20))
def test_cells_are_spread_as_torch_interpolates(values: np.ndarray, H: int, W: int) -> None:
    _, h, w = values.shape
    laid = spread(WeightMap(torch.from_numpy(values), Grid.over(h, w, (W, H))), (W, H))
    whole = F.interpolate(torch.from_numpy(values)[None], size=(H, W), mode="bilinear", align_corners=False)
    assert laid == pytest.approx(whole[0, 0].numpy(), abs=1e-5)
    assert laid.dtype == np.float32
    flat = spread(WeightMap(torch.full((1, h, w), float(values.max())), Grid.over(h, w, (W, H))), (W, H))
    assert (flat == values.max()).all()


def test_cells_lie_where_their_grid_says() -> None:
    values = torch.tensor([[[0.0, 1.0]], [[0.0, 2.0]]])
    laid = spread(WeightMap(values, Grid(1, 2, (2.0, 2.0, 4.0, 0.0))), (10, 2))  # centres at x = 5 and 7
    line = [0, 0, 0, 0, 0, 0.75, 2.25, 3, 3, 3]
    assert laid == pytest.approx(np.array([line, line]))


def test_the_centre_gaussian_is_as_wide_as_the_picture() -> None:
    g = centre_gaussian((40, 20))
    assert g.shape == (20, 40)
    for i in range(20):
        for j in range(40):
            y, x = (i + 0.5) / 20 - 0.5, (j + 0.5) / 40 - 0.5
            assert g[i, j] == pytest.approx(math.exp(-(x * x + y * y) / (2 * 0.25**2)))


@pytest.mark.skipif(not SCENES.is_dir(), reason="the photographs with fixations are not here")
def test_real_fixations(cli: Cli) -> None:
    run = (
        "saliency",
        "--no-jitter",
        "--data",
        SCENES,
        "--weighting",
        "gaussian",
        "--weighting",
        "none",
        "--limit",
        5,
    )
    report = cli(*run, "--json").json
    rows = by_name(report)
    assert report["images"] == {"found": 500, "scored": 5, "skipped": [], "not asked for": 495}
    assert report["outside"] == 0
    assert 0.7 < rows["gaussian"]["AUC-Judd"] < rows["people"]["AUC-Judd"] < 1
    assert 0.5 < rows["gaussian"]["NSS"] < rows["people"]["NSS"]
    assert rows["centre Gaussian"]["KL"] < rows["none"]["KL"]
