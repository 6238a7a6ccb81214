from __future__ import annotations

import numpy as np
import pytest

from instsearch_plugins.numeric.discriminant import DARK, MOST, SHRINKAGE, colours, discriminant, levels
from instsearch_plugins.numeric.registration import BLOCK


def picture(seed: int, m: int = 4, n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(40, 120, (BLOCK * (m + 1), BLOCK * (n + 1), 3)).astype(np.uint8)


def test_the_light_is_no_difference():
    usual, seen = picture(0), np.ones((4, 3), bool)
    warm = np.round((usual / 255 + DARK) * [1.5, 1.2, 0.8] * 255 - 255 * DARK).astype(np.uint8)
    np.testing.assert_allclose(colours(warm, levels(usual), seen), 0, atol=0.01)


def test_colours_by_a_plain_loop():
    one, usual = picture(1), picture(2)
    one[:16, :16] //= 8  # a dark corner
    seen = np.ones((4, 3), bool)
    seen[3, 2] = False
    expected = np.zeros((3, 4, 3))
    for c in range(3):
        for i in range(4):
            for j in range(3):
                cell = slice(i * BLOCK, (i + 2) * BLOCK), slice(j * BLOCK, (j + 2) * BLOCK), c
                expected[c, i, j] = np.mean(np.log((one[cell] / 255 + DARK) / (usual[cell] / 255 + DARK)))
        expected[c] -= np.median([expected[c, i, j] for i in range(4) for j in range(3) if seen[i, j]])
    expected = expected.clip(-MOST, MOST) * seen
    found = colours(one, levels(usual), seen)
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-4)
    assert found.reshape(3, 4, 3)[:, 0, 0].tolist() == pytest.approx([-MOST] * 3)


def test_nothing_seen_differs_in_nothing():
    assert not colours(picture(1), levels(picture(2)), np.zeros((4, 3), bool)).any()


def test_the_discriminant_by_a_plain_loop():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5)) * [1, 2, 3, 1, 0.1]
    these, those = np.arange(12) < 4, np.arange(12) > 7
    x[these] += [3, 0, 0, -1, 0]
    within = np.concatenate([x[:4] - x[:4].mean(0), x[8:] - x[8:].mean(0)])
    s = within.var(axis=0)
    s = s + SHRINKAGE * s.mean()
    d = []
    for i in range(12):
        mu = np.mean([x[j] for j in range(4) if j != i], axis=0)
        nu = np.mean([x[j] for j in range(8, 12) if j != i], axis=0)
        d.append(sum((x[i] - (mu + nu) / 2) * (mu - nu) / s) / np.sqrt(sum((mu - nu) ** 2 / s)))
    np.testing.assert_allclose(discriminant(x, these, those), np.array(d) / np.std(d), rtol=1e-6)
    assert min(d[:4]) > max(d[8:])


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (0, 0)])
def test_one_of_a_kind_tells_nothing(n, m):
    x, at = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12)
    assert not discriminant(x, at < n, at >= 12 - m).any()


def test_equal_vectors_tell_nothing():
    at = np.arange(6)
    assert discriminant(np.ones((6, 3)), at < 3, at > 3).tolist() == [0] * 6
