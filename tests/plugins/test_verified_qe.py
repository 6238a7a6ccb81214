from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Hits, Image, Inputs, Query, Words
from instsearch_cli.errors import UsageError
from instsearch_plugins.encoders.blcf import BLCF
from instsearch_plugins.numeric import hypotheses
from instsearch_plugins.numeric.geometry import Transform
from instsearch_plugins.rerankers.hit_by_hit import hits_of
from instsearch_plugins.rerankers.verified_qe import (
    Points,
    VerifiedQueryExpansion,
    mapped_back,
    matches,
    unseen,
)

SIZE, K = (640, 480), 500
BOX = (100.0, 80.0, 300.0, 280.0)


def keypoints(n: int, seed: int, box=BOX) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(box[0], box[2], n), rng.uniform(box[1], box[3], n)
    return np.stack([x, y, rng.uniform(2, 12, n), rng.uniform(0, 360, n)], 1).astype(np.float32)


def turned(degrees: float, scale: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (scale * np.array([[c, -s], [s, c]])).astype(np.float32)


def moved(p: np.ndarray, degrees: float, scale: float, t) -> np.ndarray:
    x = Transform(turned(degrees, scale), np.float32(t))(p[:, :2])
    return np.concatenate([x, p[:, 2:3] * scale, (p[:, 3:] + degrees) % 360], 1).astype(np.float32)


def points(words, geometry=None, signatures=None) -> Points:
    geometry = np.zeros((len(words), 4), np.float32) if geometry is None else geometry
    return Points(np.asarray(words, np.int64), geometry, signatures)


# -- formulas -----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(-1, 4), max_size=8),
    st.booleans(),
    st.integers(0, 9),
)
def test_matches_equal_the_plain_loop(a, b, signed, seed):
    rng = np.random.default_rng(seed)
    s, t = (rng.integers(0, 1 << 12, len(words)) if signed else None for words in (a, b))
    expected = {}
    for i, word in enumerate(a):
        for j, other in enumerate(b):
            h = bin(int(s[i] ^ t[j])).count("1") if signed else 0
            if word == other and h <= 6:
                expected[i, j] = np.exp(-(h**2) / 24**2) / Counter(b)[word]
    rows, columns, w = matches(points(a, signatures=s), points(b, signatures=t), 6)
    assert len(rows) == len(expected)
    assert {pair: pytest.approx(v, rel=1e-5) for pair, v in expected.items()} == dict(
        zip(zip(rows.tolist(), columns.tolist(), strict=True), w.tolist(), strict=True)
    )
    assert (np.diff(w) <= 0).all()


def test_a_wall_of_one_word_is_bounded_and_gives_way_to_rarer_words():
    i, j, w = matches(points([*[3] * 200, 7]), points([*[3] * 200, 7]), 24)
    assert len(i) == len(j) == len(w) == hypotheses.CORRESPONDENCES
    assert (i[0], j[0], w[0]) == (200, 200, 1)


@given(st.floats(-180, 180), st.floats(0.3, 3), st.integers(0, 1000))
def test_mapping_back_undoes_a_similarity(degrees, scale, seed):
    p = keypoints(5, seed)
    back = mapped_back(
        moved(p, degrees, scale, [30, -20]), Transform(turned(degrees, scale), np.float32([30, -20]))
    )
    np.testing.assert_allclose(back[:, :3], p[:, :3], rtol=1e-3, atol=1e-2)
    assert (np.abs((back[:, 3] - p[:, 3] + 180) % 360 - 180) < 1e-2).all()


def test_a_word_counts_once_in_a_place():
    """Squares of 10: the same word next to an own one and next to an earlier one is left out; another word is not."""
    at = np.zeros((6, 4), np.float32)
    at[:, 0] = [5, 25, 7, 15, 16, 3]
    own = points([1, 2], at[:2])
    others = points([1, 1, 1, 2], at[2:])
    assert unseen(own, others, 10.0).tolist() == [1, 3]


# -- the component ------------------------------------------------------------------------------------

OBJECT = keypoints(60, 0)
WORDS = np.random.default_rng(0).permutation(K)[:60]


def words(numbers, geometry, signatures=None) -> Words:
    signatures = None if signatures is None else torch.from_numpy(signatures)
    numbers = torch.from_numpy(np.asarray(numbers, np.int32))
    return Words(numbers, Grid.nominal(SIZE), torch.from_numpy(geometry), K, signatures)


def scene(seen: slice, degrees: float, scale: float, t, seed: int, clutter: int = 40) -> Words:
    """A picture with some of the object's keypoints, among others of its own, all over it."""
    rng = np.random.default_rng(seed)
    around = keypoints(clutter, seed, (0, 0, *SIZE))
    there = moved(OBJECT[seen], degrees, scale, t)
    return words(np.concatenate([rng.integers(0, K, clutter), WORDS[seen]]), np.concatenate([around, there]))


class Collection:
    def __init__(self, items: dict[int, Words]) -> None:
        self.items, self.asked = items, []
        self.encoder = BLCF(BLCF.Config(), torch.device("cpu"))
        self.encoder.load({"centroids": np.zeros((K, 2), np.float32), "idf": np.ones(K, np.float32)})

    def inputs(self, kinds, rows):
        assert kinds == ("local",)
        for row in map(int, rows):
            self.asked.append(row)
            if self.items[row] is not None:
                yield Inputs(size=SIZE, row=row, local=self.items[row])


def query(local: Words, data: Collection, exclude=(), box=BOX) -> Query:
    nothing: Any = None
    picture = Image(np.zeros((480, 640, 3), np.uint8), SIZE)
    codes = data.encoder.aggregate(local, None, None)
    return Query("q", picture, box, nothing, local, codes, frozenset(exclude))


def ranked(*images) -> Hits:
    return Hits.stack([(np.array(images), np.linspace(1, 0.5, len(images)), None)], len(images))


def asked_again(q: Query, hits: Hits, data: Collection, **options) -> tuple[Query | None, Hits]:
    """The query that is asked again, which finds image 77, and the hits that come of it."""
    seen: list[Any] = []

    def search(queries, k):
        seen.extend(queries)
        return Hits.stack([(np.array([77]), np.ones(1), None)], k)

    reranker = VerifiedQueryExpansion(VerifiedQueryExpansion.Config(**options), torch.device("cpu"))
    after = reranker.rerank([q], Hits.stack([hits_of(hits, 0)], 2 * hits.images.shape[1]), data, search)
    return (seen[0] if seen else None), after


def first_half() -> Words:
    """The query shows 30 of the object's 60 keypoints, and others outside its box."""
    away = keypoints(20, 3, (400, 300, *SIZE))
    return words(np.concatenate([WORDS[:30], np.arange(20)]), np.concatenate([OBJECT[:30], away]))


def test_what_a_verified_hit_shows_more_of_the_object_is_asked_for_too():
    """Hit 5 shows keypoints 10 to 49: 30 to 49 are new, at their places in the query's frame."""
    data = Collection({5: scene(slice(10, 50), 40, 0.8, [150, 60], 1, clutter=0)})
    again, after = asked_again(query(first_half(), data), ranked(5), data)
    assert again is not None
    assert after.images.tolist() == [[5, 77]]
    assert after.scores.tolist() == [[1, 1]]
    local = again.local
    assert isinstance(local, Words)
    assert local.geometry is not None
    assert local.words[:50].tolist() == first_half().words.tolist()
    assert sorted(local.words[50:].tolist()) == sorted(WORDS[30:50].tolist())
    place = {int(word): OBJECT[i] for i, word in enumerate(WORDS)}
    for word, geometry in zip(local.words[50:].tolist(), local.geometry[50:], strict=True):
        np.testing.assert_allclose(geometry[:3], place[word][:3], atol=0.5)
    assert set(WORDS[:50].tolist()) == set(again.codes.indices.tolist())  # what is out of the box stays out


def test_clutter_beside_the_box_and_unverified_hits_add_nothing():
    beside = scene(slice(0, 30), 0, 0.5, [0, 0], 2)
    inside = (beside.geometry[:, 0] < 150) & (beside.geometry[:, 1] < 140)
    x0, y0 = 50, 40
    inside &= (beside.geometry[:, 0] >= x0) & (beside.geometry[:, 1] >= y0)
    other = words(np.random.default_rng(8).integers(0, K, 80), keypoints(80, 8, (0, 0, *SIZE)))
    data = Collection({1: other, 2: beside})
    again, _ = asked_again(query(first_half(), data), ranked(1, 2), data)
    assert again is not None
    clutter = beside.words[:40][inside[:40]]
    assert 0 < len(clutter) < 20
    assert set(again.local.words[50:].tolist()) <= set(clutter.tolist())
    assert len(again.local.words) > 50


def test_hits_stay_where_none_is_verified_and_excluded_or_lost_pictures_are_not_looked_at():
    good = scene(slice(10, 50), 40, 0.8, [150, 60], 1)
    data = Collection({0: good, 1: None, 2: scene(slice(0, 3), 0, 1, [0, 0], 3)})
    hits = ranked(0, 1, 2)
    again, after = asked_again(query(first_half(), data, exclude={0}), hits, data)
    assert again is None
    assert after.images[0, :3].tolist() == hits.images[0].tolist()
    assert after.scores[0, :3].tolist() == hits.scores[0].tolist()
    assert data.asked == [1, 2]
    assert asked_again(query(first_half(), data), hits, data, min_inliers=21)[0] is None
    assert asked_again(query(first_half(), data), hits, data, min_inliers=20)[0] is not None
    data.asked.clear()
    asked_again(query(first_half(), data), ranked(2, 0), data, depth=1)
    assert data.asked == [2]


def test_queries_do_not_concern_each_other():
    data = Collection(
        {0: scene(slice(10, 50), 40, 0.8, [150, 60], 1), 1: words([], np.zeros((0, 4), np.float32))}
    )
    found = query(first_half(), data)
    nothing = query(words([], np.zeros((0, 4), np.float32)), data)
    hits = Hits.stack([(np.array([1, 0]), np.float32([2, 1]), None), (np.array([0]), np.ones(1), None)], 3)

    def search(queries, k):
        assert len(queries) == 1  # the other is not asked again
        return Hits.stack([(np.array([7, 0, 1]), np.float32([9, 8, 0.5]), None)], k)

    reranker = VerifiedQueryExpansion(VerifiedQueryExpansion.Config(), torch.device("cpu"))
    after = reranker.rerank([found, nothing], hits, data, search)
    assert after.images.tolist() == [
        [0, 7, 1],
        [0, -1, -1],
    ]  # the verified one, as it was, then what it found
    assert after.scores[0].tolist() == [1, 1, 0.5]


def test_signatures_decide_what_matches_and_come_along():
    """With the bits of every second keypoint turned over, half of the matches are left."""
    bits = np.random.default_rng(0).integers(0, 1 << 62, 60)
    other = np.where(np.arange(60) % 2, ~bits, bits)
    asked = words(WORDS[:30], OBJECT[:30], bits[:30])
    there = words(WORDS, moved(OBJECT, 10, 1.2, [5, 5]), other)
    data = Collection({0: there})
    again, _ = asked_again(query(asked, data), ranked(0), data, min_inliers=15)
    assert again is not None
    assert again.local.signatures is not None
    added = dict(zip(again.local.words[30:].tolist(), again.local.signatures[30:].tolist(), strict=True))
    assert added == {int(WORDS[i]): int(other[i]) for i in range(30, 60)}
    assert asked_again(query(asked, data), ranked(0), data, min_inliers=16)[0] is None


def test_maps_are_a_usage_error():
    data = Collection({})
    grid = Grid.nominal(SIZE)
    q = query(first_half(), data)
    for local in (FeatureMap(torch.zeros(2, *grid.shape), grid), Words(torch.zeros(grid.shape), grid)):
        with pytest.raises(UsageError, match="words at keypoints"):
            asked_again(Query("q", q.image, BOX, q.features, local, q.codes), ranked(0), data)


def test_options_are_checked():
    for wrong in ({"depth": 0}, {"min_inliers": 0}, {"ht": 65}):
        with pytest.raises(ValueError, match="at least 1"):
            VerifiedQueryExpansion.Config(**wrong)
