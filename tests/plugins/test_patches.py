"""Detector `patches`: grids that tile a picture, and their vectors kept apart."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import BoxWeight, Image
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.testing import DetectorContract, make_features, make_inputs
from instsearch_plugins.detectors.patches import Patches
from instsearch_plugins.encoders.regions import RegionCodes
from instsearch_plugins.extractors.networks import SqueezeNet10, normalise
from instsearch_plugins.numeric.regions import patches
from random_networks import folder, squeezenet, weights_folder

__all__ = ["folder", "squeezenet", "weights_folder"]  # fixtures

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


def test_tiles_are_patches_put_through_the_network_by_themselves(squeezenet):
    rng = np.random.default_rng(0)
    image = Image(rng.integers(0, 256, (64, 96, 3), np.uint8), (192, 128))
    extractor = SqueezeNet10(SqueezeNet10.Config(max_size=48, tiles=2), CPU)
    assert extractor.fit_size(300, 200) == (96, 64)
    (features,) = extractor.extract([image])
    sizes = [features, *features.levels]
    assert len(sizes) == 5
    x = normalise(torch.from_numpy(image.pixels).permute(2, 0, 1)[None])
    cuts = [(0, 0, 96, 64), (0, 0, 48, 32), (48, 0, 96, 32), (0, 32, 48, 64), (48, 32, 96, 64)]
    with torch.inference_mode():
        for one, (x0, y0, x1, y1) in zip(sizes, cuts, strict=True):
            part = x[:, :, y0:y1, x0:x1]
            if part.shape[2:] != (32, 48):
                part = F.interpolate(part, size=(32, 48), mode="bilinear", antialias=True)
            torch.testing.assert_close(one.values, squeezenet.features(part)[0], atol=1e-4, rtol=1e-4)
            h, w = one.grid.shape
            sx, sy, ox, oy = one.grid.transform
            box = (ox, oy, ox + sx * w, oy + sy * h)
            assert box == pytest.approx((2 * x0, 2 * y0, 2 * x1, 2 * y1))  # the original is twice as large
    encoder = RegionCodes(
        make_config(RegionCodes, {"pool": "mean", "query_levels": 0, "apart": "true"}, "encoder"), CPU
    )
    encoder.load({})
    codes = encoder.aggregate(features, None, None)
    means = torch.stack([one.values.mean((1, 2)) for one in sizes])
    torch.testing.assert_close(codes.vectors, F.normalize(means))
    assert codes.boxes.tolist() == [[2 * v for v in cut] for cut in cuts]
    query = encoder.aggregate_query(features, BoxWeight((0.0, 0.0, 192.0, 128.0)))
    torch.testing.assert_close(query.vectors, F.normalize(means[:1]))


@pytest.mark.parametrize(
    "options", [{"tiles": -1}, {"tiles": 11}, {"tiles": 2, "scales": (64,)}, {"tiles": 2, "logits": True}]
)
def test_tiles_go_alone(options):
    with pytest.raises(ValueError, match="tiles"):
        SqueezeNet10.Config(**options)


@pytest.mark.parametrize("options", [{"levels": "0"}, {"overlap": "1"}, {"overlap": "-0.1"}])
def test_options_are_checked(options):
    with pytest.raises(UsageError, match="levels is at least 1, and overlap at least 0 and below 1"):
        make_config(Patches, options, "detector")
