"""The hamming searcher: votes against a plain loop, verification, bounds, and what it is stored in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hamming_collection import (
    CPU,
    SIZE,
    Collection,
    K,
    fitted,
    keypoints,
    query,
    random_words,
    ranking,
    words_of,
)
from instsearch_cli.data import Grid, Words
from instsearch_cli.engine.filling import Filling
from instsearch_cli.engine.query import merge
from instsearch_cli.errors import InstsearchError
from instsearch_cli.progress import Quiet
from instsearch_formats import Index
from instsearch_plugins.numeric import hamming
from instsearch_plugins.searchers import postings
from instsearch_plugins.searchers.hamming import CHANCE, EVIDENCE, HammingEmbedding
from states import load


def score_at_0_bits(searcher, query, data, row, inliers):
    """1 + log(1 + z / z0) of an image whose inliers all have signatures like the query's, words without idf."""
    asked = searcher._asked(query, data)
    found = searcher._matches(asked, np.arange(len(asked.word)), None)
    i, n = row - data.span.start, len(data.span)
    matches = np.count_nonzero(found.image == i)
    if searcher.config.wgc:
        evidence = hamming.weights(EVIDENCE, searcher.config.ht)[found.distance] * asked.worth[found.asked]
        near = hamming.peaked(evidence, found.image, *searcher._changes(asked, found), n_images=n)
        found = found.some(np.flatnonzero(near))
    score = searcher._scores(asked, found, found.image, n)[found.image == i].sum()
    v = score / (searcher.postings.norms[i] * asked.norm)
    return 1 + math.log1p(v / (1 + v) * math.sqrt(inliers / matches) * inliers / CHANCE)


def slow_votes(asked, items, idf, ht, sigma, burstiness, start=0, hidden=()):
    """image -> vote, pair by pair."""

    def points(local):
        triples = zip(local.words.tolist(), local.signatures.tolist(), local.geometry.tolist(), strict=True)
        return [t for t in triples if t[0] >= 0]

    def norm(local):
        found = [w for w, _, _ in points(local)]
        return math.sqrt(sum((found.count(w) * idf[w]) ** 2 for w in set(found)))

    matches = []
    for i, (w, s, _) in enumerate(points(asked)):
        for j, item in enumerate(items):
            if start + j in hidden:
                continue
            for w_, s_, _ in points(item):
                h = bin((s ^ s_) % (1 << 64)).count("1")
                if w == w_ and h <= ht:
                    matches.append((i, j, math.exp(-(h**2) / sigma**2) * idf[w] ** 2))
    if burstiness in ("intra", "both"):
        sums = {}
        for i, j, s in matches:
            sums[i, j] = sums.get((i, j), 0) + s
        matches = [(i, j, s / math.sqrt(sums[i, j])) for i, j, s in matches]
    if burstiness in ("inter", "both"):
        of_point = {}
        for i, _, s in matches:
            of_point[i] = of_point.get(i, 0) + s
        matches = [(i, j, s / math.sqrt(of_point[i])) for i, j, s in matches]
    votes = {}
    for _, j, s in matches:
        votes[j] = votes.get(j, 0) + s
    v = {j: s / norm(asked) / norm(items[j]) for j, s in votes.items()}
    return {start + j: s / (1 + s) for j, s in v.items()}


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 12), min_size=1, max_size=7),
    st.sampled_from(["none", "intra", "inter", "both"]),
    st.integers(0, 5),
)
def test_votes_equal_the_plain_loop(tmp_path_factory, seed, counts, burstiness, ht):
    rng = np.random.default_rng(seed)
    items = [random_words(rng, n) for n in counts]
    idf = rng.uniform(0.2, 3, K)
    removed, excluded = set(rng.integers(40, 50, 2).tolist()), set(rng.integers(38, 50, 2).tolist())
    data = Collection(tmp_path_factory.mktemp("s"), items, 40, removed, idf)
    searcher = fitted(data, ht=ht, burstiness=burstiness, wgc=False, verify=0)
    asked = random_words(rng, 10)
    found, scores = ranking(searcher.search([query(asked, exclude=excluded)], data, 5))
    wanted = slow_votes(asked, items, idf, ht, 20, burstiness, 40, removed | excluded)
    assert sorted(scores.tolist(), reverse=True) == scores.tolist()
    assert len(found) == min(5, len(wanted))
    for image, score in zip(found, scores, strict=True):
        assert score == pytest.approx(wanted[image], rel=1e-4)
    if found:
        assert scores[-1] == pytest.approx(sorted(wanted.values(), reverse=True)[len(found) - 1], rel=1e-4)


def scene(p, rng, moved=None, others=30):
    """An image with the object's keypoints p (words and signatures by number) moved, among others."""
    q = np.zeros((0, 4), np.float32) if moved is None else moved
    n = len(q)
    words = np.concatenate([np.arange(n) % K, rng.integers(0, K, others)])
    signatures = np.concatenate([object_signatures(n), rng.integers(0, 1 << 63, others, np.uint64)])
    return words_of(words, signatures, np.concatenate([q, keypoints(others, int(rng.integers(1e6)))]))


def object_signatures(n):
    return np.random.default_rng(99).integers(0, 1 << 63, n, np.uint64) * np.uint64(2)


def transformed(p, scale, degrees, t):
    a = math.radians(degrees)
    A = scale * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    xy = p[:, :2] @ A.T + t
    return np.column_stack([xy, p[:, 2] * scale, (p[:, 3] + degrees) % 360]).astype(np.float32)


def the_object(n=24):
    p = keypoints(n, 5)
    p[:, 0], p[:, 1] = 100 + p[:, 0] / 4, 120 + p[:, 1] / 4  # in the box below
    return p


BOX = (100.0, 120.0, 260.0, 240.0)


def test_verified_images_come_first_with_their_boxes_and_others_after(tmp_path):
    rng, p = np.random.default_rng(0), the_object()
    shuffled = transformed(p, 1, 0, (50, 40))
    shuffled[:, :2] = shuffled[np.random.default_rng(1).permutation(len(p)), :2]
    items = [
        scene(p, rng),
        scene(p, rng, shuffled, others=0),  # votes most, and fits nowhere
        scene(p, rng, transformed(p, 1.5, 30, (100, -60)), others=60),
        scene(p, rng, transformed(p, 0.5, 0, (10, 10))[:12], others=60),
        words_of([], [], np.zeros((0, 4))),
    ]
    data = Collection(tmp_path, items, 7)
    asked = words_of(np.arange(24) % K, object_signatures(24), p)
    searcher = fitted(data, wgc=False, ht=24)
    hits = searcher.search([query(asked, BOX)], data, 4)
    found, scores = ranking(hits)
    assert found[:3] == [9, 10, 8]
    q = query(asked, BOX)
    wanted = [score_at_0_bits(searcher, q, data, row, n) for row, n in ((9, 24), (10, 12))]
    assert scores[:2] == pytest.approx(wanted, rel=1e-5)
    assert 0 < scores[2] < 1
    around = np.radians(np.arange(360))
    ellipse = np.column_stack([180 + 80 * np.cos(around), 180 + 60 * np.sin(around)])
    moved = transformed(
        np.column_stack([ellipse, np.ones((360, 1)), np.zeros((360, 1))]), 1.5, 30, (100, -60)
    )
    wanted = np.clip(np.concatenate([moved[:, :2].min(0), moved[:, :2].max(0)]), 0, [*SIZE, *SIZE])
    assert hits.boxes[0, 0] == pytest.approx(wanted, abs=4)
    assert hits.boxes[0, 1] == pytest.approx([60, 70, 140, 130], abs=4)
    assert np.isnan(hits.boxes[0, 2:]).all()
    unverified = fitted(data, wgc=False, verify=0).search([query(asked, BOX)], data, 4)
    assert unverified.images[0, 0] == 8
    assert np.isnan(unverified.boxes).all()


def several(p, rng, moves):
    """An image with the object moved in several ways."""
    each = [scene(p, rng, transformed(p, *move), others=0) for move in moves]
    return words_of(
        *(np.concatenate([getattr(one, f) for one in each]) for f in ("words", "signatures", "geometry"))
    )


def test_several_of_one_object_are_several_hits(tmp_path):
    rng, p = np.random.default_rng(0), the_object()
    moves = [(0.6, 0, (20, 20)), (0.6, 0, (300, 60)), (0.8, 10, (150, 150))]
    items = [several(p, rng, moves), several(p, rng, moves[1:2]), scene(p, rng)]
    data = Collection(tmp_path, items)
    asked = query(words_of(np.arange(24) % K, object_signatures(24), p), BOX)
    searcher = fitted(data)
    once = searcher.search([asked], data, 9)
    for per_image, wanted in ((1, [0, 1]), (2, [0, 0, 1]), (0, [0, 0, 0, 1])):
        hits = searcher.search([replace(asked, per_image=per_image)], data, 9)
        found = hits.images[0, : hits.valid(0)]
        verified = ~np.isnan(hits.boxes[0, : len(found)]).any(axis=1)
        assert sorted(found[verified].tolist()) == wanted
        first = [found.tolist().index(image) for image in (0, 1)]
        before = [once.images[0].tolist().index(image) for image in (0, 1)]
        np.testing.assert_array_equal(hits.scores[0, first], once.scores[0, before])
        np.testing.assert_array_equal(hits.boxes[0, first], once.boxes[0, before])
    assert hits.scores[0, : len(found)].tolist() == sorted(hits.scores[0, : len(found)], reverse=True)
    centres = hits.boxes[0, : len(found)].reshape(-1, 2, 2).mean(axis=1)[found == 0]
    for scale, degrees, t in moves:
        middle = transformed(np.array([[180.0, 180, 1, 0]]), scale, degrees, t)[0, :2]
        assert np.abs(centres - middle).max(axis=1).min() < 6


def test_only_keypoints_in_the_box_ask(tmp_path):
    rng, p = np.random.default_rng(0), the_object()
    data = Collection(tmp_path, [scene(p, rng, transformed(p, 1, 0, (5, 5)), others=0)])
    asked = words_of(np.arange(24) % K, object_signatures(24), p)
    searcher = fitted(data)
    assert ranking(searcher.search([query(asked, (0.0, 0.0, 90.0, 90.0))], data, 3))[0] == []
    half = (100.0, 120.0, 180.0, 240.0)
    inside = int(((p[:, 0] >= 100) & (p[:, 0] < 180)).sum())
    score = score_at_0_bits(searcher, query(asked, half), data, 0, inside)
    assert ranking(searcher.search([query(asked, half)], data, 3))[1][0] == pytest.approx(score, rel=1e-5)


def test_weak_consistency_finds_what_bags_of_words_do_not(tmp_path):
    rng, p = np.random.default_rng(2), the_object()
    wild = transformed(p, 1, 0, (0, 0))
    wild[:, 2:] = keypoints(24, 77)[:, 2:]
    items = [scene(p, rng, wild, others=0), scene(p, rng, transformed(p, 1.2, 80, (300, 0)), others=8)]
    data = Collection(tmp_path, items)
    asked = query(words_of(np.arange(24) % K, object_signatures(24), p))
    assert ranking(fitted(data, verify=0, wgc=False).search([asked], data, 2))[0][0] == 0
    assert ranking(fitted(data, verify=0, wgc=True).search([asked], data, 2))[0][0] == 1


def test_segments_merge_to_what_one_gives(tmp_path):
    rng, p = np.random.default_rng(4), the_object()
    items = [scene(p, rng, transformed(p, 1 + j / 10, 10 * j, (20, 0))[: 4 * j], others=20) for j in range(6)]
    asked = query(words_of(np.arange(24) % K, object_signatures(24), p), BOX, exclude=[3])
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    whole, first, last = (
        Collection(folders[0], items),
        Collection(folders[1], items[:2]),
        Collection(folders[2], items[2:], 2),
    )
    one = fitted(whole).search([asked], whole, 5)
    several = merge([fitted(data).search([asked], data, 5) for data in (first, last)], 5)
    assert one.images.tolist() == several.images.tolist()
    assert one.images[0, :3].tolist() == [5, 4, 2]
    assert np.allclose(one.scores, several.scores)
    assert np.allclose(one.boxes, several.boxes, equal_nan=True)


def test_the_state_is_small_and_searched_where_it_lies(tmp_path):
    rng = np.random.default_rng(6)
    items = [random_words(rng, 50) for _ in range(8)]
    data = Collection(tmp_path / "scratch", items)
    data.folder.mkdir()
    searcher = HammingEmbedding(HammingEmbedding.Config(assign=1), CPU)
    state = searcher.fit(data, Quiet())
    n = sum(int((item.words >= 0).sum()) for item in items)
    assert sum(state[name].nbytes for name in ("signatures", "images", "geometry")) == 14 * n
    index = Index.create(tmp_path / "index")
    layer = index.layer("search", "hamming", "arrays", {"a": 1})
    layer.write_arrays(range(8), state)
    asked = query(random_words(rng, 20))
    searcher.load(state)
    wanted = searcher.search([asked], data, 8)
    again = HammingEmbedding(HammingEmbedding.Config(assign=1), CPU)
    again.load(layer.arrays(range(8)))
    found = again.search([asked], data, 8)
    assert found.images.tolist() == wanted.images.tolist()
    assert np.array_equal(found.scores, wanted.scores)


def test_many_images_have_wider_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(6)
    items, asked = [random_words(rng, 9) for _ in range(5)], query(random_words(rng, 9))
    data = Collection(tmp_path, items)
    narrow = fitted(data).search([asked], data, 5)
    monkeypatch.setattr(postings, "NARROW", 4)
    searcher = fitted(data)
    assert searcher.postings.images.dtype == np.int32
    assert searcher.search([asked], data, 5).images.tolist() == narrow.images.tolist()


def test_thousands_of_identical_keypoints_are_bounded(tmp_path, monkeypatch):
    wall = words_of(np.zeros(3000), np.zeros(3000), keypoints(3000, 1))
    rng, p = np.random.default_rng(3), the_object()
    mixed = scene(p, rng, transformed(p, 1, 0, (20, 10)), others=0)
    data = Collection(tmp_path, [wall, wall, mixed])
    searcher = fitted(data)
    monkeypatch.setattr(postings, "PAIRS", 50_000)
    asked = words_of(
        np.concatenate([np.arange(24) % K, np.zeros(3000)]),
        np.concatenate([object_signatures(24), np.zeros(3000, np.uint64)]),
        np.concatenate([p, keypoints(3000, 2)]),
    )
    pairs = searcher._asked(query(asked), data)
    assert 0 < len(searcher._matches(pairs, np.arange(len(pairs.word)), None).image) <= 50_000
    found, scores = ranking(searcher.search([query(asked)], data, 3))
    assert found[0] == 2  # the rare words are looked up
    assert scores[0] > 4


def test_images_without_keypoints_alone(tmp_path):
    empty = words_of([], [], np.zeros((0, 4)))
    data = Collection(tmp_path, [empty, empty])
    searcher = fitted(data)
    assert ranking(searcher.search([query(random_words(np.random.default_rng(0), 5))], data, 3))[0] == []
    assert ranking(searcher.search([query(empty)], data, 3))[0] == []


def test_a_part_of_empty_images_alone(tmp_path):
    """As the runner stores images that do not decode: words, and no optional array."""
    index = Index.create(tmp_path / "index")
    layer = index.layer("local", "blcf", "word-map", {"a": 1})
    with layer.writer(range(2)) as part:
        filling = Filling("word-map", part)
        filling.append(None)
        filling.append(None)
        filling.close()
    data = Collection(tmp_path, [])
    data.span, data.images, data.blocks = range(2), np.arange(2), lambda kind: layer.blocks(range(2))
    assert len(fitted(data).postings.signatures) == 0


def test_a_vocabulary_without_signatures_says_what_to_do(tmp_path):
    good = random_words(np.random.default_rng(0), 5)
    data = Collection(tmp_path, [replace(good, signatures=None)])
    with pytest.raises(InstsearchError, match=r"--set encoder\.signatures=true"):
        fitted(data)
    data = Collection(tmp_path, [good])
    with pytest.raises(InstsearchError, match=r"--set encoder\.signatures=true"):
        fitted(data).search([query(replace(good, signatures=None))], data, 1)


def test_words_on_a_grid_say_what_to_do(tmp_path):
    grid = Words(torch.zeros(2, 3, dtype=torch.int32), Grid.over(2, 3, SIZE), None, K, torch.zeros(6).long())
    with pytest.raises(InstsearchError, match="--extractor sift"):
        fitted(Collection(tmp_path, [grid]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("pointers", -1), ("images", 200), ("norms", None), ("geometry", None), ("norms", np.nan), ("start", 1)],
)
def test_damage_is_an_error(tmp_path, name, value):
    rng = np.random.default_rng(1)
    data = Collection(tmp_path, [random_words(rng, 9), random_words(rng, 9)])
    searcher = HammingEmbedding(HammingEmbedding.Config(assign=1, ht=64), CPU)
    state = searcher.fit(data, Quiet())
    state[name] = state[name][:-1] if value is None else np.full_like(state[name], value)

    def ask():
        load(searcher, state, data.span)
        searcher.search([query(random_words(rng, 30))], data, 1)

    with pytest.raises((ValueError, InstsearchError)):
        ask()


@pytest.mark.parametrize(
    "options",
    [
        {"ht": 65},
        {"sigma": -1},
        {"assign": 0},
        {"assign_ratio": 0.9},
        {"verify": -1},
        {"min_inliers": 0},
        {"tolerance": 0},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=r"at least|or more|above|to 64"):
        HammingEmbedding.Config(**options)
