"""Several views and negatives made one list: against a plain loop, and what must hold whatever the lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import Hits, without_equals
from instsearch_cli.engine.fusion import alone, fuse
from instsearch_plugins.rerankers.verdict import Verdict

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 3)), max_size=10, unique_by=lambda pair: pair[0])
LISTS = st.lists(ROWS, min_size=1, max_size=4)


def listed(lists: list[list[tuple[int, int]]], k: int = 10) -> Hits:
    """Hits of these (image, score) pairs, each list best first; boxes tell image and score."""
    ranked = []
    for pairs in lists:
        best = sorted(pairs, key=lambda pair: -pair[1])
        boxes = [[i, 0.4 * s, i + 1, 0.4 * s + 1] if i % 3 else [np.nan] * 4 for i, s in best]
        images, scores = (np.array([pair[c] for pair in best]) for c in (0, 1))
        ranked.append((images.astype(np.int64), scores.astype(np.float32), np.reshape(boxes, (-1, 4))))
    return Hits.stack(ranked, k)


NOTHING = listed([[]])


def plain(views: Hits, against: Hits, k: int, contested: Any) -> tuple[list[tuple[float, int]], list[float]]:
    """(score, image) of the hits, and the scores of the dropped ones."""
    best: dict[int, tuple[float, int, float]] = {}
    for v in range(len(views.images)):
        for rank in range(views.valid(v)):
            y = float(views.boxes[v, rank, 1])
            image, own = int(views.images[v, rank]), (-float(views.scores[v, rank]), rank, y)
            best[image] = min(best.get(image, own), own)
    first = sorted((s, rank, image, y) for image, (s, rank, y) in best.items())

    def left(image: int, score: float, y: float) -> float:
        least = score
        for n in range(len(against.images)):
            for rank in range(against.valid(n)):
                apart = (
                    abs(float(against.boxes[n, rank, 1]) - y) >= 0.5
                )  # of unit squares; never where one is unknown
                same = against.images[n, rank] == image and not apart
                if same:
                    other = np.float32([against.scores[n, rank]])
                    least = min(least, float(np.float32(contested(np.float32([score]), other)[0])))
        return least

    kept = [(left(image, -s, y), image) for s, _, image, y in first if left(image, -s, y) > -np.inf]
    kept.sort(key=lambda pair: -pair[0])
    return kept[:k], [-s for s, _, image, y in first if left(image, -s, y) == -np.inf]


@given(LISTS, LISTS, st.integers(1, 12), st.booleans())
def test_fused_hits_are_the_plain_loops(views: list[Any], against: list[Any], k: int, sure: bool) -> None:
    a, b = listed(views), listed(against)
    contested = Verdict(Verdict.Config(), None).contested if sure else without_equals
    fused = fuse(a, b, k, contested)
    kept, dropped = plain(a, b, k, contested)
    assert list(zip(fused.hits.scores[0].tolist(), fused.hits.images[0].tolist(), strict=True)) == kept
    assert fused.dropped.tolist() == dropped
    shown = {image for pairs in views for image, _ in pairs}
    kept_at_all = {image for _, image in plain(a, b, 99, contested)[0]}
    assert fused.refused.tolist() == sorted(shown - kept_at_all)
    for image, score, box, v in zip(
        fused.hits.images[0], fused.hits.scores[0], fused.hits.boxes[0], fused.views, strict=True
    ):
        (rank,) = np.flatnonzero(a.images[v] == image)
        assert a.scores[v, rank] == a.scores[a.images == image].max() >= score
        np.testing.assert_array_equal(a.boxes[v, rank], box)


@given(LISTS, LISTS, st.randoms())
def test_the_order_of_views_and_negatives_is_all_one(views: list[Any], against: list[Any], dice: Any) -> None:
    one = fuse(listed(views), listed(against), 10)
    dice.shuffle(views)
    dice.shuffle(against)
    other = fuse(listed(views), listed(against), 10)
    for name in ("images", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(one.hits, name), getattr(other.hits, name))
    np.testing.assert_array_equal(one.dropped, other.dropped)


@given(LISTS)
def test_negatives_that_are_the_views_leave_nothing(views: list[Any]) -> None:
    hits = listed(views)
    fused = fuse(hits, hits, 10)
    assert fused.hits.images.shape == (1, 0)
    assert len(fused.dropped) == len({image for pairs in views for image, _ in pairs})


@given(ROWS, st.integers(1, 12))
def test_one_view_alone_is_itself(pairs: list[tuple[int, int]], k: int) -> None:
    hits = listed([pairs], k)
    for fused in (fuse(hits, NOTHING, k), fuse(listed([pairs, pairs], k), NOTHING, k), alone(hits, 0)):
        n = hits.valid(0)
        np.testing.assert_array_equal(fused.hits.images[0], hits.images[0, :n])
        np.testing.assert_array_equal(fused.hits.scores[0], hits.scores[0, :n])
        np.testing.assert_array_equal(fused.hits.boxes[0], hits.boxes[0, :n])
        assert fused.hits.scores.dtype == np.float32
        assert not fused.views.any()
        assert not len(fused.dropped)


def test_what_a_verdict_leaves() -> None:
    """By hand: .3 log(1 + exp(s_n + 4)) off, none where the negative wins by 4, or by anything where all is sure."""
    left = Verdict(Verdict.Config(), None).contested(
        np.array([6.0, 6.0, 6.0, 6.0, -3.0, 9.0, 9.0]), np.array([-20.0, -4.0, 4.0, 10.0, 0.0, 8.5, 9.0])
    )
    np.testing.assert_allclose(
        left, [6, 6 - 0.3 * np.log(2), 6 - 2.4001006, -np.inf, -4.2054450, 5.2499989, -np.inf], atol=1e-6
    )


def test_by_hand() -> None:
    """Image 4 is best by the second view, image 1 by the first; the negative fits 7 as well, and 1 less."""
    views = listed([[(1, 3), (4, 0), (7, 2)], [(4, 2), (1, 1)]])
    fused = fuse(views, listed([[(7, 2), (1, 2), (5, 3)]]), 5)
    assert fused.hits.images.tolist() == [[1, 4]]
    assert fused.hits.scores.tolist() == [[3, 2]]
    assert fused.views.tolist() == [0, 1]
    assert fused.dropped.tolist() == [2]
    assert fused.refused.tolist() == [7]


def test_regions_are_those_of_the_best_view() -> None:
    """Where an image gives several hits, all are of the view that has the best of it."""
    boxes = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = Hits(np.array([[1, 1, 2], [1, 2, 2]]), np.float32([[5, 4, 1], [3, 3, 2]]), boxes)
    fused = fuse(views, NOTHING, 9)
    assert fused.hits.images.tolist() == [[1, 1, 2, 2]]
    assert fused.hits.scores.tolist() == [[5, 4, 3, 2]]
    assert fused.views.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(fused.hits.boxes[0, 2], boxes[1, 1])
