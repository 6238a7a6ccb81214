"""Detector `patches`: grids that tile a picture, and their vectors kept apart."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import DetectorContract, make_features, make_inputs
from instsearch_plugins.detectors.patches import Patches
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.numeric.regions import patches

CPU = torch.device("cpu")


class TestContract(DetectorContract):
    component = Patches
    options: ClassVar = {"overlap": 0.3}


def test_two_levels_by_hand():
    assert patches((120, 80), 2).tolist() == [
        *([0, 0, 120, 80], [0, 0, 60, 40], [60, 0, 120, 40], [0, 40, 60, 80], [60, 40, 120, 80]),
    ]
    # s = 1 / (2 - 1/2) of a side: two thirds, the second from one third on
    halves = patches((120, 90), 2, 0.5)[1:]
    expected = [[0, 0, 80, 60], [40, 0, 120, 60], [0, 30, 80, 90], [40, 30, 120, 90]]
    torch.testing.assert_close(halves, torch.tensor(expected).float())


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    levels=st.integers(1, 6),
    overlap=st.floats(0, 0.95),
)
def test_every_level_covers_the_picture_and_neighbours_share_so_much(width, height, levels, overlap):
    boxes = patches((width, height), levels, overlap).double()
    assert len(boxes) == sum(n * n for n in range(1, levels + 1))
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    at = 0
    for n in range(1, levels + 1):
        grid = boxes[at : at + n * n].reshape(n, n, 4)
        at += n * n
        for side, along in ((width, grid[0, :, 0::2]), (height, grid[:, 0, 1::2])):
            tolerance = 1e-4 * side
            assert along[0, 0] == 0
            assert abs(along[-1, 1] - side) < tolerance
            lengths = along[:, 1] - along[:, 0]
            assert (lengths - lengths[0]).abs().max() < tolerance
            shared = along[:-1, 1] - along[1:, 0]
            assert (shared - overlap * lengths[0]).abs().max() < tolerance if n > 1 else True


def test_their_vectors_are_the_means_of_the_cells_under_them():
    features, inputs = make_features(16, 8, 12), make_inputs()
    regions = Patches(Patches.Config(levels=3), CPU).detect(inputs)
    encoder = RegionCodes(make_config(RegionCodes, {"pool": "mean", "query_levels": 0}, "encoder"), CPU)
    encoder.load({})
    codes = encoder.aggregate(features, None, regions)
    X, at = features.values, 0
    for n in (1, 2):  # of which cells are whole
        for i in range(n):
            for j in range(n):
                cells = X[:, 8 // n * i : 8 // n * (i + 1), 12 // n * j : 12 // n * (j + 1)]
                mean = cells.mean((1, 2))
                torch.testing.assert_close(codes.vectors[at], mean / mean.norm())
                at += 1
    assert torch.equal(codes.boxes, regions.boxes)


@pytest.mark.parametrize("options", [{"levels": "0"}, {"overlap": "1"}, {"overlap": "-0.1"}])
def test_options_are_checked(options):
    with pytest.raises(UsageError, match="levels is at least 1, and overlap at least 0 and below 1"):
        make_config(Patches, options, "detector")
