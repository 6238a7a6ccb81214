"""Bag of visual words, each part against a plain loop, and the vocabulary that comes with it."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import instsearch_plugins
from hamming_collection import SIZE, Collection, Pictures, fitted, query, ranking
from hamming_collection import keypoints as geometry_of
from instsearch_cli.data import BoxWeight, FeatureMap, Grid, Keypoints, WeightMap, Words
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.progress import Quiet
from instsearch_cli.testing import EncoderContract
from instsearch_plugins.encoders import bovw
from instsearch_plugins.encoders.blcf import BLCF
from instsearch_plugins.encoders.bovw import BagOfVisualWords
from instsearch_plugins.numeric import hamming
from states import load

GRID = Grid.nominal(SIZE)
SEEDS = st.integers(0, 10_000)


def described(n, seed, D=128):
    """Keypoints with RootSIFT-like descriptors: unit vectors without negative values."""
    x = np.random.default_rng(seed).random((n, D), np.float32) ** 3
    return Keypoints(x / np.linalg.norm(x, axis=1, keepdims=True), geometry_of(n, seed), GRID)


def with_words(K, **options):
    """An encoder with K words, of 4 values, for what needs no embedding."""
    encoder = BagOfVisualWords(BagOfVisualWords.Config(vocabulary="own", signatures=False, **options))
    centroids = np.random.default_rng(0).random((K, 4), np.float32)
    load(encoder, {"centroids": centroids, "idf": np.arange(1, K + 1, dtype=np.float32)})
    return encoder


def own(features, **options):
    """An encoder with a vocabulary learnt from keypoints, and what was learnt."""
    options = {"words": 8, "n_train": 2000, "iterations": 3, **options}
    encoder = BagOfVisualWords(BagOfVisualWords.Config(vocabulary="own", **options))
    fit = encoder.fit(Pictures(features), Quiet())
    state = {k: v.numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for k, v in fit.items()}
    load(encoder, {k: v for k, v in state.items() if k in encoder.learns})
    return encoder, state


def dense(codes):
    (row,) = [np.zeros(codes.dim, np.float32)]
    assert codes.indptr.tolist() == [0, len(codes.indices)]
    assert (np.diff(codes.indices) > 0).all()
    assert (codes.data > 0).all()
    row[codes.indices] = codes.data
    return row


class TestContract(EncoderContract):
    component = BagOfVisualWords
    features = described(40, 1)


# -- the parts ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(SEEDS, st.integers(0, 30), st.integers(1, 9), st.sampled_from([1, 20, 1 << 21]))
def test_nearest_equals_the_plain_loop(seed, n, K, tile):
    rng = np.random.default_rng(seed)
    x, c = rng.standard_normal((n, 5)).astype("f4"), rng.standard_normal((K, 5)).astype("f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bovw, "TILE", tile)
        found = bovw.nearest(x, c, (c**2).sum(1) / 2)
    assert found.dtype == np.int64
    plain = [min(range(K), key=lambda k: float(((x[i] - c[k]).astype("f8") ** 2).sum())) for i in range(n)]
    assert found.tolist() == plain


def test_of_centroids_as_near_the_first_is_taken():
    c = np.array([[2, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert bovw.nearest(np.array([[1, 0.25], [0, 3]], "f4"), c, (c**2).sum(1) / 2).tolist() == [1, 2]


@given(SEEDS, st.integers(0, 30), st.integers(1, 9))
def test_histogram_equals_the_plain_loop(seed, n, K):
    rng = np.random.default_rng(seed)
    words = rng.integers(-1, K, n)
    alpha = np.where(rng.random(n) < 0.3, 0, rng.random(n)).astype(np.float32)
    slow = np.zeros(K)
    for word, weight in zip(words, alpha, strict=True):
        if word >= 0:
            slow[word] += weight
    k, h = bovw.histogram(words, alpha, K)
    assert k.tolist() == np.flatnonzero(slow).tolist()
    np.testing.assert_allclose(h, slow[k], rtol=1e-6)
    assert (k.dtype, h.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("sqrt", [False, True])
@pytest.mark.parametrize("idf", [False, True])
def test_square_root_then_idf_then_length(sqrt, idf):
    geometry = np.array([[100, 100, 1, 0]] * 4 + [[500, 400, 1, 0]] * 3, np.float32)
    words = Words(np.array([0, 2, 2, -1, 2, 4, 4], np.int32), GRID, geometry, 6)
    encoder = with_words(6, sqrt=sqrt, idf=idf)

    def wanted(*h):
        v = (np.sqrt(h) if sqrt else np.array(h)) * (np.arange(1, 7) if idf else 1)
        return v / np.linalg.norm(v)

    whole = encoder.aggregate(words, None, None)
    np.testing.assert_allclose(dense(whole), wanted(1, 0, 3, 0, 2, 0), rtol=1e-6)
    assert (whole.dim, whole.boxes.tolist()) == (6, [[0, 0, *SIZE]])
    inside = encoder.aggregate(words, BoxWeight((50, 50, 200, 200)), None)
    np.testing.assert_allclose(dense(inside), wanted(1, 0, 2, 0, 0, 0), rtol=1e-6)
    # one map is 0.25 on the left half and 1 on the right, the other 0.5 everywhere: their sum counts
    halves = torch.tensor([[[0.25, 1.0]], [[0.5, 0.5]]])
    weights = WeightMap(halves, Grid.over(1, 2, SIZE))
    left, right = (float(v) for v in weights.at(geometry[[0, 4]]).sum(0))
    assert 0.75 <= left < right <= 1.5
    weighed = encoder.aggregate(words, weights, None)
    np.testing.assert_allclose(dense(weighed), wanted(left, 0, 2 * left + right, 0, 2 * right, 0), rtol=1e-5)
    both = encoder.aggregate(words, BoxWeight((50, 50, 200, 200), weights), None)
    np.testing.assert_allclose(dense(both), wanted(left, 0, 2 * left, 0, 0, 0), rtol=1e-5)


def test_a_picture_without_words_is_an_empty_row():
    for words in (np.full(3, -1, np.int32), np.empty(0, np.int32)):
        nothing = Words(words, GRID, np.ones((len(words), 4), np.float32), 6)
        codes = with_words(6).aggregate(nothing, None, None)
        assert (codes.indptr.tolist(), len(codes.data), codes.boxes.shape) == ([0, 0], 0, (1, 4))


def test_a_vocabulary_is_packed_to_the_nearest_of_its_steps():
    rng = np.random.default_rng(3)
    state = {
        "centroids": rng.random((30, 128), np.float32) * np.float32(0.3),
        "thresholds": rng.normal(0, 0.1, (30, 64)).astype(np.float32),
        "idf": rng.uniform(0.1, 9, 30).astype(np.float32),
        "rotation": rng.standard_normal((64, 128)).astype(np.float32),
        "neighbours": rng.integers(0, 30, (30, 20), np.int32),
    }
    packed = bovw.packed_vocabulary(state)
    assert [packed[name].dtype for name in ("centroids", "thresholds", "idf", "neighbours")] == [
        np.uint8,
        np.int8,
        np.float16,
        np.uint16,
    ]
    back = bovw.unpacked_vocabulary(packed)
    for name, steps in (("centroids", 255), ("thresholds", 127)):
        step = np.abs(state[name]).max() / steps
        assert np.abs(back[name] - state[name]).max() <= step / 2 * (1 + 1e-4)
    assert np.abs(back["idf"] / state["idf"] - 1).max() <= 2**-11
    assert np.array_equal(back["rotation"], state["rotation"])
    assert np.array_equal(back["neighbours"], state["neighbours"][:, : bovw.NEIGHBOURS])
    assert [back[k].dtype for k in state] == [np.float32] * 4 + [np.int32]
    again = bovw.packed_vocabulary(back)
    assert all(np.array_equal(again[name], packed[name]) for name in packed)


# -- with a vocabulary of its own -----------------------------------------------------------------------------


def test_it_embeds_as_blcf_does_with_the_vocabulary_that_blcf_learns():
    features = [described(80, seed) for seed in range(4)]
    encoder, state = own(features)
    options = {"words": 8, "n_train": 2000, "iterations": 3, "whiten": False, "sqrt": True, "idf": True}
    other = BLCF(BLCF.Config(**options, signatures=True), torch.device("cpu"))
    learnt = other.fit(Pictures(features), Quiet())
    assert learnt.keys() == state.keys()
    for name, array in learnt.items():
        assert np.array_equal(np.asarray(array), state[name]), name
    other.load({k: np.asarray(v) for k, v in state.items()})
    features[1].values[7] = 0
    for f in features:
        for ours, theirs in (
            (encoder.embed(f), other.embed(f)),
            (encoder.embed_query(f), other.embed_query(f)),
        ):
            for name in ("words", "geometry", "signatures"):
                a, b = getattr(ours, name), getattr(theirs, name)
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                if name != "signatures":
                    assert np.array_equal(a, b)
            y = f.values @ state["rotation"].T - state["thresholds"][ours.words]
            sure = np.abs(y) > 1e-6  # a threshold may be the very descriptor's value
            differ = [(words.signatures[:, None] >> np.arange(64)) & 1 for words in (ours, theirs)]
            assert np.array_equal(*(np.where(sure, bits, 0) for bits in differ))
            assert sure.mean() > 0.9
            assert ours.size == theirs.size == 8
        codes = [e.aggregate(e.embed(f), BoxWeight((100, 50, 500, 400)), None) for e in (encoder, other)]
        np.testing.assert_allclose(dense(codes[0]), dense(codes[1]), rtol=1e-5)
        assert np.array_equal(codes[0].boxes, codes[1].boxes)


def test_a_descriptor_that_is_zero_has_no_word_and_no_bits():
    features = [described(80, seed) for seed in range(3)]
    features[0].values[5] = 0
    encoder, _ = own(features)
    for words in (encoder.embed(features[0]), encoder.embed_query(features[0])):
        assert np.flatnonzero(words.words == -1).tolist() == [5]
        assert words.signatures[5] == 0
        assert np.count_nonzero(words.signatures) == 79
    nothing = encoder.embed(Keypoints(np.empty((0, 128), "f4"), np.empty((0, 4), "f4"), GRID))
    assert (nothing.words.shape, nothing.signatures.shape, nothing.geometry.shape) == ((0,), (0,), (0, 4))


def test_signatures_where_asked_and_keypoints_at_their_steps():
    features = [described(80, seed) for seed in range(3)]
    signed, _ = own(features)
    plain, _ = own(features, signatures=False)
    assert plain.embed(features[0]).signatures is None
    assert plain.embed(features[0]).geometry is features[0].geometry
    assert signed.embed_query(features[0]).geometry is features[0].geometry
    stepped = hamming.unpacked(hamming.packed(features[0].geometry, np.array(SIZE)), np.array(SIZE))
    assert np.array_equal(signed.embed(features[0]).geometry, stepped)
    with pytest.raises(InstsearchError, match="signatures"):
        plain.assignments(features[0].values, 1, 1.0)


def test_assignments_begin_with_the_word_itself():
    features = [described(80, seed) for seed in range(3)]
    encoder, _ = own(features)
    words = encoder.embed_query(features[1])
    row, word, signature = encoder.assignments(features[1].values, 1, 1.0)
    assert row.tolist() == list(range(80))
    assert np.array_equal(word, words.words)
    assert np.bitwise_count(signature ^ words.signatures).max() <= 2
    several = encoder.assignments(features[1].values, 3, 2.0)
    assert np.bincount(several[0]).tolist() == [3] * 80
    assert np.array_equal(several[1][::3], words.words)
    given = encoder.assignments(features[1].values, 3, 2.0, words.words)
    assert all(np.array_equal(a, b) for a, b in zip(several, given, strict=True))


def test_maps_and_descriptors_of_another_length_are_an_error_of_usage():
    encoder = BagOfVisualWords(BagOfVisualWords.Config())
    maps = FeatureMap(torch.ones(128, 2, 3), Grid.over(2, 3, SIZE))
    for embed in (encoder.embed, encoder.embed_query):
        with pytest.raises(UsageError, match=r"encoder bovw is of keypoints .* take --encoder blcf"):
            embed(maps)
        with pytest.raises(UsageError, match=r"have 64 values, and words 128.*encoder\.vocabulary=own"):
            embed(described(3, 0, 64))


@pytest.mark.parametrize("name", ["words", "n_train", "fit_images", "iterations"])
def test_options_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} is at least 1, not 0"):
        BagOfVisualWords.Config(**{name: 0})


# -- the vocabulary that comes with it ------------------------------------------------------------------------


def test_the_included_vocabulary_is_whole():
    state = bovw.included()
    encoder = BagOfVisualWords(BagOfVisualWords.Config())
    load(encoder, state)  # as declared
    K, m = len(state["centroids"]), bovw.NEIGHBOURS
    assert K >= 1000
    shapes = {"centroids": (K, 128), "idf": (K,), "rotation": (64, 128), "thresholds": (K, 64)}
    assert {name: array.shape for name, array in state.items()} == {**shapes, "neighbours": (K, m)}
    assert all(np.isfinite(array).all() for array in state.values())
    assert (state["centroids"] >= 0).all()
    assert 0.5 < np.linalg.norm(state["centroids"], axis=1).mean() <= 1
    assert len(np.unique(state["centroids"], axis=0)) == K
    assert (state["idf"] > 0).all()
    np.testing.assert_allclose(state["rotation"] @ state["rotation"].T, np.eye(64), atol=1e-5)
    # words are their own nearest, and what is beside them is nearer than most
    some = np.arange(0, K, K // 50)
    c = state["centroids"].astype(np.float64)
    apart = ((c[some, None] - c[None]) ** 2).sum(2) if K < 2000 else None
    for i, k in enumerate(some):
        d = ((c - c[k]) ** 2).sum(1) if apart is None else apart[i]
        assert state["neighbours"][k, 0] == k
        assert d[state["neighbours"][k]].max() <= np.sort(d)[4 * m]
        assert len(set(state["neighbours"][k].tolist())) == m


def test_the_identity_has_the_digest_of_the_vocabulary_that_is_included():
    file = Path(next(iter(instsearch_plugins.__path__)), bovw.INCLUDED)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert bovw.included_digest() == digest
    included, another = (BagOfVisualWords(BagOfVisualWords.Config(vocabulary=v)) for v in ("included", "own"))
    assert included.identity() == {"vocabulary": digest}
    assert another.identity() == {}
    assert (included.fits, another.fits) == (False, True)


def test_the_included_vocabulary_finds_a_picture_among_others(tmp_path):
    features = [described(150, seed) for seed in range(5)]
    encoder = BagOfVisualWords(BagOfVisualWords.Config())
    data = Collection(tmp_path, [encoder.embed(f) for f in features])
    data.encoder = encoder
    q = query(encoder.embed_query(features[3]), (0.0, 0.0, 320.0, 480.0), features=features[3])
    rows, scores = ranking(fitted(data, assign=2).search([q], data, 5))
    assert rows[0] == 3
    assert scores[0] > 2 * max([0.0, *scores[1:]])


# -- without torch --------------------------------------------------------------------------------------------


def drawn(path, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8)
    pixels = cv2.GaussianBlur(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
    cv2.imwrite(str(path), pixels)


def heavy(tmp_path, code):
    """Which of torch and scipy a fresh process has imported after some code, and what it printed."""
    after = (
        "\nimport json, sys\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules} "
        "& {'torch', 'torchvision', 'scipy', 'matplotlib'})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + after], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(printed)


def test_preset_sift_indexes_and_asks_without_torch_and_scipy(tmp_path):
    assert heavy(tmp_path, "import instsearch")[0] == []
    (tmp_path / "photos").mkdir()
    for seed in range(5):
        drawn(tmp_path / "photos" / f"{seed}.png", seed)
    program = "from instsearch_cli.main import run\nassert run({}) == 0"
    index = ["index", "photos", "--index", "index", "--preset", "sift", "--quiet"]
    assert heavy(tmp_path, program.format(index))[0] == []
    for more in ([], ["--box", "60,50,180,140"], ["--box", "60,50,180,140", "--rerank", "geometric"]):
        ask = ["query", "photos/3.png", *more, "--index", "index", "--json"]
        found, printed = heavy(tmp_path, program.format(ask))
        assert found == [], more
        first = json.loads(printed)["hits"][0]
        assert first["image"].endswith("3.png")
        assert math.isfinite(first["score"])
