"""Normalisation of Itti and Koch's maps: iterated competition as a plain loop, and local maxima by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from instsearch_plugins.numeric.itti import competitor, iterated, promoted, stretched_to
from itti_pictures import noise


def test_kernels_of_a_15_by_21_map():
    excitation, inhibition = competitor(15, 21, 0.5, 0.02), competitor(15, 21, 1.5, 0.25)
    assert excitation == pytest.approx([0.0279, 0.4749, 0.0279], abs=5e-5)
    assert len(inhibition) == 2 * 6 + 1
    assert inhibition[6] == pytest.approx(0.1140, abs=5e-5)
    assert inhibition[0] == pytest.approx(0.1140 * math.exp(-(6**2) / (2 * 5.25**2)), abs=5e-5)


@pytest.mark.parametrize(("shape", "half"), [((2, 21), 0), ((3, 3), 0), ((8, 8), 3), ((90, 130), 44)])
def test_kernels_fit_the_map(shape, half):
    assert len(competitor(*shape, strength=1.5, width=0.25)) == 2 * half + 1


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
    excitation, inhibition = (
        competitor(*shape, strength=0.5, width=0.02),
        competitor(*shape, strength=1.5, width=0.25),
    )
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


def test_local_maxima_of_maps_as_they_are():
    """As the toolbox weighs sums of maps: from their own largest value, here 90 on the border, and maxima from 1."""
    x = 10 * PEAKS
    np.testing.assert_allclose(promoted(x, None), x * (100 - (100 + 40 + 20 + 5) / 4) ** 2, rtol=1e-6)
    x[1, 1] = 0
    np.testing.assert_allclose(promoted(x, None), x * (90 - (40 + 20 + 5) / 3) ** 2, rtol=1e-6)
    np.testing.assert_allclose(promoted(x / 5, 20), x / 5 * (20 - 6) ** 2, rtol=1e-6)  # 8 and 4; 1 is none


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (1, 1)])
def test_a_map_without_an_inside_has_no_local_maxima(shape):
    x = 10 * noise(*shape)
    np.testing.assert_array_equal(promoted(x), x)


def test_stretch():
    x = np.array([[[-1, 0], [1, 3]], [[2, 2], [2, 2]]], np.float32)
    assert stretched_to(x, 10).tolist() == [[[0, 2.5], [5, 10]], [[0, 0], [0, 0]]]


@pytest.mark.parametrize(
    "function", [iterated, promoted, lambda x: promoted(x, None), lambda x: promoted(x, others=True)]
)
def test_maps_of_a_stack_do_not_touch(function):
    x = stretched_to(noise(2, 3, 15, 21), 10)
    together = function(x)
    for i in range(2):
        for k in range(3):
            np.testing.assert_allclose(together[i, k], function(x[i, k]), rtol=1e-5, atol=1e-5)
