"""Deeply activated salient regions, step by step: peaks, ellipses, boxes and their suppression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from instsearch_cli.data import Grid
from instsearch_plugins.numeric import dasr
from instsearch_plugins.numeric.excitation import seeds
from instsearch_plugins.numeric.layers import INPUT, record
from instsearch_plugins.numeric.tracing import trace
from plain_dasr import plain_maxima

CARD = torch.tensor(
    [[1.0, 2, 1, 0, 0], [2, 5, 2, 0, 3], [1, 2, 1, 0, 0], [0, 0, 0, 4, 0], [6, 0, 0, 0, 0]]
).double()


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


def test_the_start_is_the_share_of_the_activation():
    X = torch.tensor([[[3.0]], [[1.0]], [[-2.0]]])
    assert seeds(X, [(0, 0)]).flatten().tolist() == [0.75, 0.25, 0]


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
    M[0, 2:7, 21] = 1  # the mean pixel is 15.5, of which the authors take the whole part
    even = dasr.in_pixels(*dasr.moments(dasr.active(M)), Grid(12, 30, (1, 1, 0, 0)))
    assert dasr.boxes(*even, (30, 12), whole=True)[0].tolist() == [9, 2, 22, 7]
    wider = dasr.boxes(*here, (30, 12), 2.5)
    assert wider[0, 0] == pytest.approx(15.5 - 2.5 * math.sqrt(10), abs=1e-4)


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
