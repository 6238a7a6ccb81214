"""`instsearch saliency`: the numbers of the table are those of the metrics, whatever the maps come from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, WeightMap
from instsearch_cli.measure.fixations import Fixations, blurred, fixated
from instsearch_cli.measure.saliency import METRICS, centre_gaussian, people_scores, spread
from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss, sim
from real_data import SCENES
from saliency_scores import by_name, expected, numbers, red

pytestmark = pytest.mark.usefixtures("fakes")

Cli = Callable[..., Any]


def bright(scene: Any) -> np.ndarray:
    """The tiny plugin's `bright` on its `cells`, spread by torch."""
    image = PIL.Image.open(scene.path)
    small = image.resize((min(image.width, 64), min(image.height, 48)), PIL.Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
    cells = F.adaptive_avg_pool2d(x, (4, 4)).half().float().mean(0)
    size = scene.pixels.shape[:2]
    return F.interpolate(cells[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


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
    assert rows["none"]["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6, "SIM": 6}
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
    assert rows["none"]["undefined"] == {"AUC-Judd": 6, "CC": 6, "NSS": 6, "SIM": 6}
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
            turns.append([auc_judd(P, S), cc(P, Q), nss(P, S), kl(P, Q), sim(P, Q)])
        each.append(np.mean(turns, axis=0))
        assert people_scores(scene) == pytest.approx(each[-1], rel=1e-6)
    row = by_name(cli("saliency", "--no-jitter", "--data", data, "--weighting", "none", "--json").json)[
        "people"
    ]
    assert list(numbers(row).values()) == pytest.approx(np.mean(each, axis=0).tolist(), rel=1e-6)


def test_one_person_cannot_be_predicted_and_a_crowd_is_sampled(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import instsearch_cli.measure.saliency as module

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
