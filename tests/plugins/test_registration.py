from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_plugins.numeric.registration import (
    BLOCK,
    MISSED,
    NOISE,
    STEPS,
    STIFFNESS,
    Reference,
    applied,
    cells,
    correlations,
    gradients,
    homography,
    magnification,
    registered,
    warped,
)
from small_pictures import noise


def test_cells_are_means_of_two_by_two_blocks():
    x = np.random.default_rng(0).random((3 * BLOCK, 4 * BLOCK), np.float32)
    expected = [
        [x[i * BLOCK : (i + 2) * BLOCK, j * BLOCK : (j + 2) * BLOCK].mean() for j in range(3)]
        for i in range(2)
    ]
    np.testing.assert_allclose(cells(x), expected, rtol=1e-5)


def test_gradients_of_a_slope():
    x = np.tile(np.arange(40, dtype=np.uint8) * 3, (30, 1))
    g = gradients(np.stack([x, x, np.zeros_like(x)], axis=-1))[:, 8:-8, 8:-8]
    np.testing.assert_allclose(g.mean(axis=(1, 2)), [3, 3, 0, 0, 0, 0], atol=0.02)


def test_correlations_equal_the_plain_loop():
    rng, reach = np.random.default_rng(1), 2
    own = rng.normal(0, 5, (6, 3 * BLOCK, 3 * BLOCK)).astype(np.float32)
    other = rng.normal(0, 5, (6, 3 * BLOCK + 4, 3 * BLOCK + 4)).astype(np.float32)
    other[:, 3 : 3 + 2 * BLOCK, 2 : 2 + 2 * BLOCK] = own[:, : 2 * BLOCK, : 2 * BLOCK]
    found = correlations(Reference(own), other, reach)
    for i in range(2):
        for j in range(2):
            at = slice(i * BLOCK, (i + 2) * BLOCK), slice(j * BLOCK, (j + 2) * BLOCK)
            a, best = own[:, at[0], at[1]], (-np.inf, (0, 0))
            n = (2 * BLOCK) ** 2
            for y in range(-reach, reach + 1):
                for x in range(-reach, reach + 1):
                    if x * x + y * y <= reach**2:
                        b = other[:, reach + y :, reach + x :][:, at[0], at[1]]
                        energies = ((a * a).sum() / n + NOISE) * ((b * b).sum() / n + NOISE)
                        best = max(best, (float((a * b).sum() / n / np.sqrt(energies)), (x, y)))
            assert found.ncc[i, j] == pytest.approx(best[0], abs=1e-4)
            assert tuple(found.move[i, j].tolist()) == best[1]
    assert found.move[0, 0].tolist() == [0, 1]
    assert found.ncc[0, 0] == pytest.approx(1, abs=0.03)


def test_warping_by_the_identity_and_by_a_margin():
    picture = noise(64, 80)
    seen, inside = warped(picture, np.eye(3), (80, 64))
    assert inside.all()
    np.testing.assert_array_equal(seen, picture)
    seen, inside = warped(picture, np.eye(3), (80, 64), 3)
    np.testing.assert_array_equal(seen[3:-3, 3:-3], picture)
    assert not inside[:3].any()
    assert inside[3:-3, 3:-3].all()


def test_what_is_reduced_is_averaged():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::2] = 200
    seen, _ = warped(picture, np.diag([4.0, 4.0, 1.0]), (16, 16))
    np.testing.assert_allclose(seen, 100, atol=2)


@pytest.mark.parametrize("step", [1.0, 1.19, 1.5, 1.99, 2.0, 2.7, 4.3, 9.0])
def test_what_is_reduced_stays_where_it_is(step):
    """Of a slope every average is the value in its middle."""
    picture = np.repeat(np.arange(251, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(203, axis=0)
    w, h = int(200 / step), int(150 / step)
    H = np.array([[step, 0, 20.3], [0, step, 31.7], [0, 0, 1]])
    seen, inside = warped(picture, H, (w, h))
    assert inside.all()
    expected = (np.arange(w) + 0.5) * step + 20.3 - 0.5
    np.testing.assert_allclose(seen, np.broadcast_to(expected[None, :, None], seen.shape), atol=1.01)


@pytest.mark.parametrize("step", [1.5, 2.0, 3.0, 5.7])
def test_what_is_reduced_is_even_where_it_was_noise(step):
    """The variance of noise falls with the pixels that an average is of."""
    rng = np.random.default_rng(0)
    picture = rng.normal(128, 20, (300, 300, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    seen, _ = warped(picture, np.diag([step, step, 1.0]), (int(290 / step), int(290 / step)))
    assert seen.mean() == pytest.approx(128, abs=1)
    assert seen.std() < 20 * 1.3 / step


def test_what_is_far_out_is_nothing():
    seen, inside = warped(noise(64, 64), np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1.0]]), (32, 32))
    assert seen.shape == (32, 32, 3)
    assert not inside.any()


def test_magnification_in_the_middle():
    assert magnification(np.diag([2.0, 8.0, 1.0]), (10, 10)) == pytest.approx(4)
    H = np.array([[1, 0, 0], [0, 1, 0], [0.01, 0, 1]])  # x' = x / (1 + x / 100): 1 / 1.5^3 of areas at x = 50
    assert magnification(H, (100, 10)) == pytest.approx(1.5**-1.5)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.floats(-3, 3), st.floats(-3, 3), st.floats(-4e-4, 4e-4)
)
def test_a_small_homography_is_found_in_spite_of_outliers(a, b, x, y, g):
    true = np.array([[1 + a, b, x], [-b, 1 - a, y], [g, 0, 1]])
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 100, (80, 2))
    q = applied(true, p)
    q[:10] += rng.uniform(-40, 40, (10, 2))
    found = homography(p, q, np.ones(80), (100, 100))
    assert np.linalg.norm(applied(found, p) - applied(true, p), axis=1).max() < 1.0


def test_a_coarse_alignment_becomes_fine():
    picture = noise(400, 400)
    true = np.array([[1.6, 0.3, 60], [-0.3, 1.6, 110], [4e-4, 0, 1]])
    box = np.diag([150.0, 150.0, 1.0])
    templates = []
    for side, _ in STEPS:
        scale = np.diag([150 / side, 150 / side, 1])
        templates.append(Reference(gradients(warped(picture, true @ scale, (side, side))[0])))
    off = np.array([[1.02, 0.01, 3], [-0.01, 0.99, -4], [0, 0, 1]])
    corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    before = applied(off @ true @ box, corners) - applied(true @ box, corners)
    after = applied(registered(templates, picture, off @ true @ box)[0], corners) - applied(
        true @ box, corners
    )
    assert np.abs(before).max() > 5
    assert np.abs(after).max() < 2  # a pixel of the finest template


def test_a_homography_equals_one_of_plain_loops():
    """Five rounds of weighted least squares, a row at a time."""
    rng, size = np.random.default_rng(3), (128, 96)
    p = rng.uniform(0, 96, (40, 2))
    q, weight = p + rng.normal(0, 1.5, p.shape), rng.uniform(0.1, 1, 40)
    centre, half = np.array(size) / 2, max(size) / 2
    x, y = (p - centre) / half, (q - centre) / half
    identity, robust = np.array([1.0, 0, 0, 0, 1, 0, 0, 0]), np.ones(40)
    for _ in range(5):
        A = np.diag(STIFFNESS * weight.sum())
        b = A @ identity
        for i in range(40):
            for row, target in (
                (np.array([*x[i], 1, 0, 0, 0, *(-y[i, 0] * x[i])]), y[i, 0]),
                (np.array([0, 0, 0, *x[i], 1, *(-y[i, 1] * x[i])]), y[i, 1]),
            ):
                A, b = (
                    A + weight[i] * robust[i] * np.outer(row, row),
                    b + weight[i] * robust[i] * row * target,
                )
        H = np.append(np.linalg.solve(A, b), 1).reshape(3, 3)
        missed = np.linalg.norm(applied(H, x) - y, axis=1) * half
        robust = 1 / (1 + (missed / MISSED) ** 2)
    expected = applied(H, x) * half + centre
    np.testing.assert_allclose(applied(homography(p, q, weight, size), p), expected, atol=1e-8)
