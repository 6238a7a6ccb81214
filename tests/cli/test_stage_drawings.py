"""Drawings of the stages: maps, words, points and regions over the picture, and their panels side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instsearch_cli.errors import InstsearchError
from instsearch_cli.report import draw, draw_stages
from instsearch_cli.report.stages import stage_panels
from plain_pictures import picture


def test_colour_table_goes_evenly_from_dark_to_bright() -> None:
    table = draw.colour_table().astype(float)
    light = table @ [0.2126, 0.7152, 0.0722]
    assert table.shape == (256, 3)
    assert (np.diff(light) > -0.5).all()
    assert table[0].tolist() == [68, 1, 84]
    assert table[255].tolist() == [253, 231, 37]


def test_word_colours_are_stable_and_told_apart() -> None:
    first = draw.word_colours(np.arange(200))
    assert (draw.word_colours(np.array([[7, 7], [3, 7]])) == first[[[7, 7], [3, 7]]]).all()
    assert len({tuple(c) for c in first.tolist()}) >= 199


@pytest.mark.parametrize("smooth", [True, False])
def test_a_map_is_laid_where_its_cells_are(smooth: bool) -> None:
    values = np.random.default_rng(0).random((3, 4))
    sx, sy, ox, oy = 20.0, 30.0, 10.0, 5.0
    laid = draw.on_picture(values, (sx, sy, ox, oy), (100, 110), (50, 55), smooth)
    for row in range(55):
        for column in range(50):
            x, y = (column + 0.5) * 2, (row + 0.5) * 2
            u, v = (x - ox) / sx - 0.5, (y - oy) / sy - 0.5
            if not (-0.5 <= u < 3.5 and -0.5 <= v < 2.5):
                assert np.isnan(laid[row, column])
                continue
            u, v = min(max(u, 0), 3), min(max(v, 0), 2)
            if smooth:
                weights = [
                    (max(0, 1 - abs(i - v)) * max(0, 1 - abs(j - u)), values[i, j])
                    for i in range(3)
                    for j in range(4)
                ]
                assert laid[row, column] == pytest.approx(sum(a * b for a, b in weights), abs=1e-6)
            else:
                assert laid[row, column] == pytest.approx(values[round(v), round(u)])


def test_a_map_of_one_cell_covers_the_picture() -> None:
    assert (draw.on_picture(np.array([[3.0]]), (10, 10, 0, 0), (10, 10), (5, 5)) == 3).all()


def test_heat_is_brightest_where_the_weight_is() -> None:
    grey = Image.new("RGB", (80, 40), (128, 128, 128))
    values = np.zeros((2, 4))
    values[0, 3] = 5.0
    hot = np.asarray(draw.heat(grey, values, (20, 20, 0, 0), (80, 40))).astype(int)
    assert hot[8, 70].tolist() == pytest.approx(
        (0.28 * 128 + 0.72 * draw.colour_table()[255]).tolist(), abs=1
    )
    assert hot[30, 10].tolist() == pytest.approx((0.28 * 128 + 0.72 * draw.colour_table()[0]).tolist(), abs=1)
    flat = np.asarray(draw.heat(grey, np.ones((2, 4)), (20, 20, 0, 0), (80, 40)))
    assert (flat == flat[0, 0]).all()


def test_cells_without_a_word_are_left_alone() -> None:
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    drawn = np.asarray(draw.words(grey, np.array([[5, -1], [-1, 5]]), (20, 20, 0, 0), (40, 40)))
    assert (drawn[:20, 20:] == 100).all()
    assert (drawn[:20, :20] == drawn[0, 0]).all()
    assert (drawn[20:, 20:] == drawn[0, 0]).all()
    assert drawn[0, 0].tolist() != [100, 100, 100]


def test_points_without_a_word_are_left_out() -> None:
    grey = Image.new("RGB", (60, 40), (100, 100, 100))
    geometry = np.array([[10.0, 20, 6, 0], [45, 20, 6, 90]])
    drawn = np.asarray(draw.points(grey, geometry, (60, 40), np.array([-1, 3]))).astype(int)
    changed = (abs(drawn - 100) > 10).any(2)
    assert not changed[:, :35].any()
    assert changed[:, 38:].any()


def test_the_best_region_is_drawn_last_and_brightest() -> None:
    black = Image.new("RGB", (100, 100))
    boxes = np.array([[10, 10, 60, 60], [10, 10, 60, 60], [70, 70, 90, 90]])
    drawn = np.asarray(draw.regions(black, boxes, (100, 100), np.array([0.1, 0.9, 0.5])))
    assert drawn[11, 30].tolist() == [253, 231, 37]
    only = np.asarray(draw.regions(black, boxes, (100, 100), np.array([0.1, 0.9, 0.5]), most=1))
    assert (only[65:95, 65:95] == 0).all()
    assert (np.asarray(draw.regions(black, np.empty((0, 4)), (100, 100))) == 0).all()


def test_panels_lie_side_by_side() -> None:
    panel = Image.new("RGB", (100, 60), (1, 2, 3))
    sheet = np.asarray(draw.panels([("a", panel), ("b: detail", panel), ("c", panel), ("d", panel)]))
    assert (sheet == (1, 2, 3)).all(2).sum() == 4 * 100 * 60
    assert sheet.shape[1] > 3 * 100
    low, high = Image.new("RGB", (50, 20), (9, 9, 9)), Image.new("RGB", (80, 70), (7, 7, 7))
    rows = np.asarray(draw.panels([("a", low), ("b", high), ("c", low)], columns=2))
    assert rows.shape == (14 + 44 + 70 + 44 + 20 + 28, 28 + 2 * (80 + 28), 3)  # a row as high as its highest
    assert (rows == 9).all(2).sum() == 2 * 50 * 20
    assert (rows == 7).all(2).sum() == 80 * 70
    with pytest.raises(ValueError, match="no panel"):
        draw.panels([])


def test_every_kind_of_stage_is_drawn(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from instsearch_cli.data import FeatureMap, Grid, Keypoints, Regions, WeightMap, Words

    path = picture(tmp_path / "x.jpg", (320, 200))
    grid = Grid.over(5, 8, (320, 200))
    geometry = torch.tensor([[100.0, 80, 10, 30], [200, 120, 20, 200]])
    stages = {
        "features": FeatureMap(torch.rand(16, 5, 8), grid),
        "keypoints": Keypoints(torch.rand(2, 8), geometry, grid),
        "weights": WeightMap(torch.rand(3, 5, 8), grid),
        "regions": Regions(torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([0.5])),
        "local": Words(torch.arange(40).reshape(5, 8), grid),
        "points": Words(torch.tensor([1, -1]), grid, geometry),
        "codes": object(),
    }
    picture_panel = Image.open(path)
    shown = stage_panels(picture_panel, (320, 200), stages)
    titles = ["features", "keypoints", "weights", "regions", "weights and regions", "local", "points"]
    assert [caption.partition(":")[0] for caption, _ in shown] == titles
    assert all(panel.size == (320, 200) for _, panel in shown)
    assert "40 visual words" in shown[5][0]
    assert "1 visual words at 2 points" in shown[6][0]
    draw_stages(path, stages, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.width > 3 * 320
    with pytest.raises(InstsearchError, match="cannot write"):
        draw_stages(path, stages, tmp_path / "no" / "out.png")
