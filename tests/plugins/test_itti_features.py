"""Itti and Koch's feature maps: pyramid, orientation and centre-surround as plain loops, colours by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from instsearch_plugins.numeric.itti import centre_surround, gabor, oriented, pyramid
from instsearch_plugins.weighters.itti_koch import feature_maps, opponents_1998, opponents_toolbox, saliency
from itti_pictures import noise, picture, variants

# --- pyramid ---


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (
            (255, 340),
            [(255, 340), (127, 170), (63, 85), (31, 42), (15, 21), (7, 10), (3, 5), (1, 2)],
        ),
        ((2, 9), [(2, 9), (1, 4)]),
        ((1, 9), [(1, 9)]),
    ],
)
def test_pyramid_sizes(shape, expected):
    assert [x.shape for x in pyramid(noise(*shape))] == expected


@pytest.mark.parametrize(("shape", "levels"), [((340, 340), 9), ((768, 1024), 10), ((31, 500), 5)])
def test_pyramid_levels(shape, levels):
    assert len(pyramid(noise(*shape))) == levels


def halved_1d(x):
    """One side halved, sample by sample: y(i) = sum_k f(k) x(i - k) over the k with x(i - k) there, renormalised."""
    n = len(x)
    if n == 2:
        return [(x[0] + x[1]) / 2]
    if n == 3:
        return [(x[0] + 2 * x[1] + x[2]) / 4]
    f = dict(zip(range(-3, 4), (1, 5, 10, 10, 5, 1, 1), strict=True))
    y = []
    for i in range(0, 2 * (n // 2), 2):
        inside = [k for k in f if 0 <= i - k < n]
        y.append(sum(f[k] * x[i - k] for k in inside) / sum(f[k] for k in inside))
    return y


@pytest.mark.parametrize("shape", [(11, 14), (4, 5), (3, 8), (2, 3), (6, 2), (7, 7)])
def test_pyramid_step_is_the_plain_loop(shape):
    x = noise(*shape)
    rows = np.array([halved_1d(row) for row in x.astype(float)])
    expected = np.array([halved_1d(column) for column in rows.T]).T
    np.testing.assert_allclose(pyramid(x)[1], expected, rtol=1e-5)


def test_pyramid_convolves_rather_than_correlates():
    x = np.zeros((64, 64), np.float32)
    x[40, 41] = 33**2  # reaches sample i of the next scale with f(2 i - 40) in rows, f(2 i - 41) in columns
    y = pyramid(x)[1]
    np.testing.assert_allclose(y[18:23, 18:24], np.outer([0, 5, 10, 1, 0], [0, 1, 10, 5, 1, 0]), atol=1e-3)
    assert y.sum() == pytest.approx(16 * 17, rel=1e-5)


# --- orientation ---


@pytest.mark.parametrize("theta", [0, 45, 90, 135])
def test_gabor_formula(theta):
    t = math.radians(theta)
    for psi, g in zip((0, math.pi / 2), gabor(theta), strict=True):
        expected = np.empty((9, 9))
        for i in range(-4, 5):
            for j in range(-4, 5):
                u, v = i * math.cos(t) - j * math.sin(t), -i * math.sin(t) - j * math.cos(t)
                wave = math.cos(2 * math.pi * u / 7 + psi)
                expected[i + 4, j + 4] = wave * math.exp(-(u**2 + v**2) / (2 * 2.3333**2))
        expected -= expected.mean()
        np.testing.assert_allclose(g, expected / np.sqrt((expected**2).sum()), atol=1e-6)
        assert g.sum() == pytest.approx(0, abs=1e-5)
        assert (g**2).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("theta", [0, 45, 90, 135])
def test_orientation_answers_to_its_own_grating_most(theta):
    i, j = np.mgrid[:40, :40]
    t = math.radians(theta)
    grating = np.cos(2 * np.pi * (i * math.cos(t) - j * math.sin(t)) / 7).astype(np.float32)
    energy = {other: oriented(grating, other)[10:30, 10:30].mean() for other in (0, 45, 90, 135)}
    assert max(energy, key=energy.__getitem__) == theta


def mirrored(i, n):
    while not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i if n > 1 else 0


@pytest.mark.parametrize("shape", [(6, 11), (3, 5), (10, 2)])
@pytest.mark.parametrize("theta", [0, 45])
def test_oriented_is_the_plain_loop(shape, theta):
    x = noise(*shape)
    h, w = shape
    expected = np.zeros(shape)
    for g in gabor(theta):
        for i in range(h):
            for j in range(w):
                response = sum(
                    float(g[a + 4, b + 4]) * float(x[mirrored(i - a, h), mirrored(j - b, w)])
                    for a in range(-4, 5)
                    for b in range(-4, 5)
                )
                expected[i, j] += abs(response)
    np.testing.assert_allclose(oriented(x, theta), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(11, 9), (6, 11), (3, 2)])
def test_oriented_as_the_toolbox_has_it_is_the_plain_loop(shape):
    """Zeros beyond the border, and nothing within four rows of the upper and the lower one."""
    x = noise(*shape)
    h, w = shape
    expected = np.zeros(shape)
    for g in gabor(45):
        for i in range(4, h - 4):
            for j in range(w):
                there = [
                    float(g[a + 4, b + 4]) * float(x[i - a, j - b])
                    for a in range(-4, 5)
                    for b in range(-4, 5)
                    if 0 <= i - a < h and 0 <= j - b < w
                ]
                expected[i, j] += abs(sum(there))
    np.testing.assert_allclose(oriented(x, 45, mirrored=False), expected, atol=1e-5)


def test_oriented_of_a_single_row_or_sample():
    assert np.abs(oriented(np.full((1, 1), 0.7, np.float32), 45)).max() < 1e-5
    assert np.isfinite(oriented(noise(1, 2), 90)).all()


# --- centre and surround ---


def plain_difference(c, s, h, w, b, sign):
    def at(x, i, j):
        return float(x[math.floor((i + 0.5) * x.shape[0] / h), math.floor((j + 0.5) * x.shape[1] / w)])

    def faded(i, n):
        return min(1, (i + 1) / (b + 1)) * min(1, (n - i) / (b + 1))

    return [
        [abs(at(c, i, j) + sign * at(s, i, j)) * faded(i, h) * faded(j, w) for j in range(w)]
        for i in range(h)
    ]


@pytest.mark.parametrize(("shape", "b"), [((255, 340), 1), ((145, 145), 0), ((160, 250), 1), ((480, 790), 2)])
@pytest.mark.parametrize("double", [False, True])
def test_centre_surround_is_the_plain_loop(shape, b, double):
    scales = {s: x for s, x in enumerate(pyramid(noise(*shape) - 0.5)) if 2 <= s <= 8}
    h, w = scales[4].shape
    assert math.floor(max(h, w) / 20 + 0.5) == b
    pairs = [(c, c + d) for c in (2, 3, 4) for d in (3, 4) if c + d in scales]
    maps = centre_surround(scales, double)
    assert maps.shape == (len(pairs), h, w)
    for (c, s), actual in zip(pairs, maps, strict=True):
        expected = plain_difference(scales[c], scales[s], h, w, b, 1 if double else -1)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "n", "size"),
    [((255, 340), 5, (15, 21)), ((340, 255), 5, (21, 15)), ((340, 340), 6, (21, 21)), ((32, 32), 1, (2, 2))],
)
def test_missing_pairs_are_left_out(shape, n, size):
    assert [maps.shape for maps in feature_maps(picture(*shape))] == [(S, n, *size) for S in (1, 2, 4)]


# --- colour ---


def rgb(*values):
    return [np.array([[value]], np.float32) for value in values]


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0.8, 0.4, 0.2), (0.5, -0.25)),
        ((0.2, 0.4, 0.8), (-0.25, 0.75)),
        ((0.09, 0.05, 0.0), (0, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_toolbox_colours_by_hand(colour, expected):
    assert [x.item() for x in opponents_toolbox(*rgb(*colour))] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 0, 0), (3, 0)),
        ((0, 0.5, 0), (-3, 0)),
        ((0, 0, 1), (0, 3)),
        ((1, 1, 0), (0, -1.5)),  # R = G = 0.75, Y = 1.5
        ((0.4, 0.4, 0.4), (0, 0)),
        ((0, 0, 0), (0, 0)),
    ],
)
def test_colours_of_1998_by_hand(colour, expected):
    assert [x.item() for x in opponents_1998(*rgb(*colour))] == pytest.approx(expected, abs=1e-5)


def test_colours_of_1998_need_a_tenth_of_the_largest_intensity():
    r = np.array([[1.0, 0.3, 0.29]], np.float32)
    g = b = np.array([[1.0, 0, 0]], np.float32)
    red_green, _ = opponents_1998(r, g, b)
    np.testing.assert_allclose(red_green, [[0, 0, 0]], atol=1e-6)
    red_green, _ = opponents_1998(np.array([[1.0, 0.31, 0.29]], np.float32), g, b)
    np.testing.assert_allclose(red_green, [[0, 3, 0]], atol=1e-5)


@variants
def test_grey_picture_has_no_colour(norm, form):
    grey = np.repeat(picture(120, 160)[..., :1], 3, axis=2)
    assert [len(maps) for maps in feature_maps(grey, form)] == [1, 4]
    tinted = grey.copy()
    tinted[60, 80, 0] ^= 64
    assert [len(maps) for maps in feature_maps(tinted, form)] == [1, 2, 4]
    assert saliency(grey, norm=norm, form=form).max() > 0
