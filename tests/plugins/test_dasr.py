"""The detectors of deeply activated salient regions: plain loops, options, pictures with little in them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from instsearch_cli.data import Ellipses, Image, Inputs, Regions, WeightMap
from instsearch_cli.engine.assembly import pick_device
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import documented, make_config
from instsearch_cli.testing import DetectorContract, make_inputs
from instsearch_plugins.detectors import dasr as detector
from instsearch_plugins.detectors.dasr import DASR, DASRStar
from instsearch_plugins.extractors.networks import Network
from instsearch_plugins.numeric.excitation import AUTHORS, PAPER
from plain_dasr import plain

CPU = pick_device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Squeezenet with numbers drawn by lot, some of which respond."""
    from torchvision.models import squeezenet1_0

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_0.pth"
    torch.save(squeezenet1_0(weights=None).state_dict(), path)
    return path


@pytest.fixture
def make(weights):
    """A detector on that network: ``make(DASR, stop=4)``."""

    def made(cls=DASR, **options):
        given = {"network": "squeezenet1_0", "weights": str(weights), **options}
        return cls(make_config(cls, given, "detector"), CPU)

    return made


def picture(width=224, height=160, seed=0, scale=2):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    pixels = np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()
    size = (scale * width, scale * height)
    return Inputs(size=size, image=Image(pixels, size, f"picture {seed}"))


# -- the detectors --------------------------------------------------------------------------------------


class TestDASR(DetectorContract):
    component = DASR

    @pytest.fixture(autouse=True)
    def _network(self, weights):
        type(self).options = {"network": "squeezenet1_0", "weights": str(weights)}


class TestDASRStar(TestDASR):
    component = DASRStar


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("star", [False, True])
def test_the_whole_detector_against_plain_loops(make, star, stop):
    component = make(DASRStar if star else DASR, stop=stop)
    inputs = picture()
    boxes, scores = plain(inputs, component.extractor.network, star, stop, 0.3 if star else 1.0)
    assert len(boxes) > 2
    regions = component.detect(inputs)
    assert regions.boxes.numpy() == pytest.approx(boxes, abs=0.05)
    assert regions.scores.numpy() == pytest.approx(scores, rel=1e-5)


def test_all_peaks_at_once_are_one_after_the_other(make, monkeypatch):
    inputs = picture(seed=3)
    together = make(DASRStar, nms=1.0).detect(inputs)
    monkeypatch.setattr(detector, "TOGETHER", 1)
    apart = make(DASRStar, nms=1.0).detect(inputs)
    assert len(together.boxes) > 5
    torch.testing.assert_close(together.boxes, apart.boxes, atol=1e-3, rtol=0)
    assert torch.equal(together.scores, apart.scores)


def test_an_early_stop_finds_about_the_same_boxes(make):
    from torchvision.ops import box_iou

    inputs = picture(seed=1)
    full = make().detect(inputs)
    for stop, least in ((2, 0.6), (4, 0.5), (8, 0.4)):
        early = make(stop=stop).detect(inputs)
        assert torch.equal(early.scores, full.scores)
        assert box_iou(early.boxes, full.boxes).diagonal().mean() > least


def test_every_choice_of_the_authors_changes_the_boxes(make):
    inputs = picture(seed=2)
    paper = make().detect(inputs)
    for name, value in {
        "start": "uniform",
        "max_pool": "argmax",
        "threshold": 0.3,
        "percentile": 95.0,
        "scale": 2.5,
        "whole_pixels": True,
        "stop": 4,
    }.items():
        other = make(**{name: value}).detect(inputs)
        assert torch.equal(other.scores, paper.scores)
        assert not torch.allclose(other.boxes, paper.boxes, atol=0.1), name
    large = picture(448, 320, 2)
    every, inner = (
        {*make(stop=8, **options).detect(large).scores.tolist()} for options in ({}, {"border": False})
    )
    assert 0 < len(inner) < len(every)
    assert inner < every
    whole = make(whole_pixels=True).detect(inputs).boxes / 2  # the original is twice as large
    assert torch.equal(whole, whole.round())


@pytest.mark.parametrize("cls", [DASR, DASRStar])
def test_every_option_is_explained(cls):
    assert all(option.text for option in documented(cls))


def test_rules_reach_the_way_back(make):
    component = make(max_pool="argmax", residual="copy", batch_norm="gradient", average_pool="gradient")
    assert component.rules == AUTHORS
    assert not component._circuit.folded
    assert make().rules == PAPER
    assert make()._circuit.folded


def test_nms_leaves_no_two_that_overlap(make):
    from torchvision.ops import box_iou

    inputs = picture(seed=4)
    everything, kept = make(DASRStar, nms=1.0).detect(inputs), make(DASRStar).detect(inputs)
    assert 0 < len(kept.boxes) < len(everything.boxes)
    overlap = box_iou(kept.boxes, kept.boxes).fill_diagonal_(0)
    assert overlap.max() <= 0.3
    assert (kept.scores.diff() <= 0).all()
    assert kept.scores[0] == everything.scores[0]


def test_merging_joins_what_was_found(make):
    inputs = picture()
    alone, more = make(DASRStar, stop=8).detect(inputs), make(DASRStar, stop=8, merge=True).detect(inputs)
    n = len(alone.boxes)
    assert n > 2
    assert len(more.boxes) == n - 1
    corners = {*alone.boxes.flatten().tolist()}
    assert {*more.boxes.flatten().tolist()} <= corners
    around = torch.cat([alone.boxes[:, :2].amin(0), alone.boxes[:, 2:].amax(0)])
    assert torch.equal(more.boxes[-1], around)
    assert float(more.scores[-1]) == pytest.approx(float(alone.scores.mean()), rel=1e-5)
    near = make(DASRStar, stop=8, merge=True, appearance=0.0).detect(inputs)
    assert not torch.equal(near.boxes, more.boxes)
    captions = [drawing.caption for drawing in make(DASRStar, stop=8, merge=True).explain(inputs)]
    assert f"merged: {n - 1} boxes" in captions


def test_threads_get_what_one_gets(make):
    component = make(stop=4)
    assert component.concurrent
    pictures = [picture(seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(component.detect, pictures))
    fresh = make(stop=4)
    for inputs, regions in zip(pictures, found, strict=True):
        assert torch.equal(regions.boxes, fresh.detect(inputs).boxes)


def test_what_decides_the_boxes_and_what_does_not(make, weights):
    from instsearch_cli.networks.weights import sha256
    from instsearch_cli.options import config_for

    component = make(memory=2048)
    assert component.identity() == {
        "weights": sha256(weights),
        "architecture": "squeezenet1_0",
        "layer": "features.12",
    }
    assert {"weights", "memory"}.isdisjoint(config_for(component.config, "model"))
    assert DASR(DASR.Config(network="vgg16"), CPU).extractor.layer == "features.30"
    assert DASR(DASR.Config(), CPU).extractor.layer == "layer4"
    of_torchvision = [cls for cls in Network.__subclasses__() if cls.__module__ == Network.__module__]
    assert {*detector.NETWORKS} == {cls.architecture for cls in of_torchvision}
    inputs = picture(448, 320)
    torch.testing.assert_close(make(memory=20).detect(inputs).boxes, make().detect(inputs).boxes)


# -- pictures and networks with little in them ----------------------------------------------------------


def silent(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    path = tmp_path / "silent.pth"
    torch.save({name: torch.zeros_like(tensor) for name, tensor in state.items()}, path)
    return path


@pytest.mark.parametrize("cls", [DASR, DASRStar])
def test_a_flat_map_gives_the_whole_picture(make, weights, tmp_path, cls):
    component, inputs = make(cls, weights=str(silent(weights, tmp_path))), picture()
    regions = component.detect(inputs)
    assert regions.boxes.tolist() == [[0, 0, 448, 320]]
    assert regions.scores.tolist() == [0]
    shown = component.explain(inputs)
    assert [d.caption for d in shown] == ["mean activation: 0 peaks", "regions: 1 box"]
    assert shown[1].items[0].boxes.tolist() == [[0, 0, 448, 320]]


@pytest.mark.parametrize("size", [(1, 1), (20, 400), (33, 32), (300, 7)])
@pytest.mark.parametrize("cls", [DASR, DASRStar])
def test_pictures_smaller_than_what_a_cell_sees(make, cls, size):
    inputs = picture(*size, scale=3)
    regions = make(cls).detect(inputs)
    x0, y0, x1, y1 = regions.boxes.T
    assert len(regions.boxes) >= 1
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x0 < x1).all()
    assert (y0 < y1).all()
    assert (x1 <= inputs.size[0] + 1e-3).all()
    assert (y1 <= inputs.size[1] + 1e-3).all()
    assert make(cls).explain(inputs)


def test_stopping_at_the_peak_itself_gives_its_cell(make):
    inputs = picture(scale=1)
    boxes = make(stop=16).detect(inputs).boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).flatten()
    assert sides.max() <= 2 * 2 * math.sqrt((16**2 - 1) / 12) + 1e-3


def test_too_little_memory_says_what_to_do(make):
    with pytest.raises(UsageError, match=r"MiB for one peak, and 1 MiB are allowed: allow more"):
        make(memory=1).detect(picture(448, 320))


def test_a_network_without_a_convolution_is_refused(make, tmp_path, monkeypatch):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(*(nn.MaxPool2d(2) for _ in range(4)))

        def forward(self, x):
            return self.features(x)

    torch.save({}, tmp_path / "none.pth")
    monkeypatch.setattr(detector.NETWORKS["squeezenet1_0"], "build", classmethod(lambda cls: Pooled()))
    component = make(layer="features.2", weights=str(tmp_path / "none.pth"))
    with pytest.raises(UsageError, match=r"no convolution below layer 'features\.2'"):
        component.detect(picture())


def test_wrong_options_and_files_are_clear(make, tmp_path):
    for option, value in {
        "stop": 0,
        "memory": 0,
        "threshold": 0,
        "nms": 1.5,
        "percentile": 100,
        "scale": 0,
        "network": "vgg99",
    }.items():
        with pytest.raises(UsageError, match=option):
            make(**{option: value})
    with pytest.raises(UsageError, match=r"no layer 'features\.99'"):
        make(layer="features.99").detect(picture())
    with pytest.raises(InstsearchError, match="does not exist"):
        make(weights=str(tmp_path / "nowhere.pth")).detect(picture())


# -- pictures of how ------------------------------------------------------------------------------------


def test_what_it_shows_is_what_it_found(make):
    component, inputs = make(DASRStar, stop=4), picture(seed=4)
    regions, everything = component.detect(inputs), make(DASRStar, stop=4, nms=1.0).detect(inputs)
    mean, before, after, *own = component.explain(inputs)
    n, r = len(everything.boxes), len(regions.boxes)
    assert mean.caption == f"mean activation: {n} peaks"
    assert before.caption == f"before NMS: {n} boxes"
    assert after.caption == f"after NMS: {r} boxes"
    assert len(own) == min(r, detector.SHOWN)
    X, peaks = mean.items
    assert isinstance(X, WeightMap)
    assert isinstance(peaks, Ellipses)
    sx, sy, ox, oy = X.grid.transform
    for (x, y), score in zip(peaks.centres.tolist(), peaks.scores.tolist(), strict=True):
        i, j = round((y - oy) / sy - 0.5), round((x - ox) / sx - 0.5)
        assert X.values[0, i, j] == pytest.approx(score)
    assert sorted(before.items[0].scores.tolist()) == sorted(everything.scores.tolist())
    assert torch.equal(after.items[0].boxes, regions.boxes)
    for k, drawing in enumerate(own):
        M, ellipse, box = drawing.items
        assert isinstance(box, Regions)
        assert torch.equal(box.boxes[0], regions.boxes[k])
        assert M.values.max() == 1
        x, y = M.grid.centres()
        active = M.values[0] >= 0.1
        at = torch.tensor([float(x[active.any(0)].mean()), float(y[active.any(1)].mean())])
        assert (at - ellipse.centres[0]).abs().max() < ellipse.radii.max()
        x0, y0, x1, y1 = regions.boxes[k].tolist()
        cx, cy = ellipse.centres[0].tolist()
        (a, b), turn = ellipse.radii[0].tolist(), float(ellipse.angles[0])
        rx = math.hypot(a * math.cos(turn), b * math.sin(turn))
        ry = math.hypot(a * math.sin(turn), b * math.cos(turn))
        clipped = [max(cx - rx, 0), max(cy - ry, 0), min(cx + rx, 448), min(cy + ry, 320)]
        assert clipped == pytest.approx([x0, y0, x1, y1], abs=0.05)


def test_without_suppression_there_is_one_panel_of_boxes(make):
    shown = make(stop=8).explain(make_inputs())
    assert [d.caption.partition(":")[0] for d in shown[:2]] == ["mean activation", "regions"]
