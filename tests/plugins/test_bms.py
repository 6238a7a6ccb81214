"""Boolean Map Saliency: the card's cases, and the whole of it against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.errors import UsageError
from instsearch_cli.images import read_image
from instsearch_cli.options import make_config
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.weighters import bms
from instsearch_plugins.weighters.bms import BMS, ICCV, JOURNAL, add_attention, saliency, surrounded
from real_data import INSTRE

CPU = torch.device("cpu")
SQUARE = np.zeros((7, 7), np.uint8)
SQUARE[2:5, 2:5] = 255


def attention(B, p):
    S = np.zeros(B.shape, np.float32)
    add_attention(S, B, p)
    return S


# -- the originals' steps as plain loops, one pixel at a time -------------------------------------------


def neighbours(i, j, shape):
    for y in range(max(i - 1, 0), min(i + 2, shape[0])):
        for x in range(max(j - 1, 0), min(j + 2, shape[1])):
            yield y, x


def spread(A, width, best=max):
    """(width - 1) / 2 times 3 x 3, what lies outside being ignored."""
    for _ in range((width - 1) // 2):
        A = np.array(
            [
                [best(A[n] for n in neighbours(i, j, A.shape)) for j in range(A.shape[1])]
                for i in range(len(A))
            ]
        )
    return A


def not_reached(B):
    """Flood from every border pixel, through pixels of the same value."""
    h, w = B.shape
    reached = set()
    for seed in [(i, j) for i in range(h) for j in range(w) if i in (0, h - 1) or j in (0, w - 1)]:
        todo = [seed]
        while todo:
            at = todo.pop()
            if at in reached:
                continue
            reached.add(at)
            todo += [n for n in neighbours(*at, B.shape) if B[n] == B[at]]
    return np.array([[(i, j) not in reached for j in range(w)] for i in range(h)])


def unit(A):
    norm = np.sqrt(A.sum())
    return A / norm if norm else A.astype(float)


def plain_attention(B, p):
    A = not_reached(B)
    parts = [A & B, A & ~B] if p.variant == "journal" else [A]
    return sum(unit(spread(part, p.omega_d1)) for part in parts)


def plain_saliency(pixels, p):
    bgr = pixels[..., ::-1]
    H, W = pixels.shape[:2]
    if p.variant == "iccv":
        small = cv2.resize(bgr, (p.width, int(H * (p.width / W))), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (3, 3), 1, sigmaY=1)
    else:
        size = int(p.width * W / max(H, W)), int(p.width * H / max(H, W))
        small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    S: Any = 0
    for F in cv2.split(cv2.cvtColor(small, cv2.COLOR_RGB2Lab)):
        if p.variant == "journal":
            low, high = float(F.min()), float(F.max())
            F = np.rint((F - low) * 255 / max(high - low, 1e-9)).astype(np.uint8)
            F = cv2.medianBlur(F, 3)
        t = int(F.min())
        while t < F.max():
            maps = [t < F, t >= F] if p.variant == "iccv" else [t < F]
            for B in maps:
                closed = spread(spread(B, p.omega_o), p.omega_o, min)
                S = S + plain_attention(closed, p)
            t += p.delta
    spanned = np.ptp(S)
    s = (
        np.rint((S - S.min()) * 255 / spanned).astype(np.uint8)
        if spanned
        else np.zeros(small.shape[:2], np.uint8)
    )
    s = spread(s, p.omega_d2)
    n = min(4 * int(p.sigma) + 1, 51)
    return cv2.resize(cv2.GaussianBlur(s, (n, n), p.sigma, sigmaY=p.sigma), (W, H))


def blotches(seed, h=15, w=20):
    """A small picture with regions of several sizes, and noise."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8), (w, h), interpolation=cv2.INTER_NEAREST
    )
    return np.where(rng.random((h, w, 1)) < 0.25, rng.integers(0, 256, (h, w, 3), np.uint8), coarse)


def drawn(h=18, w=24):
    """Discs and bars on a gradient, as photographs have them."""
    picture = np.zeros((10 * h, 10 * w, 3), np.uint8)
    picture[:] = np.linspace(40, 200, 10 * w)[None, :, None]
    cv2.circle(picture, (90, 80), 45, (220, 30, 30), -1)
    cv2.circle(picture, (90, 80), 20, (30, 200, 40), -1)
    cv2.rectangle(picture, (150, 30), (200, 179), (20, 20, 120), -1)
    return cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)


def assert_same(actual, expected):
    """Equal but for the last level: sums in single precision may round to the other side."""
    assert actual.dtype == np.uint8
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= 1


def photograph():
    """A real picture, reduced to 24 x 18."""
    folder = INSTRE / "images"
    path = next(iter(sorted(folder.rglob("*.jpg"))), None) if folder.is_dir() else None
    if path is None:
        pytest.skip(f"no pictures in {folder}")
    return read_image(path, lambda width, height: (24, 18)).pixels


SMALL_ICCV = replace(ICCV, width=20, omega_d1=3, omega_d2=5, sigma=1.5)
SMALL_JOURNAL = replace(JOURNAL, width=20, omega_d1=3, omega_d2=3, sigma=1, whitening=False)


@pytest.mark.parametrize("p", [SMALL_ICCV, SMALL_JOURNAL], ids=lambda p: p.variant)
@pytest.mark.parametrize("make", [lambda: blotches(0), drawn, photograph], ids=["noise", "drawn", "photo"])
def test_whole_of_it_as_plain_loops(make, p):
    picture = make()
    expected = plain_saliency(picture, p)
    assert np.ptp(expected) > 50, "the picture is to have something salient"
    assert_same(saliency(picture, p), expected)


@pytest.mark.parametrize(
    "options", [{"omega_o": 1}, {"omega_o": 3}, {"omega_d1": 1}, {"omega_d2": 1, "delta": 31}]
)
def test_options_as_plain_loops(options):
    p = replace(SMALL_ICCV, **options)
    assert_same(saliency(blotches(2), p), plain_saliency(blotches(2), p))


def test_journal_closes_if_asked_to():
    p = replace(SMALL_JOURNAL, omega_o=3)
    assert_same(saliency(blotches(3), p), plain_saliency(blotches(3), p))


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0.2, 0.8),
    st.integers(0, 2**32 - 1),
    st.sampled_from([ICCV, JOURNAL]),
    st.sampled_from([1, 3, 5]),
)
def test_one_map_as_plain_loops(h, w, share, seed, p, omega_d1):
    p = replace(p, omega_d1=omega_d1)
    B = np.random.default_rng(seed).random((h, w)) < share
    got = attention(B.astype(np.uint8) * 255, p)
    np.testing.assert_allclose(got, plain_attention(B, p), rtol=1e-6, atol=1e-7)


# -- the card's cases ----------------------------------------------------------------------------------

BARE = replace(JOURNAL, omega_d1=1)


def test_block_off_the_border():
    np.testing.assert_allclose(attention(SQUARE, BARE), (SQUARE > 0) / 3, rtol=1e-6)


@pytest.mark.parametrize("shift", [(-2, 0), (0, -2), (2, 0), (0, 2)])
def test_block_at_the_border_counts_nothing(shift):
    assert not attention(np.roll(SQUARE, shift, (0, 1)), BARE).any()


def test_ring_and_its_hole_are_normalised_apart():
    ring = SQUARE.copy()
    ring[3, 3] = 0
    expected = (ring > 0) / np.sqrt(8)
    expected[3, 3] = 1
    np.testing.assert_allclose(attention(ring, BARE), expected, rtol=1e-6)
    together = attention(ring, replace(ICCV, omega_d1=1))
    np.testing.assert_allclose(together, (SQUARE > 0) / 3, rtol=1e-6)


def test_dilation_is_a_square_of_the_given_side():
    point = np.zeros((13, 13), np.uint8)
    point[6, 6] = 255
    got = attention(point, ICCV)
    assert np.count_nonzero(got) == 49
    np.testing.assert_allclose(got[3:10, 3:10], 1 / 7, rtol=1e-6)


# -- steps ---------------------------------------------------------------------------------------------


def test_thresholds_run_from_the_smallest_value_to_below_the_largest(monkeypatch):
    F = np.tile(np.arange(10, 43, dtype=np.uint8), (5, 1))  # 10 ... 42
    seen = []
    monkeypatch.setattr(bms, "channels", lambda pixels, p: [F])
    monkeypatch.setattr(bms, "add_attention", lambda S, B, p: seen.append(B.copy()))
    saliency(np.zeros((5, 33, 3), np.uint8), replace(JOURNAL, width=33))
    assert len(seen) == 4
    for B, t in zip(seen, (10, 18, 26, 34), strict=True):
        assert np.array_equal(B, np.where(t < F, 255, 0))


def test_both_polarities_of_closed_maps(monkeypatch):
    seen = []
    F = blotches(5)[..., 0]
    monkeypatch.setattr(bms, "channels", lambda pixels, p: [F])
    monkeypatch.setattr(bms, "add_attention", lambda S, B, p: seen.append(B > 0))
    saliency(blotches(5), replace(ICCV, width=20, delta=100))
    grid = range(int(F.min()), int(F.max()), 100)
    closed = [spread(spread(t < F, 5), 5, min) for t in grid]
    complements = [~spread(spread(t >= F, 5), 5, min) for t in grid]
    assert all(np.array_equal(a, b) for a, b in zip(seen, closed + complements, strict=True))


def test_colours_are_converted_as_if_red_were_blue():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    true_blue = cv2.cvtColor(np.array([[[0, 0, 255]]], np.uint8), cv2.COLOR_RGB2Lab)[0, 0]
    assert [int(x[0, 0]) for x in bms.channels(red, ICCV)] == true_blue.tolist()


def test_colour_spaces_add_up():
    picture = blotches(6)
    assert len(bms.channels(picture, replace(ICCV, colours=("rgb", "luv")))) == 6
    rgb = bms.channels(picture, replace(ICCV, colours=("rgb",)))
    assert np.array_equal(np.dstack(rgb), picture[..., ::-1])


def test_colours_are_whitened_in_the_order_of_the_originals():
    """Blue first: which way an axis points depends on that, and thresholds are one-sided."""
    picture = blotches(6)
    p = replace(ICCV, colours=("rgb",), whitening=True)
    x = picture[..., ::-1].reshape(-1, 3).astype(np.float32)
    C = np.cov(x.T, bias=True).astype(np.float32) + 50 * np.eye(3, dtype=np.float32)
    w, U, _ = cv2.SVDecomp(C)
    y = (x @ (U / np.sqrt(w.T))).reshape(picture.shape)
    for k, plane in enumerate(bms.channels(picture, p)):
        wanted = cv2.normalize(y[..., k].astype(np.float32), None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
        assert np.abs(plane.astype(int) - cv2.medianBlur(wanted, 3)).max() <= 1
    identity = BMS(BMS.Config(colours=("rgb",), whitening=True), torch.device("cpu")).identity()
    assert identity == {"order": "bgr"}
    for options in ({"colours": ("rgb",)}, {"whitening": True}):
        assert BMS(BMS.Config(**options), torch.device("cpu")).identity() == {}


def test_journal_channels_fill_the_range():
    flags = np.zeros((8, 16, 3), np.uint8)
    flags[:, :4], flags[:, 4:8], flags[:, 8:12] = (200, 10, 10), (20, 220, 40), (90, 90, 200)
    for whitening in (True, False):
        for x in bms.channels(flags, replace(JOURNAL, whitening=whitening)):
            assert (x.min(), x.max()) == (0, 255)
    assert [int(x.max()) for x in bms.channels(flags, ICCV)] != [255, 255, 255]


def test_whitening():
    picture = blotches(7)
    x = picture.reshape(-1, 3).astype(float)
    regular = np.cov(x.T, bias=True) + 50 * np.eye(3)
    y = bms.whitened(picture).reshape(-1, 3)
    np.testing.assert_allclose(y @ y.T, x @ np.linalg.inv(regular) @ x.T, rtol=1e-3, atol=1e-3)
    cov = np.cov(y.T, bias=True)
    np.testing.assert_allclose(cov, np.diag(np.diag(cov)), atol=1e-3)  # principal axes, not just any


@pytest.mark.parametrize(
    ("p", "size", "expected"),
    [
        (ICCV, (255, 340), (450, 600)),  # up
        (ICCV, (768, 1024), (450, 600)),
        (ICCV, (1, 340), (1, 600)),
        (ICCV, (340, 1), (2400, 600)),  # squeezed
        (JOURNAL, (255, 340), (300, 400)),
        (JOURNAL, (340, 255), (400, 300)),
        (JOURNAL, (1, 900), (1, 400)),
    ],
)
def test_working_size(p, size, expected):
    assert bms.working_picture(np.zeros((*size, 3), np.uint8), p).shape[:2] == expected


# -- whole pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [ICCV, JOURNAL], ids=lambda p: p.variant)
@pytest.mark.parametrize("grey", [True, False])
def test_bright_square_is_salient(p, grey):
    picture = np.full((60, 80, 3), 90, np.uint8)
    picture[20:40, 30:50] = 200 if grey else (200, 40, 40)
    s = saliency(picture, replace(p, width=120))
    assert s.shape == (60, 80)
    i, j = np.unravel_index(s.argmax(), s.shape)
    assert 20 <= i < 40
    assert 30 <= j < 50
    assert s[0, 0] < s.max() / 2


@pytest.mark.parametrize("p", [ICCV, JOURNAL], ids=lambda p: p.variant)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (6, 300)])
def test_strips(p, shape):
    s = saliency(blotches(8, 60, 300)[: shape[0], : shape[1]], replace(p, width=90))
    assert s.shape == shape
    assert s.dtype == np.uint8


@pytest.mark.parametrize("variant", ["iccv", "journal"])
def test_one_colour_weighs_all_alike(variant):
    pixels = np.full((34, 51, 3), (10, 90, 200), np.uint8)
    grid = Grid.over(3, 4, (102, 68))
    weights = BMS(BMS.Config(variant=variant, width=50), CPU).weigh(
        Inputs(size=(102, 68), grid=grid, image=Image(pixels, (102, 68)))
    )
    assert weights.grid is grid
    assert torch.equal(weights.values, torch.ones(1, 3, 4))


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_surroundedness_knows_no_colour_and_no_direction(h, w, share, seed):
    B = np.where(np.random.default_rng(seed).random((h, w)) < share, 255, 0).astype(np.uint8)
    A = surrounded(B)
    assert np.isin(A, (0, 255)).all()
    assert not A[[0, -1]].any()
    assert not A[:, [0, -1]].any()
    assert np.array_equal(surrounded(~B), A)
    assert np.array_equal(surrounded(np.ascontiguousarray(B.T)), A.T)
    assert np.array_equal(surrounded(np.ascontiguousarray(B[::-1, ::-1])), A[::-1, ::-1])


# -- the component -------------------------------------------------------------------------------------


class TestContract(WeighterContract):
    component = BMS
    options = {"width": "60"}  # noqa: RUF012


def test_component_is_the_block_maximum_of_the_map():
    picture = drawn(36, 48)
    grid = Grid.over(4, 6, (96, 72))
    config = make_config(BMS, {"width": "40", "colours": "lab,rgb", "sigma": "2"}, "weighting")
    weights = BMS(config, CPU).weigh(Inputs(size=(96, 72), grid=grid, image=Image(picture, (96, 72))))
    s = saliency(picture, replace(ICCV, width=40, colours=("lab", "rgb"), sigma=2))
    assert torch.equal(weights.values[0], block_max(s, 4, 6))


def test_options_left_out_are_the_variants():
    assert BMS(BMS.Config(), CPU).parameters == replace(ICCV, width=300)
    assert BMS(BMS.Config(width=None), CPU).parameters == ICCV
    assert BMS(BMS.Config(variant="journal", width=None), CPU).parameters == JOURNAL
    given_ = BMS(BMS.Config(variant="journal", width=None, whitening=False, sigma=0), CPU).parameters
    assert given_ == replace(JOURNAL, whitening=False, sigma=0)


@pytest.mark.parametrize(
    "options",
    [
        {"omega_o": 2},
        {"omega_d1": 0},
        {"delta": 0},
        {"width": 0},
        {"sigma": -1},
        {"colours": "lab,lab"},
        {"colours": "hsv"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="weighting"):
        make_config(BMS, options, "weighting")
