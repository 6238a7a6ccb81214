"""Ranking and localisation measures against the definitions, by hand and by slow loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsearch_cli.measure.metrics import (
    DENOMINATORS,
    PROTOCOLS,
    average_precision,
    average_precision_at,
    localisation,
    precision_at,
    recall_at,
    relevance,
    revisited_precision_at,
)


def at(ranks: set[int], n: int) -> list[bool]:
    return [i in ranks for i in range(n)]


@pytest.mark.parametrize(
    ("ranks", "positives", "plain", "trapezoid"),
    [
        ({0, 2, 5}, 4, (1 + 2 / 3 + 3 / 6) / 4, 0.508333),
        ({1}, 1, 0.5, 0.25),
        ({0, 1, 2}, 3, 1.0, 1.0),
        (set(), 2, 0.0, 0.0),
        ({0}, 2, 0.5, 0.5),
    ],
)
def test_average_precision_by_hand(ranks: set[int], positives: int, plain: float, trapezoid: float) -> None:
    assert average_precision(at(ranks, 10), positives) == pytest.approx(plain, abs=1e-6)
    assert average_precision(at(ranks, 10), positives, "trapezoid") == pytest.approx(trapezoid, abs=1e-6)


def test_average_precision_of_a_cut_ranking_counts_all_positives() -> None:
    relevant = [True, False, True, True, False, False, True]
    assert average_precision_at(relevant, 4, 5) == pytest.approx(0.483333, abs=1e-6)
    assert average_precision_at(relevant, 4, 5, denominator="reachable") == pytest.approx(0.604167, abs=1e-6)
    for denominator in DENOMINATORS:
        assert average_precision_at(relevant, 7, 5, "plain", denominator) == pytest.approx(0.597619, abs=1e-6)
    assert average_precision_at([True] * 74, 10, 74) == pytest.approx(10 / 74)
    assert average_precision_at([True] * 74, 10, 74, denominator="reachable") == 1
    with pytest.raises(ValueError, match="'all'"):
        average_precision_at(relevant, 4, 5, denominator="all")


@settings(deadline=None)
@given(
    st.lists(st.booleans(), max_size=30),
    st.integers(0, 5),
    st.integers(1, 35),
    st.sampled_from(PROTOCOLS),
)
def test_average_precision_at_k_by_its_parts(
    relevant: list[bool], missing: int, k: int, protocol: str
) -> None:
    positives = max(1, sum(relevant) + missing)
    of_all = average_precision_at(relevant, k, positives, protocol)
    reachable = average_precision_at(relevant, k, positives, protocol, "reachable")
    assert of_all == pytest.approx(average_precision(relevant[:k], positives, protocol))
    assert reachable * min(k, positives) == pytest.approx(of_all * positives)
    assert 0 <= of_all <= reachable <= 1 + 1e-12
    assert of_all <= average_precision(relevant, positives, protocol) + 1e-12  # grows to that of all hits
    if k >= len(relevant):
        assert of_all == average_precision(relevant, positives, protocol)


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 5))
def test_average_precision_is_the_mean_of_precisions(relevant: list[bool], missing: int) -> None:
    positives = sum(relevant) + missing
    if positives == 0:
        with pytest.raises(ValueError, match="positives"):
            average_precision(relevant, positives)
        return
    plain = sum(sum(relevant[: i + 1]) / (i + 1) for i, good in enumerate(relevant) if good) / positives
    assert average_precision(relevant, positives) == pytest.approx(plain)

    # compute_ap.cpp of the Oxford buildings: area under the precision-recall curve, by trapezoids
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for i, good in enumerate(relevant):
        found += good
        recall, precision = found / positives, found / (i + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    assert average_precision(relevant, positives, "trapezoid") == pytest.approx(area)


def test_average_precision_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="2 relevant hits of 1 positives"):
        average_precision([True, True], 1)
    with pytest.raises(ValueError, match="'voc'"):
        average_precision([True], 1, "voc")


def test_junk_is_taken_out_before_ranks_are_counted() -> None:
    ranked = ["junk", "a", "x", "both", "b"]
    relevant = relevance(ranked, {"a", "b", "both"}, {"junk", "both"})
    assert relevant.tolist() == [True, False, True]
    assert average_precision(relevant, 2) == pytest.approx((1 + 2 / 3) / 2)


@given(st.lists(st.integers(0, 9), unique=True), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_relevance_is_that_of_the_ranking_without_junk(
    ranked: list[int], positives: set[int], junk: set[int]
) -> None:
    kept = [hit for hit in ranked if hit not in junk]
    assert relevance(ranked, positives, junk).tolist() == [hit in positives for hit in kept]


def test_precision_and_recall_at_k() -> None:
    relevant = [True, False, True]
    assert precision_at(relevant, 2) == 0.5
    assert precision_at(relevant, 10) == pytest.approx(0.2)
    assert recall_at(relevant, 1, 4) == 0.25
    assert recall_at(relevant, 10, 4) == 0.5


def test_revisited_precision_by_hand() -> None:
    relevant = [True, False, True, False, False]
    assert revisited_precision_at(relevant, 1) == 1
    assert revisited_precision_at(relevant, 2) == 0.5
    assert revisited_precision_at(relevant, 10) == pytest.approx(2 / 3)  # up to the last positive
    assert revisited_precision_at([True, True], 10) == 1
    assert revisited_precision_at([False] * 3, 5) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.integers(1, 12))
def test_revisited_precision_is_that_of_the_protocol(relevant: list[bool], k: int) -> None:
    ranks = [i + 1 for i, good in enumerate(relevant) if good]
    kq = min(max(ranks), k)
    assert revisited_precision_at(relevant, k) == pytest.approx(sum(r <= kq for r in ranks) / kq)


NONE = [math.nan] * 4


def test_localisation_takes_the_best_annotated_box() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], NONE]
    annotated = [[[50, 50, 60, 60], [0, 0, 10, 8]], [[5, 0, 15, 10]], [], [[0, 0, 1, 1]]]
    got = localisation(boxes, annotated)
    assert (got["n_hits"], got["n_with_box"], got["n_annotated"], got["n_localised"]) == (4, 3, 3, 1)
    assert got["share"] == pytest.approx(1 / 3)
    assert got["mean_iou"] == pytest.approx((0.8 + 1 / 3 + 0) / 3)
    boxed = localisation(boxes, annotated, count_missing=False)
    assert boxed["share"] == pytest.approx(1 / 2)
    assert boxed["mean_iou"] == pytest.approx((0.8 + 1 / 3) / 2)


def test_an_overlap_of_exactly_the_threshold_is_not_enough() -> None:
    assert localisation([[0, 0, 10, 10]], [[[0, 0, 10, 5]]])["n_localised"] == 0
    assert localisation([[0, 0, 10, 10]], [[[0, 0, 10, 5]]], threshold=0.4)["n_localised"] == 1


def test_localisation_of_nothing() -> None:
    got = localisation(np.empty((0, 4)), [])
    assert got["n_hits"] == 0
    assert math.isnan(got["share"])
    assert math.isnan(got["mean_iou"])
    with pytest.raises(ValueError, match="1 hits but annotations of 0"):
        localisation([[0, 0, 1, 1]], [])
