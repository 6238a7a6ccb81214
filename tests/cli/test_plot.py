"""Curves and histograms: what is on the file, by its pixels and, in an SVG, by its texts."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instsearch_cli.errors import InstsearchError
from instsearch_cli.report.plot import COLOURS, PAPER, Curve, _spaced, curves, histogram

NAN = math.nan


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def painted(path: Path, colour: str, until: int = 600) -> np.ndarray:
    """The pixels (y, x) that have a colour exactly, left of the names at the curves' ends."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return np.argwhere((pixels[:, :until] == rgb(colour)).all(-1))


def texts(path: Path) -> list[str]:
    """What an SVG says: matplotlib draws letters as outlines and keeps the text in a comment."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_a_curve_lies_where_its_values_say_and_the_sheet_has_its_size(tmp_path: Path) -> None:
    curves(tmp_path / "a.png", [Curve("up", [1, 2, 3], [0.1, 0.2, 0.3])], "k", "mAP", "A title")
    image = Image.open(tmp_path / "a.png")
    assert (image.format, image.size) == ("PNG", (800, 500))
    assert image.convert("RGB").getpixel((2, 2)) == tuple(rgb(PAPER))
    y, x = painted(tmp_path / "a.png", COLOURS[0]).T
    middle = (x.max() + x.min()) / 2
    assert y[x < middle - 50].min() > y[x > middle + 50].max()  # it rises from left to right
    at_middle = y[np.abs(x - middle) < 2].mean()
    assert abs(at_middle - (y.min() + y.max()) / 2) < 3  # and evenly


def test_a_value_that_is_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    whole, gap = tmp_path / "whole.png", tmp_path / "gap.png"
    curves(whole, [Curve("a", [1, 2, 3, 4], [1.0, 1.0, 1.0, 1.0])], "k", "mAP")
    curves(gap, [Curve("a", [1, 2, 3, 4], [1.0, NAN, math.inf, 1.0])], "k", "mAP")
    columns = [np.unique(painted(path, COLOURS[0], 760)[:, 1]) for path in (whole, gap)]
    assert np.diff(columns[0]).max() < 10  # from marker to line
    assert np.diff(columns[1]).max() > 300


def test_values_are_drawn_in_the_order_of_x(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    curves(a, [Curve("a", [1, 2, 3], [0.3, 0.1, 0.2], notes=["one", "two", "three"])], "k", "mAP")
    curves(b, [Curve("a", [3, 1, 2], [0.2, 0.3, 0.1], notes=["three", "one", "two"])], "k", "mAP")
    assert np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))


def test_a_reported_curve_is_dashed_in_the_colour_of_its_measured_one(tmp_path: Path) -> None:
    ours, theirs = Curve("OS", [1, 2], [0.5, 0.5]), Curve("OS", [1, 2], [0.7, 0.7], reported=True)
    curves(tmp_path / "a.png", [theirs, Curve("FS", [1, 2], [0.3, 0.3]), ours], "k", "mAP")
    y, x = painted(tmp_path / "a.png", COLOURS[1]).T
    rows = np.unique(y)
    upper, lower = x[y < rows.mean()], x[y > rows.mean()]
    assert np.diff(np.unique(lower)).max() < 10
    assert (np.diff(np.unique(upper)) > 2).sum() > 10  # both there, the reported one in strokes
    curves(tmp_path / "a.svg", [theirs, ours], "k", "mAP")
    assert {"OS", "OS, reported"} <= set(texts(tmp_path / "a.svg"))


def test_names_numbers_notes_and_titles_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    one = Curve("a $b$ _c", ["fs", "os"], [0.25, 0.75], notes=["", "12 regions"])
    curves(path, [one, Curve("_none", ["os"], [NAN])], "weighting", "mAP of $x$", "T $y$")
    said = set(texts(path))
    assert {
        "a $b$ _c",
        "_none: no value",
        "fs",
        "os",
        "12 regions",
        "weighting",
        "mAP of $x$",
        "T $y$",
    } <= said


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        ([1, 2, 5, 10], {"1", "2", "5", "10"}),
        ([5, 10, 50, 1000], {"5", "10", "50", "1,000"}),
        ([0, 0.001, 1], {"0", "1"}),
    ],
)
def test_the_measured_values_are_the_ticks_where_they_can_be_read(
    tmp_path: Path, x: list[float], shown: set[str]
) -> None:
    path = tmp_path / "a.svg"
    curves(path, [Curve("a", x, [0.0] * len(x))], "k", "y")
    assert shown <= set(texts(path))
    assert "0.001" not in texts(path)


def test_a_histogram_shows_shares_and_means(tmp_path: Path) -> None:
    low, high = np.full(50, 0.225), np.r_[np.full(150, 0.725), NAN, math.inf]
    histogram(tmp_path / "h.svg", {"fs": low, "os": high}, "precision", "images", "Figure 8")
    said = texts(tmp_path / "h.svg")
    assert {"fs: mean 0.225", "os: mean 0.725", "100%", "0%", "precision", "Figure 8"} <= set(said)
    assert "120%" not in said
    histogram(tmp_path / "h.png", {"fs": low, "os": high}, "precision", "images")
    first, second = (painted(tmp_path / "h.png", c) for c in COLOURS[:2])
    assert first[:, 1].mean() < 300 < 450 < second[:, 1].mean()
    image = np.asarray(Image.open(tmp_path / "h.png").convert("RGB")).astype(int)
    tint = image[250, int(np.median(first[:, 1])) + 8]  # within the bar: light, of its own hue
    assert tint[0] > tint[1] + 10


def test_values_beyond_the_span_count_in_the_outermost_bins(tmp_path: Path) -> None:
    inside, beyond = tmp_path / "in.png", tmp_path / "out.png"
    histogram(inside, {"a": np.array([0.01, 0.5, 0.99])}, "p", "n", bins=10)
    histogram(beyond, {"a": np.array([-0.48, 0.5, 1.48])}, "p", "n", bins=10)
    assert np.array_equal(np.asarray(Image.open(inside)), np.asarray(Image.open(beyond)))


def test_nothing_to_show_is_an_empty_plot(tmp_path: Path) -> None:
    curves(tmp_path / "a.png", [], "k", "mAP")
    histogram(tmp_path / "b.png", {}, "k", "n")
    histogram(tmp_path / "c.svg", {"os": np.array([NAN]), "fs": np.zeros(0)}, "k", "n")
    for name in ("a", "b"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).shape[:2] == (500, 800)
    assert {"os: no value", "fs: no value"} <= set(texts(tmp_path / "c.svg"))


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.gz"])
def test_another_suffix_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InstsearchError, match=r"\.png or \.svg"):
        curves(tmp_path / name, [Curve("a", [1], [1])], "k", "y")
    with pytest.raises(InstsearchError, match=r"\.png or \.svg"):
        histogram(tmp_path / name, {"a": np.ones(1)}, "k", "y")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_folder_that_is_not_there_or_is_a_file_is_said(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").touch()
    for folder in ("absent", "file"):
        with pytest.raises(InstsearchError, match=f"cannot write .*{folder}"):
            curves(tmp_path / folder / f"a{suffix}", [Curve("a", [1], [1])], "k", "y")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InstsearchError, match="cannot write"):
        histogram(tmp_path / f"folder{suffix}", {"a": np.ones(1)}, "k", "y")


def test_labels_that_would_touch_move_apart_and_stay_in_order() -> None:
    assert _spaced(np.array([0.5, 0.2]), 0.1) == pytest.approx([0.5, 0.2])
    assert _spaced(np.array([0.5, 0.5, 0.5]), 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert _spaced(np.array([1.0, 0.98]), 0.1) == pytest.approx([1.0, 0.9])
    assert _spaced(np.array([0.0, 0.35, 0.4]), 0.2) == pytest.approx([0.0, 0.275, 0.475])
    for seed in range(20):
        wanted = np.random.default_rng(seed).random(9)
        placed = _spaced(wanted, 0.08)
        assert (np.diff(placed[np.argsort(wanted)]) >= 0.08 - 1e-12).all()
        assert placed.min() >= 0
        assert placed.max() <= 1 + 1e-12


def test_it_neither_sets_nor_needs_matplotlibs_global_state(tmp_path: Path) -> None:
    """Whatever the user's settings say of type, lines and paper, the file is the same; pyplot is not touched."""
    script = (
        "import sys, pathlib, warnings; warnings.simplefilter('error');"
        "from instsearch_cli.report.plot import Curve, curves, histogram; import numpy as np;"
        "assert 'matplotlib' not in sys.modules;"
        "import matplotlib; before = matplotlib.rcParams.copy(); out = pathlib.Path(sys.argv[1]);"
        "curves(out / 'a.png', [Curve('a', [1, 2], [1, 2])], 'k', 'y', 't');"
        "histogram(out / 'h.png', {'a': np.ones(3)}, 'k', 'y');"
        "assert matplotlib.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    drawn = []
    for name, settings in (
        ("plain", ""),
        ("odd", "font.family: serif\nfont.size: 20\naxes.facecolor: red\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(settings)
        environment = os.environ | {"MATPLOTLIBRC": str(folder)}
        subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment)
        drawn.append([np.asarray(Image.open(folder / f"{n}.png")) for n in "ah"])
    for plain, odd in zip(*drawn, strict=True):
        assert np.array_equal(plain, odd)
