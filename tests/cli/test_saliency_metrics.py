"""The saliency metrics against worked numbers, slow plain loops and what must always hold."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss

P = np.array([[0.1, 0.4, 0.3], [0.2, 0.9, 0.6], [0, 0.5, 0.7]])
F = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
Q = np.array([[1, 3, 1], [2, 8, 2], [0, 2, 1]], float)

shapes = st.tuples(st.integers(2, 7), st.integers(2, 7))
levels = st.integers(0, 1000)


def maps(shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    """Maps of whole numbers that are not flat: what must hold holds without rounding in the way."""
    return hnp.arrays(np.int64, shape, elements=levels).filter(lambda a: a.max() > a.min()).map(np.float64)


pairs = shapes.flatmap(lambda s: st.tuples(maps(s), maps(s)))
looked = shapes.flatmap(
    lambda s: st.tuples(maps(s), hnp.arrays(np.bool_, s).filter(lambda f: 0 < f.sum() < f.size))
)


def slow_auc(P: np.ndarray, F: np.ndarray) -> float:
    thresholds = sorted((p for p, f in zip(P.flat, F.flat, strict=True) if f), reverse=True)
    curve = [(0.0, 0.0)]
    for i, t in enumerate(thresholds, start=1):
        at_least = sum(1 for p in P.flat if p >= t)
        curve.append(((at_least - i) / (P.size - len(thresholds)), i / len(thresholds)))
    curve.append((1.0, 1.0))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def slow_nss(P: np.ndarray, F: np.ndarray) -> float:
    mean = sum(P.flat) / P.size
    std = math.sqrt(sum((p - mean) ** 2 for p in P.flat) / (P.size - 1))
    scores = [(p - mean) / std for p, f in zip(P.flat, F.flat, strict=True) if f]
    return sum(scores) / len(scores)


def slow_cc(P: np.ndarray, Q: np.ndarray) -> float:
    p_mean, q_mean = sum(P.flat) / P.size, sum(Q.flat) / Q.size
    over = sum((p - p_mean) * (q - q_mean) for p, q in zip(P.flat, Q.flat, strict=True))
    under = sum((p - p_mean) ** 2 for p in P.flat) * sum((q - q_mean) ** 2 for q in Q.flat)
    return over / math.sqrt(under)


def slow_kl(P: np.ndarray, Q: np.ndarray) -> float:
    eps, total = 2.220446049250313e-16, 0.0
    for p, q in zip(P.flat, Q.flat, strict=True):
        p, q = p / sum(P.flat), q / sum(Q.flat)
        total += q * math.log(eps + q / (p + eps))
    return total


def test_a_worked_example() -> None:
    assert auc_judd(P, F) == pytest.approx(0.892857, abs=1e-6)
    assert nss(P, F) == pytest.approx(0.814079, abs=1e-6)
    assert cc(P, Q) == pytest.approx(0.707924, abs=1e-6)
    assert kl(P, Q) == pytest.approx(0.171204, abs=1e-6)


@given(looked)
def test_those_of_fixations_are_what_plain_loops_say(case: tuple[np.ndarray, np.ndarray]) -> None:
    P, F = case
    assert auc_judd(P, F) == pytest.approx(slow_auc(P, F), abs=1e-12)
    assert nss(P, F) == pytest.approx(slow_nss(P, F), abs=1e-9)


@given(pairs)
def test_those_of_densities_are_what_plain_loops_say(case: tuple[np.ndarray, np.ndarray]) -> None:
    P, Q = case
    assert cc(P, Q) == pytest.approx(slow_cc(P, Q), abs=1e-9)
    assert kl(P, Q) == pytest.approx(slow_kl(P, Q), abs=1e-9)


@given(looked, st.integers(1, 9), st.integers(0, 500))
def test_scale_and_offset_of_the_map_do_not_matter(
    case: tuple[np.ndarray, np.ndarray], a: int, b: int
) -> None:
    P, F = case
    assert auc_judd(a * P + b, F) == auc_judd(P, F)
    assert nss(a * P + b, F) == pytest.approx(nss(P, F), abs=1e-9)
    assert cc(a * P + b, F) == pytest.approx(cc(P, F), abs=1e-9)
    assert kl(a * P, F) == pytest.approx(kl(P, F), abs=1e-9)


@given(pairs)
def test_ranges(case: tuple[np.ndarray, np.ndarray]) -> None:
    P, Q = case
    assert -1 - 1e-9 <= cc(P, Q) <= 1 + 1e-9
    assert cc(P, Q) == pytest.approx(cc(Q, P), abs=1e-12)
    assert cc(Q, Q) == pytest.approx(1)
    assert cc(-Q, Q) == pytest.approx(-1)
    assert kl(P, Q) >= -1e-9
    assert kl(Q, Q) == pytest.approx(0, abs=1e-12)


@given(shapes, st.randoms())
def test_without_ties_it_is_the_share_of_pairs_in_order(
    shape: tuple[int, int], random: random.Random
) -> None:
    n = shape[0] * shape[1]
    P = np.array(random.sample(range(n), n), float).reshape(shape)
    F = np.array(random.sample(range(n), n)).reshape(shape) % 3 == 0
    fixated, others = P[F], P[~F]
    ordered = np.mean(fixated[:, None] > others)
    half_steps = np.mean(others > fixated.min()) / (2 * len(fixated))  # the trapezoids' slanted tops
    assert auc_judd(P, F) == pytest.approx(ordered + half_steps, abs=1e-12)


def test_perfect_and_opposite_maps() -> None:
    F = np.zeros((10, 10), bool)
    F[4:6, 3:5] = True
    P = F + np.linspace(0, 0.1, 100).reshape(10, 10)
    assert auc_judd(P, F) == 1
    assert auc_judd(-P, F) < 0.2
    assert nss(P, F) > 3


def test_pixels_that_tie_with_a_fixated_one_count_against_the_map_unless_jitter_parts_them() -> None:
    F = np.zeros((20, 20), bool)
    F[5:8, 5:8] = F[15, 15] = True
    P = np.zeros((20, 20))
    P[4:9, 4:9] = 1
    assert auc_judd(P, F) == pytest.approx(slow_auc(P, F))
    parted = auc_judd(P, F, jitter=1e-7)
    assert parted == auc_judd(P, F, jitter=1e-7)
    assert parted != auc_judd(P, F, jitter=1e-7, seed=1)
    assert parted > auc_judd(P, F)
    noise = np.random.default_rng(0).random((20, 20))
    assert parted == pytest.approx(slow_auc(P + 1e-7 * noise, F))
    wide = np.arange(1600.0).reshape(40, 40)
    assert auc_judd(wide, wide % 7 == 0, jitter=1e-7) == auc_judd(wide, wide % 7 == 0)


def test_a_flat_map_has_no_value_but_a_divergence() -> None:
    flat = np.full((3, 3), 0.1)
    assert math.isnan(auc_judd(flat, F))
    assert math.isnan(nss(flat, F))
    assert math.isnan(cc(flat, Q))
    assert math.isnan(cc(Q, flat))
    assert kl(flat, Q) == pytest.approx(slow_kl(flat, Q))
    spread = auc_judd(np.zeros((99, 99)), np.eye(99, dtype=bool), jitter=1e-7)
    assert spread == pytest.approx(0.5, abs=0.1)


def test_nothing_to_compare_with_has_no_value() -> None:
    nobody = np.zeros((3, 3), bool)
    for value in (auc_judd(P, nobody), nss(P, nobody), kl(P, nobody), cc(P, nobody), kl(nobody, Q)):
        assert math.isnan(value)
    assert math.isnan(auc_judd(P, ~nobody))
    assert nss(P, ~nobody) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", [auc_judd, nss, cc, kl])
def test_shapes_must_agree(metric: object) -> None:
    with pytest.raises(ValueError, match="one shape"):
        metric(P, F[:2])
