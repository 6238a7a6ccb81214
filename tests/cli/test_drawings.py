"""Things laid over a picture one on the other, and what components have to show of their work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from instsearch_cli.data import Drawing, Ellipses, FeatureMap, Grid, Keypoints, Regions, WeightMap, Words
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.report import draw
from instsearch_cli.report.stages import RED, drawn, layered, stage_panels

FAKES = Path(__file__).parent / "fake_plugins"
SIZE = (100, 80)

Cli = Callable[..., Any]
Draw = Callable[..., None]


@pytest.fixture
def grey() -> PIL.Image.Image:
    return PIL.Image.new("RGB", SIZE, (128, 128, 128))


def near(image: PIL.Image.Image, colour: tuple[int, int, int], by: int = 40) -> np.ndarray:
    """bool[H, W]: the pixels that have about this colour."""
    return np.all(np.abs(np.asarray(image).astype(int) - colour) <= by, axis=-1)


def weights(values: torch.Tensor) -> WeightMap:
    return WeightMap(values, Grid.over(values.shape[1], values.shape[2], SIZE))


def test_ellipses_lie_where_they_belong(grey: PIL.Image.Image) -> None:
    """Given in pixels of an original twice as large: outlines at centre +- radius along each axis."""
    centre, radii = np.array([[100.0, 80.0]]), np.array([[60.0, 30.0]])
    shown = near(draw.ellipses(grey, centre, radii, (200, 160), colour=RED), RED)
    y, x = np.argwhere(shown).T
    assert (x.min(), x.max()) == pytest.approx((20, 80), abs=2)
    assert (y.min(), y.max()) == pytest.approx((25, 55), abs=2)
    inside = ((np.arange(100) - 50) / 30) ** 2 + ((np.arange(80)[:, None] - 40) / 15) ** 2
    assert (np.abs(np.sqrt(inside[shown]) - 1) < 0.2).all()
    assert not shown[40, 25:75].any()


def test_ellipses_turn_from_x_towards_y(grey: PIL.Image.Image) -> None:
    """Long along the diagonal that goes down, in a picture whose pixels are not square on the panel."""
    item = Ellipses(*(torch.tensor(v) for v in ([[50.0, 80]], [[40.0, 8]], [1.0], [np.pi / 4])))
    image = drawn(grey, (100, 160), item, RED)
    assert image is not None
    shown = near(image, RED)
    y, x = np.argwhere(shown).T
    reach = np.hypot(40, 8) / np.sqrt(2)
    assert (x.min(), x.max()) == pytest.approx((50 - reach, 50 + reach), abs=2)
    assert (y.min(), y.max()) == pytest.approx((40 - reach / 2, 40 + reach / 2), abs=2)
    assert np.corrcoef(x, y)[0, 1] > 0.8


def test_the_best_ellipse_is_brightest_and_on_top(grey: PIL.Image.Image) -> None:
    centres, radii = np.array([[50.0, 40], [50, 40], [50, 40]]), np.array([[30.0, 30]] * 3)
    image = draw.ellipses(grey, centres, radii, SIZE, np.array([0.2, 0.7, 0.1]))
    assert near(image, tuple(draw.colour_table()[255].tolist())).sum() > 100
    assert not near(image, tuple(draw.colour_table()[60].tolist()), 12).any()
    apart = draw.ellipses(grey, np.array([[20.0, 40], [50, 40], [80, 40]]), radii / 3, SIZE, np.arange(3))
    assert near(apart, tuple(draw.colour_table()[60].tolist()), 12).any()


def test_many_ellipses_leave_the_picture_to_be_seen(grey: PIL.Image.Image) -> None:
    at = np.stack(np.meshgrid(np.arange(5, 100, 10.0), np.arange(5, 80, 10.0)), -1).reshape(-1, 2)
    many = np.asarray(draw.ellipses(grey, at, np.full_like(at, 12), SIZE, colour=RED)).astype(int)
    assert 0 < np.abs(many - 128).mean() < 60
    assert (np.asarray(draw.ellipses(grey, at[:0], at[:0], SIZE, colour=RED)) == 128).all()


def test_outlines_of_one_colour_leave_the_picture_its_own() -> None:
    blue = PIL.Image.new("RGB", SIZE, (20, 40, 220))
    box = np.array([[10.0, 10, 50, 50]])
    for image in (
        draw.regions(blue, box, SIZE, colour=RED),
        draw.ellipses(blue, box[:, :2] + 20, box[:, :2], SIZE, colour=RED),
        draw.points(blue, np.array([[30.0, 30, 10, 0]]), SIZE, colour=RED),
    ):
        assert image.getpixel((90, 70)) == (20, 40, 220)
        assert near(image, RED, 60).any()
    assert blue.getpixel((10, 10)) == (20, 40, 220)  # drawn on a copy
    assert draw.regions(blue, box, SIZE).getpixel((90, 70)) != (20, 40, 220)


def test_things_are_laid_one_on_the_other(grey: PIL.Image.Image) -> None:
    S = weights(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    boxes = Regions(torch.tensor([[60.0, 50, 90, 70]]), torch.ones(1))
    both = layered(grey, SIZE, [S, boxes])
    alone = draw.heat(grey, S.values[0].numpy(), S.grid.transform, SIZE)
    red = near(both, RED, 2)
    assert red[51, 62:88].all()
    untouched = ~red
    untouched[46:74, 56:94] = False
    assert (np.asarray(both)[untouched] == np.asarray(alone)[untouched]).all()
    first = layered(grey, SIZE, [boxes])
    assert not near(first, RED).any()  # alone it has its stage's look
    assert (np.asarray(first) == np.asarray(drawn(grey, SIZE, boxes))).all()
    assert (np.asarray(layered(grey, SIZE, [])) == 128).all()
    assert drawn(grey, SIZE, object()) is None


@pytest.mark.parametrize("first", ["weights", "regions"])
def test_weights_and_regions_share_a_panel(grey: PIL.Image.Image, first: str) -> None:
    stages = {
        "weights": weights(torch.rand(1, 4, 5)),
        "regions": Regions(torch.tensor([[20.0, 20, 70, 60]]), torch.ones(1)),
    }
    if first == "regions":
        stages = dict(reversed(stages.items()))
    shown = stage_panels(grey, SIZE, stages)
    assert [caption.partition(":")[0] for caption, _ in shown] == [*stages, "weights and regions"]
    assert near(shown[2][1], RED, 2)[21, 25:65].all()
    assert len(stage_panels(grey, SIZE, {first: stages[first]})) == 1


def test_a_component_shows_its_work_after_its_stage(grey: PIL.Image.Image, tmp_path: Path) -> None:
    grid = Grid.over(4, 5, SIZE)
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (50, 200), (0, 0, 200)).save(other)
    keypoints = Keypoints(torch.zeros(1, 0), torch.tensor([[50.0, 40, 10, 0]]), grid)
    drawings = {
        "weights": [
            Drawing("peaks: 1", (weights(torch.rand(1, 4, 5)), keypoints)),
            Drawing(
                "nearest 1: centrality 2.31",
                (Regions(torch.tensor([[10.0, 10, 40, 190]]), torch.ones(1)),),
                7,
            ),
            Drawing("gone", (), 8),
        ],
        "codes": [Drawing("words", (Words(torch.arange(20).reshape(4, 5), grid),))],
    }
    stages = {"features": FeatureMap(torch.rand(3, 4, 5), grid), "weights": weights(torch.rand(2, 4, 5))}
    shown = stage_panels(
        grey,
        SIZE,
        stages | {"codes": object()},
        drawings,
        lambda row: other if row == 7 else tmp_path / "no.png",
    )
    captions = [caption for caption, _ in shown]
    assert captions[1] == "weights: 2 maps, the strongest in each cell"
    assert captions[2:] == ["peaks: 1", "nearest 1: centrality 2.31", "gone", "words"]
    assert near(shown[2][1], RED).any()
    assert shown[3][1].size == (50, 200)
    assert near(shown[3][1], (253, 231, 37), 2)[12:188, 12].all()


# -- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def explaining(monkeypatch: pytest.MonkeyPatch, tiny: tuple[str, ...]) -> Iterator[Any]:
    """The tiny plugin, whose detector and encoder explain themselves; gives what they were told."""
    import tiny_plugin  # type: ignore[import-not-found]

    told: list[Any] = []

    def detector(self: Any, inputs: Any) -> list[Drawing]:
        told.append(inputs)
        w, h = inputs.size
        ring = Ellipses(torch.tensor([[w / 2, h / 2]]), torch.tensor([[w / 4, h / 4]]), torch.ones(1))
        return [
            Drawing("ring: in the middle", (inputs.regions, ring)),
            Drawing("row 0", (inputs.regions,), 0),
        ]

    def encoder(self: Any, inputs: Any) -> list[Drawing]:
        told.append(inputs)
        return []

    monkeypatch.setattr(tiny_plugin.Halves, "explain", detector, raising=False)
    monkeypatch.setattr(tiny_plugin.Centred, "explain", encoder, raising=False)
    yield told
    load_registry.cache_clear()


def test_show_draws_what_components_explain(
    cli: Cli, tiny: tuple[str, ...], explaining: list[Any], photos: Path, tmp_path: Path
) -> None:
    index, out = tmp_path / "index", tmp_path / "drawn.png"
    cli("index", photos, "--index", index, *tiny, "--detector", "halves", "--quiet")
    assert not explaining  # asked for when shown, not in a run
    assert "wrote" in cli("show", photos / "a" / "1.png", "--index", index, "-o", out).out
    inputs = explaining[0]
    assert len(explaining) == 2
    assert (inputs.size, inputs.row) == ((64, 48), -1)
    assert inputs.features is inputs.weights is inputs.codes is None  # it declares that it reads none
    assert inputs.regions.boxes.shape == (2, 4)
    with PIL.Image.open(out) as image:
        drawn = image.convert("RGB")
    # photograph, features, regions, / ring, row 0, weights, / weights and regions
    assert drawn.width == 28 + 3 * (64 + 28)
    assert drawn.height == 14 + 3 * (48 + 44) + 28
    panel = drawn.crop((28, 14 + 92 + 44, 28 + 64, 14 + 92 + 44 + 48))
    y, x = np.argwhere(near(panel, RED)).T
    assert (x.min(), x.max()) == pytest.approx((16, 48), abs=2)
    assert (y.min(), y.max()) == pytest.approx((12, 36), abs=2)


def test_help_does_not_import_what_draws() -> None:
    import subprocess

    script = (
        "import sys; from instsearch_cli.main import run; run(['--help']);"
        "import instsearch_cli.commands.saliency, instsearch_cli.commands.show;"
        "assert not {'matplotlib', 'torch', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
