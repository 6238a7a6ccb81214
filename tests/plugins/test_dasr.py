"""Deeply activated salient regions: the card's numbers, plain loops, planted ellipses, pictures with little in them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from instsearch_cli.assembly import pick_device
from instsearch_cli.data import Ellipses, Grid, Image, Inputs, Regions, WeightMap
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import documented, make_config
from instsearch_cli.testing import DetectorContract, make_inputs
from instsearch_plugins.detectors import dasr as detector
from instsearch_plugins.detectors.dasr import DASR, DASRStar
from instsearch_plugins.extractors.networks import Network, normalise
from instsearch_plugins.numeric import dasr
from instsearch_plugins.numeric.excitation import AUTHORS, PAPER, propagate, seeds
from instsearch_plugins.numeric.layers import INPUT, record
from instsearch_plugins.numeric.tracing import trace

CPU = pick_device("cpu")
CARD = torch.tensor(
    [[1.0, 2, 1, 0, 0], [2, 5, 2, 0, 3], [1, 2, 1, 0, 0], [0, 0, 0, 4, 0], [6, 0, 0, 0, 0]]
).double()


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


# -- peaks ----------------------------------------------------------------------------------------------


def test_the_cards_peaks():
    assert dasr.maxima(CARD).tolist() == [[1, 1], [1, 4], [3, 3], [4, 0]]
    assert dasr.maxima(CARD, border=False).tolist() == [[1, 1], [3, 3]]
    assert CARD.mean() == pytest.approx(1.2)
    assert dasr.maxima(CARD, above_mean=True, border=False).tolist() == [[1, 1], [3, 3]]
    lower = CARD.clone()
    lower[3, 3] = 1.05  # still a maximum, below the mean of 1.08
    assert [3, 3] in dasr.maxima(lower).tolist()
    assert [3, 3] not in dasr.maxima(lower, above_mean=True).tolist()


def test_all_that_is_above_the_mean():
    expected = [[i, j] for i in range(5) for j in range(5) if CARD[i, j] > 1.2]
    assert dasr.above_mean(CARD).tolist() == expected
    assert len(expected) == 8


def plain_maxima(X):
    """Cells that exceed all neighbours before them, in reading order, and reach all after them."""
    h, w = X.shape
    found = []
    for i in range(h):
        for j in range(w):
            around = [
                (y, x) for y in range(i - 1, i + 2) for x in range(j - 1, j + 2) if 0 <= y < h and 0 <= x < w
            ]
            before = all(X[i, j] > X[cell] for cell in around if cell < (i, j))
            after = all(X[i, j] >= X[cell] for cell in around if cell > (i, j))
            if before and after and X[i, j] > X.min():
                found.append([i, j])
    return found


@settings(deadline=None, max_examples=60)
@given(h=st.integers(1, 6), w=st.integers(1, 6), levels=st.integers(1, 6), seed=st.integers(0, 999))
def test_maxima_against_a_plain_loop(h, w, levels, seed):
    X = torch.randint(0, levels, (h, w), generator=torch.Generator().manual_seed(seed)).double()
    assert dasr.maxima(X).tolist() == plain_maxima(X)


def test_flat_maps_have_no_peak_and_plateaus_one():
    for value in (0.0, 0.1, -3.7):
        flat = torch.full((7, 9), value).double()
        assert len(dasr.maxima(flat)) == len(dasr.above_mean(flat)) == 0
    plateau = torch.zeros(6, 7).double()
    plateau[2:5, 2:6] = 0.3
    assert dasr.maxima(plateau).tolist() == [[2, 2]]


def test_the_mean_map_is_as_after_a_relu():
    X = torch.tensor([[[1.0, -2]], [[3, -4]]])
    assert dasr.mean_map(X).tolist() == [[2, 0]]


# -- moments, ellipse, box ------------------------------------------------------------------------------


def test_the_cards_box():
    M = torch.zeros(1, 12, 30)
    M[0, 2:7, 10:21] = 1
    mean, C = dasr.moments(dasr.active(M))
    torch.testing.assert_close(mean, torch.tensor([[15.0, 4]]).double())
    torch.testing.assert_close(C, torch.tensor([[[10.0, 0], [0, 2]]]).double())
    half = 2 * C.diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(half, torch.tensor([[6.3246, 2.8284]]).double(), atol=1e-4, rtol=0)
    here = dasr.in_pixels(mean, C, Grid(12, 30, (1, 1, 0, 0)))
    got = dasr.boxes(*here, (30, 12))
    expected = torch.tensor([[15.5 - 6.3246, 4.5 - 2.8284, 15.5 + 6.3246, 4.5 + 2.8284]])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    x0, y0, x1, y1 = dasr.boxes(*here, (30, 12), whole=True)[0].tolist()
    assert (x0, y0, x1 - 1, y1 - 1) == (9, 2, 21, 6)  # last pixels included, as the card has them
    wider = dasr.boxes(*here, (30, 12), 2.5)
    assert wider[0, 0] == pytest.approx(15.5 - 2.5 * math.sqrt(10), abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(h=st.integers(2, 9), w=st.integers(2, 9), seed=st.integers(0, 999), tau=st.floats(0.05, 0.9))
def test_moments_against_a_plain_loop(h, w, seed, tau):
    M = torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed)) ** 3
    mean, C = dasr.moments(dasr.active(M, tau))
    for m, mu, cov in zip(M.double().numpy(), mean.numpy(), C.numpy(), strict=True):
        level = float(np.float32(tau) * np.float32(m.max()))
        points = np.array([(j, i) for i in range(h) for j in range(w) if m[i, j] >= level])
        assert mu == pytest.approx(points.mean(0), abs=1e-9)
        assert cov == pytest.approx(np.cov(points.T, bias=True).reshape(2, 2), abs=1e-8)


def test_a_percentile_leaves_as_many_pixels_whatever_the_map():
    M = torch.rand(4, 20, 30, generator=torch.Generator().manual_seed(1))
    active = dasr.active(M, percentile=95)
    assert active.sum((1, 2)).tolist() == [30] * 4
    for m, a in zip(M.numpy(), active.numpy(), strict=True):
        assert (a == (m >= np.percentile(m, 95))).all()
    lone = torch.zeros(1, 20, 30)
    lone[0, 3, 4] = 1
    assert dasr.active(lone, percentile=95).nonzero().tolist() == [[0, 3, 4]]  # what has nothing never counts


@settings(deadline=None, max_examples=40)
@given(a=st.floats(0.2, 40), b=st.floats(0.2, 40), turn=st.floats(0, math.pi), scale=st.floats(0.5, 3))
def test_the_box_is_circumscribed(a, b, turn, scale):
    """mu -+ 2 sigma is the smallest rectangle around the turned ellipse, by points of its outline."""
    R = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]).double()
    C = R @ torch.diag(torch.tensor([a, b]).double() ** 2) @ R.T
    t = torch.linspace(0, 2 * math.pi, 20001).double()
    outline = R @ torch.stack([scale * a * t.cos(), scale * b * t.sin()]) + 500
    (x0, y0, x1, y1) = dasr.boxes(torch.tensor([[500.0, 500]]).double(), C[None], (1000, 1000), scale)[0]
    if min(a, b) * scale < 0.5:
        return
    assert outline.amin(1).tolist() == pytest.approx([float(x0), float(y0)], abs=1e-3)
    assert outline.amax(1).tolist() == pytest.approx([float(x1), float(y1)], abs=1e-3)


@pytest.mark.parametrize("turn", [0.0, 0.4, 1.2, 2.3])
def test_a_planted_ellipse_is_found(turn):
    y, x = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    u, v = x - 85, y - 55
    along, across = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
    r = (along / 40) ** 2 + (across / 20) ** 2
    M = torch.where(r <= 1, 1 - 0.5 * r, 0.02)[None]  # over the threshold inside alone
    moments = dasr.moments(dasr.active(M))
    here = dasr.in_pixels(*moments, Grid(120, 160, (1, 1, 0, 0)))
    radii, angle = dasr.axes(here[1])
    assert radii[0].tolist() == pytest.approx([20, 40], abs=0.2)
    assert abs(math.sin(float(angle[0]) - turn - math.pi / 2)) < 0.01
    box = dasr.boxes(*here, (160, 120))[0]
    half_x = math.hypot(40 * math.cos(turn), 20 * math.sin(turn))
    half_y = math.hypot(40 * math.sin(turn), 20 * math.cos(turn))
    expected = [85 - half_x, 55 - half_y, 85 + half_x, 55 + half_y]
    assert box.tolist() == pytest.approx(expected, abs=0.2)


@settings(deadline=None, max_examples=30)
@given(s=st.integers(1, 8), seed=st.integers(0, 999))
def test_cells_stand_for_all_their_pixels(s, seed):
    active = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(seed)) > 0.6
    active[:, 2, 3] = True
    large = active.repeat_interleave(s, 1).repeat_interleave(s, 2)
    one = Grid(5 * s, 6 * s, (1, 1, 0, 0))
    expected = dasr.in_pixels(*dasr.moments(large), one)
    got = dasr.in_pixels(*dasr.moments(active), Grid(5, 6, (s, s, 0, 0)))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_boxes_thinner_than_a_pixel_have_one_and_stay_in_the_picture():
    M = torch.zeros(3, 10, 20)
    M[0, 0, 0] = M[1, 9, 19] = 1
    M[2, 4, :] = 1
    here = dasr.in_pixels(*dasr.moments(dasr.active(M)), Grid(10, 20, (1, 1, 0, 0)))
    lone, corner, line = dasr.boxes(*here, (20, 10)).tolist()
    assert lone == [0, 0, 1, 1]
    assert corner == [19, 9, 20, 10]
    assert line == pytest.approx([0, 4, 20, 5])
    outside = torch.tensor([[-4.0, 30]]).double(), torch.zeros(1, 2, 2).double()
    assert dasr.boxes(*outside, (20, 10)).tolist() == [[0, 9, 1, 10]]
    assert dasr.moments(torch.zeros(1, 3, 3, dtype=torch.bool))[0].isnan().all()


# -- non-maximum suppression ----------------------------------------------------------------------------


def test_the_cards_overlap_decides():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])  # pixels 0..9 and 5..14: IoU 1/3
    scores = torch.tensor([1.0, 2])
    assert dasr.suppress(boxes, scores, 0.3334).tolist() == [1, 0]
    assert dasr.suppress(boxes, scores, 0.3333).tolist() == [1]
    narrower = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])  # IoU 2/7
    assert dasr.suppress(narrower, scores, 0.2858).tolist() == [1, 0]
    assert dasr.suppress(narrower, scores, 0.2857).tolist() == [1]


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 12), beta=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), seed=st.integers(0, 999))
def test_suppression_against_a_plain_loop(n, beta, seed):
    from instsearch_cli.boxes import iou

    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (n, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 5, n).astype(np.float32)
    kept: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[k], boxes[j]) <= beta for j in kept):
            kept.append(int(k))
    assert dasr.suppress(torch.from_numpy(boxes), torch.from_numpy(scores), beta).tolist() == kept


# -- where cells lie ------------------------------------------------------------------------------------


def test_cells_lie_in_the_middle_of_what_they_see():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 2, 7, 2), nn.AvgPool2d(3, 2), nn.Conv2d(2, 2, (3, 5), padding=(1, 0)), nn.AvgPool2d(2)
    ).eval()
    x = torch.rand(1, 3, 70, 90, requires_grad=True)
    recording = record(trace(network, "3"), x.detach())
    grid = dasr.lattice(recording, recording.circuit.top)
    columns, rows = grid.centres()
    y = network(x)
    assert y.shape[2:] == grid.shape
    for i in range(1, grid.h - 1):
        for j in range(grid.w):
            (seen,) = torch.autograd.grad(y[0, :, i, j].sum(), x, retain_graph=True)
            at = seen[0].abs().sum(0).nonzero().float()
            middle = (at.amin(0) + at.amax(0) + 1) / 2
            assert middle.tolist() == [rows[i], columns[j]]
    double = dasr.lattice(recording, recording.circuit.top, (180, 210))
    assert double.transform == pytest.approx(
        [v * f for v, f in zip(grid.transform, (2, 3, 2, 3), strict=True)]
    )
    assert dasr.lattice(recording, INPUT).transform == (1, 1, 0, 0)


# -- the detectors --------------------------------------------------------------------------------------


class TestDASR(DetectorContract):
    component = DASR

    @pytest.fixture(autouse=True)
    def _network(self, weights):
        type(self).options = {"network": "squeezenet1_0", "weights": str(weights)}


class TestDASRStar(TestDASR):
    component = DASRStar


def plain(inputs, network, star, stop, beta=1.0):
    """Boxes f[R, 4] and scores, one peak after the other, whole maps, one pixel after the other."""
    pixels = torch.from_numpy(inputs.image.pixels).permute(2, 0, 1)[None]
    recording = record(trace(network, "features.12"), normalise(pixels))
    X = recording.output.double().numpy().mean(0)
    h, w = X.shape
    if star:
        cells = [(i, j) for i in range(h) for j in range(w) if X[i, j] > X.mean()]
    else:
        cells = [tuple(cell) for cell in plain_maxima(torch.from_numpy(X))]
    value = INPUT if stop == 1 else recording.at(stop)
    columns, rows = (v.tolist() for v in dasr.lattice(recording, value).centres())
    s = recording.stride(value)
    height, width = inputs.image.pixels.shape[:2]
    found = []
    for i, j in cells:
        P = torch.zeros(1, *recording.output.shape)
        P[0, :, i, j] = recording.output[:, i, j] / recording.output[:, i, j].sum()
        M = propagate(recording, P, to=value, windows=False)[0].sum(0).numpy()
        points = np.array([(columns[x], rows[y]) for y, x in np.argwhere(np.float32(0.1) * M.max() <= M)])
        mu, variance = points.mean(0), points.var(0) + (s**2 - 1) / 12
        half = np.maximum(2 * np.sqrt(variance), 0.5)
        low, high = np.maximum(mu - half, 0), np.minimum(mu + half, (width, height))
        found.append((X[i, j], np.concatenate([low, high]) * (inputs.size[0] / width)))
    found.sort(key=lambda f: -f[0])
    kept = []
    from instsearch_cli.boxes import iou

    for score, box in found:
        if all(iou(box, other) <= beta for _, other in kept):
            kept.append((score, box))
    return np.array([box for _, box in kept]), np.array([score for score, _ in kept])


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
    component = make(max_pool="argmax", residual="copy", batch_norm="gradient")
    assert component.rules == AUTHORS
    assert not component.circuit.folded
    assert make().rules == PAPER
    assert make().circuit.folded


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
    from instsearch_cli.options import config_for
    from instsearch_cli.weights import sha256

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


def test_the_start_is_the_share_of_the_activation():
    X = torch.tensor([[[3.0]], [[1.0]], [[-2.0]]])
    assert seeds(X, [(0, 0)]).flatten().tolist() == [0.75, 0.25, 0]
