"""Itti-Koch saliency: every convolution against a plain loop, the normalisations by hand, and the weighter."""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.testing import WeighterContract
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.numeric.itti import (
    centre_surround,
    competitor,
    gabor,
    iterated,
    oriented,
    promoted,
    pyramid,
    stretched_to,
)
from instsearch_plugins.weighters.itti_koch import (
    IttiKoch,
    feature_maps,
    opponents_1998,
    opponents_toolbox,
    saliency,
)

CPU = torch.device("cpu")
VARIANTS = [("iterative", "toolbox"), ("localmax", "toolbox"), ("iterative", "itti98")]
variants = pytest.mark.parametrize(("norm", "form"), VARIANTS)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def picture(height, width, seed=0):
    """A coloured picture with structure at many scales."""
    total = sum(cv2.resize(noise(n, n, 3, seed=seed + n), (width, height)) for n in (3, 7, 17, 41))
    return (255 * total / total.max()).astype(np.uint8)


def weights(pixels, h, w, **options):
    size = pixels.shape[1], pixels.shape[0]
    inputs = Inputs(size=size, grid=Grid.over(h, w, size), image=Image(pixels, size))
    result = IttiKoch(IttiKoch.Config(**options), CPU).weigh(inputs)
    assert result.grid is inputs.grid
    return result.values


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


# --- normalisation ---


def test_kernels_of_a_15_by_21_map():
    excitation, inhibition = competitor(15, 21, 0.5, 0.02), competitor(15, 21, 1.5, 0.25)
    assert excitation == pytest.approx([0.0279, 0.4749, 0.0279], abs=5e-5)
    assert len(inhibition) == 2 * 6 + 1
    assert inhibition[6] == pytest.approx(0.1140, abs=5e-5)
    assert inhibition[0] == pytest.approx(0.1140 * math.exp(-(6**2) / (2 * 5.25**2)), abs=5e-5)


@pytest.mark.parametrize(("shape", "half"), [((2, 21), 0), ((3, 3), 0), ((8, 8), 3), ((90, 130), 44)])
def test_kernels_fit_the_map(shape, half):
    assert len(competitor(*shape, 1.5, 0.25)) == 2 * half + 1


def test_kernel_ends_at_one_percent():
    g = competitor(300, 300, 0.5, 0.02)  # sigma 6: 18 = floor(3.03 * 6)
    assert len(g) == 2 * 18 + 1
    assert g[0] >= 0.01 * g[18] > g[18] * math.exp(-(19**2) / (2 * 6**2))


def plain_blur(x, taps):
    """The 2-D kernel taps x taps; at the border, each direction scaled up for the taps that fall outside."""
    h, w = x.shape
    half = len(taps) // 2

    def inside(i, n):
        return [k for k in range(-half, half + 1) if 0 <= i + k < n]

    y = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            rows, columns = inside(i, h), inside(j, w)
            total = sum(taps[a + half] * taps[b + half] * x[i + a, j + b] for a in rows for b in columns)
            covered = sum(taps[a + half] for a in rows) * sum(taps[b + half] for b in columns)
            y[i, j] = total / covered * sum(taps) ** 2
    return y


@pytest.mark.parametrize("shape", [(15, 21), (9, 6), (2, 12)])
def test_iteration_is_the_plain_loop(shape):
    x = 10 * noise(*shape) ** 8
    excitation, inhibition = competitor(*shape, 0.5, 0.02), competitor(*shape, 1.5, 0.25)
    expected = x.astype(float)
    for _ in range(3):
        floor = 0.02 * expected.max()
        expected = expected + plain_blur(expected, excitation) - plain_blur(expected, inhibition) - floor
        expected = np.maximum(expected, 0)
    assert expected.max() > 0
    np.testing.assert_allclose(iterated(x), expected, rtol=1e-4, atol=1e-4)


def test_a_peak_that_stands_alone_grows_and_a_crowd_dies():
    alone = np.zeros((15, 21), np.float32)
    alone[7, 10] = 10
    crowd = np.zeros((15, 21), np.float32)
    crowd[::2, ::2] = 10
    assert iterated(alone).max() > 10
    assert iterated(crowd).max() < 10


PEAKS = np.array(
    [
        [0, 0, 0, 0, 9],
        [0, 10, 0, 0.5, 0],
        [0, 0, 0, 0, 0],
        [0, 2, 0, 4, 0],
        [7, 0, 0, 0, 0],
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("change", "toolbox", "itti98"),
    [
        ({}, (10 - 16 / 3) ** 2, (10 - 3) ** 2),  # maxima 10, 4, 2; the border and 0.5 are none
        ({(3, 1): 0}, (10 - 7) ** 2, (10 - 4) ** 2),
        ({(3, 1): 0, (3, 2): 4}, (10 - 6) ** 2, (10 - 4) ** 2),  # both cells of a plateau count
        ({(3, 1): 0, (3, 3): 0}, 10**2, 10**2),  # one alone
        ({(3, 1): 0, (3, 3): 10}, 0, 0),  # two equal
        ({(3, 1): 0, (1, 1): 0, (0, 2): 10}, 10**2, (10 - 4) ** 2),  # the global one on the border
        ({(3, 1): 0, (3, 3): 0, (1, 1): 0, (0, 4): 10}, 1, 10**2),  # none
    ],
)
def test_local_maxima_by_hand(change, toolbox, itti98):
    x = PEAKS.copy()
    for cell, value in change.items():
        x[cell] = value
    np.testing.assert_allclose(promoted(x), x * toolbox, rtol=1e-6)
    np.testing.assert_allclose(promoted(x, others=True), x * itti98, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (1, 1)])
def test_a_map_without_an_inside_has_no_local_maxima(shape):
    x = 10 * noise(*shape)
    np.testing.assert_array_equal(promoted(x), x)


def test_stretch():
    x = np.array([[[-1, 0], [1, 3]], [[2, 2], [2, 2]]], np.float32)
    assert stretched_to(x, 10).tolist() == [[[0, 2.5], [5, 10]], [[0, 0], [0, 0]]]


@pytest.mark.parametrize("function", [iterated, promoted, lambda x: promoted(x, others=True)])
def test_maps_of_a_stack_do_not_touch(function):
    x = stretched_to(noise(2, 3, 15, 21), 10)
    together = function(x)
    for i in range(2):
        for k in range(3):
            np.testing.assert_allclose(together[i, k], function(x[i, k]), rtol=1e-5, atol=1e-5)


# --- saliency ---


@variants
def test_combination_is_the_plain_loop(norm, form):
    def n(x, top=None):
        if form == "toolbox" and norm == "iterative":
            return iterated(x if top is None else stretched_to(x, top))
        return promoted(stretched_to(x, 10), others=form == "itti98")

    pixels = picture(255, 340)
    features = feature_maps(pixels, form)
    total = np.zeros((15, 21), np.float32)
    for feature in features:
        subfeatures = [n(sum(n(x, 10) for x in maps)) for maps in feature]
        if len(subfeatures) > 1:
            total += n(sum(subfeatures)) / (3 * len(subfeatures))
        else:
            total += subfeatures[0] / 3
    expected = cv2.resize(n(total, 2), (340, 255), interpolation=cv2.INTER_LINEAR)
    actual = saliency(pixels, norm=norm, form=form)
    assert expected.max() > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * expected.max())


@variants
@pytest.mark.parametrize(("y", "x"), [(40, 60), (120, 250), (180, 100)])
def test_a_bright_square_on_grey_is_salient(norm, form, y, x):
    pixels = np.full((255, 340, 3), 100, np.uint8)
    pixels[y : y + 40, x : x + 40] = 220
    s = saliency(pixels, norm=norm, form=form)
    i, j = np.unravel_index(s.argmax(), s.shape)
    assert y <= i < y + 40
    assert x <= j < x + 40


@variants
def test_the_odd_colour_is_salient(norm, form):
    pixels = np.full((255, 340, 3), (0, 127, 0), np.uint8)
    pixels[100:140, 200:240] = (250, 0, 0)  # as bright: 0.2989 * 250 = 0.587 * 127
    i, j = np.unravel_index(saliency(pixels, norm=norm, form=form).argmax(), (255, 340))
    assert 100 <= i < 140
    assert 200 <= j < 240


@variants
@settings(deadline=None, max_examples=15)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    shape=st.sampled_from([(1, 1), (31, 90), (33, 40), (40, 340), (64, 97), (255, 340), (340, 340)]),
)
def test_a_constant_image_is_flat(norm, form, colour, shape):
    pixels = np.full((*shape, 3), colour, np.uint8)
    s = saliency(pixels, norm=norm, form=form)
    assert not s.any()
    assert torch.equal(weights(pixels, 3, 4, norm=norm, form=form), torch.ones(1, 3, 4))


def test_the_border_gives_a_flat_map_no_shape():
    red = np.full((40, 340, 3), (200, 10, 30), np.uint8)  # its maps are 2 x 21: all border, faded at the ends
    assert not any(maps.any() for maps in feature_maps(red, "itti98")[1])
    assert not saliency(red, form="itti98").any()


@variants
@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (31, 31), (30, 900)])
def test_an_image_too_small_for_any_pair_is_flat(norm, form, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert feature_maps(pixels[:340, :340], form) == []
    assert torch.equal(weights(pixels, 2, 5, norm=norm, form=form), torch.ones(1, 2, 5))


@variants
@settings(deadline=None, max_examples=20)
@given(h=st.integers(1, 200), w=st.integers(1, 200), max_size=st.integers(1, 220), seed=st.integers(0, 9))
def test_shape_and_range(norm, form, h, w, max_size, seed):
    s = saliency(picture(h, w, seed), max_size, norm, form)
    r = min(1, max_size / max(h, w))
    assert s.shape == (max(1, round(r * h)), max(1, round(r * w)))
    assert s.dtype == np.float32
    assert np.isfinite(s).all()
    assert s.min() >= 0


def test_working_size():
    pixels = picture(768, 1024)
    small = cv2.resize(pixels, (340, 255), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(saliency(pixels), saliency(small))
    assert saliency(pixels, max_size=500).shape == (375, 500)
    assert saliency(picture(80, 100)).shape == (80, 100)


def test_same_picture_same_map_in_any_thread():
    pictures = [picture(120 + 7 * k, 160 - 5 * k, seed=k) for k in range(6)]
    expected = [saliency(p) for p in pictures]
    with ThreadPoolExecutor(4) as pool:
        for actual, alone in zip(pool.map(saliency, pictures * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(actual, alone)


def test_pixels_are_left_as_they_were():
    pixels = picture(90, 120)
    before = pixels.copy()
    saliency(pixels)
    np.testing.assert_array_equal(pixels, before)


# --- weighter ---


class TestIterative(WeighterContract):
    component = IttiKoch


class TestLocalMax(WeighterContract):
    component = IttiKoch
    options = {"norm": "localmax"}  # noqa: RUF012


class TestItti98(WeighterContract):
    component = IttiKoch
    options = {"form": "itti98"}  # noqa: RUF012


@variants
def test_weights_are_the_maps_largest_values_by_cell(norm, form):
    pixels = picture(200, 150)
    alpha = weights(pixels, 12, 9, norm=norm, form=form, max_size=120)
    assert alpha.shape == (1, 12, 9)
    assert alpha.max() == 1
    assert torch.equal(alpha[0], block_max(saliency(pixels, 120, norm, form), 12, 9))


def test_no_size_is_refused():
    with pytest.raises(ValueError, match="max_size is at least 1"):
        IttiKoch.Config(max_size=0)
