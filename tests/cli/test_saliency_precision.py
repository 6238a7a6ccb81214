"""`instsearch saliency --precision`: the share of saliency on annotated objects, and what is kept of the work."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.saliency import centre_gaussian
from instsearch_cli.measure.saliency_precision import coverage, precision

FAKES = Path(__file__).parent / "fake_plugins"

Cli = Callable[..., Any]
Draw = Callable[..., None]

DOZEN = np.arange(1.0, 13).reshape(3, 4)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install the plugins; gives the module that counts what was fitted and weighed."""
    for name in ("tiny", "taught"):
        monkeypatch.syspath_prepend(str(FAKES / name))
    load_registry.cache_clear()
    import taught_plugin  # type: ignore[import-not-found]

    taught_plugin.FITS.clear()
    taught_plugin.MAPS.clear()
    yield taught_plugin
    load_registry.cache_clear()
    sys.modules.pop("taught_plugin", None)


@pytest.fixture
def dataset(tmp_path: Path, draw: Draw) -> Path:
    """Six pictures of 64 x 48, four of them annotated, one of those with two boxes."""
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        draw(tmp_path / "set" / name, i)
    manifest = tmp_path / "set" / "manifest.json"
    query = {"id": "q", "image": "0.png", "box": None, "positives": ["1.png"]}
    manifest.write_text(json.dumps({"name": "six", "images": names, "queries": [query]}))
    boxes = ["image,x,y,w,h", "0.png,16,0,32,32", "1.png,0,0,32,48", "2.png,8,8,8,8", "2.png,12,8,12,8"]
    (tmp_path / "set" / "boxes.csv").write_text("\n".join([*boxes, "3.png,0,0,64,48"]) + "\n")
    return manifest


def ask(manifest: Path, *weightings: str) -> list[object]:
    chosen = [flag for name in weightings for flag in ("--weighting", name)]
    index = manifest.parent.parent / "index"
    run = ["saliency", "--precision", "--dataset", manifest, "--index", index, "--quiet"]
    return [*run, "--extractor", "cells", *chosen]


def by_name(outcome: Any) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in outcome.json["rows"]}


# -- the measure ---------------------------------------------------------------------------------------


def test_the_cards_example() -> None:
    grid = Grid.over(3, 4, (64, 48))
    inside = coverage(grid, (64, 48), [(16, 0, 48, 32)])  # rows 0 and 1, columns 1 and 2
    assert inside.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert precision(DOZEN, inside) == pytest.approx(18 / 78, abs=1e-12)
    assert precision(DOZEN, inside) == pytest.approx(0.230769, abs=1e-6)


def test_a_cell_counts_by_the_share_that_the_boxes_cover_together() -> None:
    grid = Grid.over(1, 2, (20, 10))
    assert coverage(grid, (20, 10), [(5, 0, 15, 10)]) == pytest.approx(np.array([[0.5, 0.5]]))
    both = [(0, 0, 10, 5), (0, 2, 5, 10)]  # 50 + 40 - 15 of 100
    assert coverage(grid, (20, 10), both) == pytest.approx(np.array([[0.75, 0]]))
    assert coverage(grid, (20, 10), [both[0], both[0]]) == pytest.approx(np.array([[0.5, 0]]))


def test_of_cells_beyond_the_pictures_edge_only_what_is_in_the_picture_counts() -> None:
    grid = Grid(1, 3, (8.0, 8.0, -4.0, 0.0))  # cells from -4 to 20 in a picture 10 wide
    assert coverage(grid, (10, 8), [(0, 0, 10, 8)]) == pytest.approx(np.array([[1, 1, 0]]))
    assert coverage(grid, (10, 8), [(2, 0, 5, 8)]) == pytest.approx(np.array([[0.5, 1 / 6, 0]]))
    assert coverage(grid, (10, 8), [(-50, -50, 50, 50)]) == pytest.approx(np.array([[1, 1, 0]]))


def test_boxes_without_area_in_the_picture_cover_nothing() -> None:
    grid = Grid.over(3, 4, (64, 48))
    for box in [(70, 0, 80, 10), (10, 10, 10, 20), (20, 10, 10, 20), (0, -9, 9, 0)]:
        assert not coverage(grid, (64, 48), [box]).any()
    assert coverage(grid, (64, 48), []).tolist() == np.zeros((3, 4)).tolist()
    assert math.isnan(precision(np.zeros((3, 4)), np.ones((3, 4))))


whole = st.integers(-4, 24)
box = st.tuples(whole, whole, whole, whole).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(st.lists(box, min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_coverage_is_what_counting_pixels_gives(
    boxes: list[tuple[int, int, int, int]], h: int, w: int, step: int
) -> None:
    W, H = 20, 16
    mask = np.zeros((H, W))
    for x0, y0, x1, y1 in boxes:
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 1
    grid = Grid(h, w, (float(step), float(step), 2.0, -1.0))
    expected = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            y0, x0 = max(i * step - 1, 0), 2 + j * step
            cell = mask[y0 : max((i + 1) * step - 1, 0), x0 : x0 + step]
            expected[i, j] = cell.mean() if cell.size else 0
    assert coverage(grid, (W, H), boxes) == pytest.approx(expected, abs=1e-12)


# -- the command ---------------------------------------------------------------------------------------


def test_each_annotated_image_is_scored_on_its_boxes(cli: Cli, taught: Any, dataset: Path) -> None:
    rows = by_name(cli(*ask(dataset, "dozen"), "--json"))
    inside = {
        "0.png": 18 / 78,
        "1.png": (DOZEN[:, :2].sum()) / 78,
        "2.png": (1 * 8 * 8 / 256 + 2 * 8 * 8 / 256) / 78,  # the union: x 8 to 24, y 8 to 16
        "3.png": 1.0,
    }
    assert rows["dozen"]["precision"] == pytest.approx(inside, abs=1e-4)
    uniform = {"0.png": 1 / 3, "1.png": 0.5, "2.png": 128 / 3072, "3.png": 1.0}
    assert rows["uniform"]["precision"] == pytest.approx(uniform)
    values = np.array(list(inside.values()))
    quartiles = [rows["dozen"][q] for q in ("lower quartile", "median", "upper quartile")]
    assert quartiles == pytest.approx(np.percentile(values, [25, 50, 75]).tolist(), abs=1e-4)
    assert rows["dozen"]["mean"] == pytest.approx(values.mean(), abs=1e-4)
    assert rows["dozen"]["images"] == 4
    g = centre_gaussian((32, 24))
    assert rows["centre Gaussian"]["precision"]["0.png"] == pytest.approx(g[:16, 8:24].sum() / g.sum())


def test_an_equal_map_is_worth_as_much_as_the_boxes_are_large(cli: Cli, taught: Any, dataset: Path) -> None:
    rows = by_name(cli(*ask(dataset, "flat"), "--json"))
    assert rows["flat"]["precision"] == pytest.approx(rows["uniform"]["precision"], abs=1e-6)


def test_images_without_saliency_are_counted_and_left_out(cli: Cli, taught: Any, dataset: Path) -> None:
    report = cli(*ask(dataset, "some", "nothing"), "--json")
    rows = by_name(report)
    assert rows["some"]["precision"]["1.png"] is None
    assert (rows["some"]["images"], rows["some"]["undefined"]) == (3, 1)
    assert rows["some"]["mean"] == pytest.approx(np.mean([1 / 3, 128 / 3072, 1]), abs=1e-6)
    assert (rows["nothing"]["images"], rows["nothing"]["mean"]) == (0, None)
    said = cli(*ask(dataset, "some", "nothing")).out
    assert "some: no saliency anywhere in 1 of 4 images, left out" in said
    assert "nothing: no saliency anywhere in 4 of 4 images, left out" in said
    assert "4 annotated images = scored 4 + skipped 0 + not asked for 0" in said


def test_what_is_fitted_sees_the_whole_dataset_and_eval_finds_it(
    cli: Cli, taught: Any, dataset: Path
) -> None:
    first = by_name(cli(*ask(dataset, "unlike"), "--json"))["unlike"]
    assert taught.FITS == [[0, 1, 2, 3, 4, 5]]
    assert sorted(taught.MAPS) == [f"{i}.png" for i in range(6)]
    assert first["fitted"] == ["weighting 'unlike' on 6 images"]
    assert first["images/s"] > 0
    again = by_name(cli(*ask(dataset, "unlike", "flat"), "--json"))["unlike"]
    assert again["precision"] == first["precision"]
    assert (again["fitted"], again["images/s"]) == ([], None)
    index = dataset.parent.parent / "index"
    pipeline = ("--extractor", "cells", "--weighting", "unlike", "--encoder", "centred", "--searcher", "scan")
    cli("eval", "--dataset", dataset, "--index", index, *pipeline, "--quiet")
    assert len(taught.FITS) == 1
    assert len(taught.MAPS) == 6
    power = by_name(cli(*ask(dataset, "unlike"), "--set", "weighting.power=2", "--json"))["unlike"]
    assert len(taught.FITS) == 2  # another option, another map
    assert power["precision"] != first["precision"]
    assert power["config"]["weighting"] == {"name": "unlike", "power": 2.0}


def test_measuring_leaves_the_indexs_pipelines_alone(cli: Cli, taught: Any, dataset: Path) -> None:
    index = dataset.parent.parent / "index"
    pipeline = ("--extractor", "cells", "--weighting", "flat", "--encoder", "centred", "--searcher", "scan")
    cli("index", dataset.parent, "--index", index, *pipeline, "--quiet")
    before = {p.name: p.read_bytes() for p in (index / "pipelines").iterdir()}
    cli(*ask(dataset, "unlike"))
    assert {p.name: p.read_bytes() for p in (index / "pipelines").iterdir()} == before
    assert not list((index / "features").glob("*/part-*"))


def test_features_are_kept_if_asked(cli: Cli, taught: Any, dataset: Path) -> None:
    import tiny_plugin  # type: ignore[import-not-found]

    cli(*ask(dataset, "unlike"), "--keep-features")
    tiny_plugin.CALLS.clear()
    cli(*ask(dataset, "bright"), "--keep-features")
    assert not tiny_plugin.CALLS  # one extraction serves every weighting
    assert list((dataset.parent.parent / "index" / "features").glob("*/part-*"))


def test_the_table_adds_up(cli: Cli, taught: Any, dataset: Path) -> None:
    (dataset.parent / "2.png").write_bytes(b"no picture")
    with (dataset.parent / "boxes.csv").open("a") as file:
        file.write("5.png,900,900,10,10\n")
    outcome = cli(*ask(dataset, "dozen"), "--limit", "4")
    lines = outcome.out.splitlines()
    assert lines[0].split() == [
        "mean",
        "lower",
        "quartile",
        "median",
        "upper",
        "quartile",
        "images",
        "images/s",
    ]
    assert lines[1].split()[0] == "dozen"
    assert lines[1].split()[-2] == "3"
    assert [line.split("  ")[0] for line in lines[2:4]] == ["uniform", "centre Gaussian"]
    assert lines[2].split()[-1] == "–"
    # of 0, 1, 2, 3 and 5 four are asked for, evenly: 0, 1, 2 and 3
    assert lines[4] == "5 annotated images = scored 3 + skipped 1 + not asked for 1"
    assert lines[5].startswith("  skipped 2.png: ")
    assert lines[6].startswith("index: ")
    report = cli(*ask(dataset, "dozen"), "--json").json["images"]
    assert report["annotated"] == 5
    assert report["scored"] == 3
    assert report["not asked for"] == 0
    reasons = {entry["image"]: entry["reason"] for entry in report["skipped"]}
    assert reasons["5.png"] == "its boxes lie outside the picture"
    assert "cannot be read" in reasons["2.png"]


def test_images_that_are_not_there(cli: Cli, taught: Any, dataset: Path) -> None:
    (dataset.parent / "3.png").unlink()
    assert "--present-only" in cli(*ask(dataset, "dozen"), status=1).err
    report = cli(*ask(dataset, "dozen"), "--present-only", "--json").json["images"]
    assert report["skipped"] == [{"image": "3.png", "reason": "is not there"}]
    assert report["scored"] == 3


def test_a_dataset_without_boxes(cli: Cli, taught: Any, dataset: Path) -> None:
    (dataset.parent / "boxes.csv").rename(dataset.parent / "elsewhere.csv")
    failed = cli(*ask(dataset, "dozen"), status=1)
    assert "'six' has no annotated boxes" in failed.err
    assert not (dataset.parent.parent / "index").exists()
    found = cli(*ask(dataset, "dozen"), "--boxes", dataset.parent / "elsewhere.csv", "--json")
    assert found.json["images"]["scored"] == 4
    option = f"dataset.boxes={dataset.parent / 'elsewhere.csv'}"
    same = cli(*ask(dataset, "dozen"), "--set", option, "--json")
    assert by_name(same)["dozen"]["precision"] == by_name(found)["dozen"]["precision"]


def test_nothing_that_could_be_scored(cli: Cli, taught: Any, dataset: Path) -> None:
    (dataset.parent / "boxes.csv").write_text("image,x,y,w,h\n4.png,99,99,5,5\n")
    failed = cli(*ask(dataset, "dozen"), status=1)
    assert "none of the 1 annotated images could be scored: 4.png: its boxes lie outside" in failed.err


def test_histogram_and_sheet(cli: Cli, taught: Any, dataset: Path, tmp_path: Path) -> None:
    plot, sheet = tmp_path / "fig8.svg", tmp_path / "sheet.png"
    said = cli(*ask(dataset, "dozen", "some", "nothing"), "--histogram", plot, "--sheet", sheet).out
    assert f"wrote {plot}" in said
    assert f"wrote {sheet}" in said
    mean = by_name(cli(*ask(dataset, "dozen"), "--json"))["dozen"]["mean"]
    drawn = plot.read_text()
    assert f"<!-- dozen: mean {mean:.3f} -->" in drawn
    assert "<!-- nothing: no value -->" in drawn
    assert "<!-- share of 4 images -->" in drawn
    with PIL.Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    red = (pixels == (255, 45, 125)).all(-1)  # the boxes, in every panel: four rows of four columns
    h, w = pixels.shape[0] // 4, pixels.shape[1] // 4
    assert all(red[i * h : (i + 1) * h, j * w : (j + 1) * w].any() for i in range(4) for j in range(4))


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--precision"], 2, "--precision needs --dataset"),
        (["--precision", "--data", "x"], 2, "not on --data"),
        (["--precision", "--data", "x", "--dataset", "y"], 2, "not on --data"),
        (["--data", "x", "--dataset", "y"], 2, "--dataset goes with --precision"),
        (["--data", "x", "--index", "y"], 2, "--index goes with --precision"),
        (["--data", "x", "--histogram", "y.png"], 2, "--histogram goes with --precision"),
        (["--data", "x", "--keep-features"], 2, "--keep-features goes with --precision"),
        ([], 2, "Give --data, or --precision and --dataset"),
        (["--precision", "--dataset", "y", "--sigma", "3"], 2, "--sigma goes with --data"),
        (["--precision", "--dataset", "y", "--no-jitter"], 2, "--jitter goes with --data"),
        (["--precision", "--dataset", "y", "--held-out", "3"], 2, "--held-out goes with --data"),
        (["--precision", "--dataset", "instr"], 2, "Did you mean 'instre'"),
        (["--precision", "--dataset", "no.json"], 1, "cannot read no.json"),
        (["--precision", "--dataset", "no.json", "--histogram", "a.jpg"], 2, "a .png or .svg"),
        (["--precision", "--dataset", "no.json", "--histogram", "no/a.png"], 2, "there is no folder no"),
        (["--precision", "--dataset", "no.json", "--sheet", "no/a.png"], 2, "there is no folder no"),
    ],
)
def test_wrong_usage_of_precision_is_told_in_a_line_or_two(
    cli: Cli, taught: Any, flags: list[str], status: int, message: str
) -> None:
    failed = cli("saliency", "--weighting", "dozen", "--quiet", *flags, status=status)
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) <= 3
    assert "bug" not in failed.err


def test_weights_that_are_none_are_refused_as_when_indexing(cli: Cli, taught: Any, dataset: Path) -> None:
    failed = cli(*ask(dataset, "wrong"), status=1).err
    assert "weighting 'wrong' of tiny-plugin 1.0, image 0.png" in failed
    assert "not negative" in failed
