"""The verdict: its evidence and its weights against plain loops, and how well scores tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from instsearch_cli.data import Hits
from instsearch_cli.measure.verdict import calibration_error, found_rate, threshold_at, verdicts
from instsearch_cli.testing import RerankerContract
from instsearch_plugins.numeric.logistic import logistic_regression
from instsearch_plugins.rerankers.verdict import Verdict, evidence

falling = hnp.arrays(np.float32, st.integers(0, 120), elements=st.floats(-1, 200, width=32)).map(
    lambda s: np.sort(s)[::-1]
)


def verdict(**options) -> Verdict:
    return Verdict(Verdict.Config(**options), torch.device("cpu"))


class TestContract(RerankerContract):
    component = Verdict


# -- the method ---------------------------------------------------------------------------------------


@given(falling, st.integers(0, 30), st.integers(31, 110))
def test_evidence_is_the_plain_loop(s, start, stop):
    x = evidence(s, start, stop, 2.0, 10.0)
    assert x.shape == (len(s), 4)
    rest = [float(s[j]) for j in range(len(s)) if (j >= start or j >= len(s) // 2) and j < stop]
    for i in range(len(s)):
        expected = (1.0, float(s[i]), min(sum(rest) / len(rest), 2.0), min(float(s[0]), 10.0))
        assert x[i] == pytest.approx(expected, abs=1e-4)


def probabilities(component: Verdict, s: np.ndarray) -> np.ndarray:
    """Of the scores of one query's hits, best first."""
    return component.score(component._log_odds(s))


def test_a_verdict_by_hand():
    """Log-odds of a hit with 8 inliers: -4 + 1 * 8 - 2 * r + 0.25 * 8, r = (1 + 0) / 2."""
    component = verdict(bias=-4, score=1, rest=-2, best=0.25, start=2, depth=6)
    p = probabilities(component, np.float32([8, 2, 1, 0]))
    expected = [-4 + 8 - 1 + 2, -4 + 2 - 1 + 2, -4 + 1 - 1 + 2, -4 - 1 + 2]
    np.testing.assert_allclose(p, [1 / (1 + math.exp(-z)) for z in expected], rtol=1e-6)


@given(falling)
def test_probabilities_fall_along_the_list_as_scores_do(s):
    p = probabilities(verdict(), s)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) <= 0).all()


def test_many_true_hits_are_no_reason_against_each_other():
    """Where the rest shows the object, too, it counts no more than its cap."""
    assert probabilities(verdict(), np.full(100, 40, np.float32)).min() > 0.99
    chance, few = (np.float32([7, *[5] * n, *[0.05] * (99 - n)]) for n in (60, 3))
    assert probabilities(verdict(), chance)[0] < 0.1 < 0.5 < probabilities(verdict(), few)[0]


@given(falling)
def test_probabilities_are_those_of_the_log_odds_to_the_bit(s):
    """The log-odds are still apart where the probabilities are all 1."""
    n = len(s)
    hits = Hits.stack([(np.arange(n), s, None)], n + 2)
    component = verdict()
    odds, p = (how([None], hits, None, None) for how in (component.evidence, component.rerank))
    assert (odds.scores.dtype, p.scores.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(component.score(odds.scores).astype(np.float32), p.scores)
    falls = np.diff(s.astype(np.float64))
    np.testing.assert_allclose(np.diff(odds.scores[0, :n]), component.config.score * falls, atol=1e-9)


def test_hits_keep_their_order_boxes_and_padding():
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    images = np.array([[4, 2, -1], [-1, -1, -1]])
    scores = np.float32([[12, 0.5, -np.inf], [-np.inf] * 3])
    got = verdict().rerank([None, None], Hits(images, scores, boxes), None, None)
    np.testing.assert_array_equal(got.images, images)
    np.testing.assert_array_equal(got.boxes, boxes)
    assert got.scores.dtype == np.float32
    assert got.scores[0, 0] > 0.9 > 0.1 > got.scores[0, 1] > 0
    assert (got.scores[images < 0] == -np.inf).all()
    assert scores[0, 0] == 12


@pytest.mark.parametrize(
    "options", [{"min_score": 2}, {"start": 100}, {"depth": 20}, {"score": -1.0}, {"start": -1}]
)
def test_senseless_options(options):
    with pytest.raises(ValueError, match=r"at least 0|between 0 and 1"):
        verdict(**options)


# -- learning it --------------------------------------------------------------------------------------


def test_weights_are_those_at_which_the_gradient_vanishes():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(400), rng.normal(size=(400, 2)) * [3, 1]])
    y = rng.random(400) < 1 / (1 + np.exp(-(x @ [0.5, -1.0, 2.0])))
    w = logistic_regression(x, y, ridge=0.7)
    gradient = np.zeros(3)
    for xi, yi in zip(x, y, strict=True):
        gradient += xi * (1 / (1 + math.exp(-float(xi @ w))) - yi)
    gradient[1:] += 0.7 * w[1:]
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    np.testing.assert_allclose(w, [0.5, -1.0, 2.0], atol=0.6)


def test_what_can_be_told_apart_for_certain_still_has_weights():
    x = np.column_stack([np.ones(6), [1, 2, 3, 30, 40, 200]])
    w = logistic_regression(x, x[:, 1] > 10)
    assert np.isfinite(w).all()
    assert ((x @ w > 0) == (x[:, 1] > 10)).all()


# -- how well scores tell -----------------------------------------------------------------------------


def test_thresholds_by_hand():
    absent = [9.0, 5.0, 4.0, 4.0, 1.0, -math.inf, 0.5, 2.0, 3.0, 0.0]
    assert threshold_at(absent, 0.05) > 9  # one of ten would be 10 %
    assert 5 < threshold_at(absent, 0.1) < 5.001
    assert 4 < threshold_at(absent, 0.2) < 4.001
    assert found_rate([5.0, 5.5, -math.inf, 90.0], threshold_at(absent, 0.1)) == 0.5
    assert found_rate([-math.inf, 1.0], threshold_at(absent, 1.0)) == 0.5  # no hit is never found


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.integers(0, 12)), st.sampled_from([0, 0.05, 0.3])
)
def test_thresholds_are_the_lowest_that_hold(absent, share):
    t = threshold_at(absent, share)
    assert found_rate(absent, t) <= share
    lower = absent[absent < t]
    assert not len(lower) or found_rate(absent, lower.max()) > share


def test_calibration_error_by_hand():
    # [0.1, 0.2): mean 0.15, none true; [0.9, 1]: mean 0.95, half of them true
    p, truth = [0.12, 0.18, 0.9, 1.0], [False, False, True, False]
    assert calibration_error(p, truth) == pytest.approx(0.5 * 0.15 + 0.5 * 0.45)
    assert calibration_error([], []) == 0


def test_verdicts_of_a_few_queries():
    present, absent = [0.9, 0.4, 0.95, -math.inf], [0.3, 0.5, -math.inf, 0.2]
    first = [(0.9, True), (0.5, False)]
    got = verdicts(present, absent, first, 0.45)
    assert got["found at 5% false"] == 0.5
    assert (got["found"], got["false found"]) == (0.5, 0.25)
    assert got["calibration error"] == pytest.approx((0.1 + 0.5) / 2)
    assert set(verdicts(present, absent, [(7.0, True)])) == {f"found at {n}% false" for n in (1, 5, 10)}
