"""Signatures of words: what the encoder gives, several words of a keypoint in a search, and storage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hamming_collection import (
    CPU,
    SIZE,
    Collection,
    Pictures,
    fitted,
    keypoints,
    query,
    random_words,
    ranking,
)
from instsearch_cli.data import Grid, Image, Keypoints
from instsearch_cli.engine.filling import Filling
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.options import late
from instsearch_cli.progress import Quiet
from instsearch_cli.storage import from_item, to_item
from instsearch_formats import Index
from instsearch_plugins.encoders.blcf import BLCF
from states import load

ADDED = ("words", "geometry", "signatures")


# -- with the encoder -----------------------------------------------------------------------------------------


def described(n, seed, D=128):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, D, generator=g)
    return Keypoints(
        x / x.norm(dim=1, keepdim=True), torch.from_numpy(keypoints(n, seed)), Grid.nominal(SIZE)
    )


def encoder_of(features, **options):
    encoder = BLCF(BLCF.Config(words=8, whiten=False, n_train=2000, **options), CPU)
    state = encoder.fit(Pictures(features), Quiet())
    encoder.load({k: v.numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for k, v in state.items()})
    return encoder


def test_the_encoder_gives_signatures_where_asked():
    features = [described(80, seed) for seed in range(4)]
    plain, signed = encoder_of(features), encoder_of(features, signatures=True)
    assert plain.embed(features[0]).signatures is None
    assert np.array_equal(plain.embed(features[0]).geometry, features[0].geometry)
    assert late(plain.config) == {}
    assert late(signed.config) == {"signatures": True}
    words = signed.embed(features[0])
    assert np.array_equal(words.words, plain.embed(features[0]).words)
    P, tau = signed.hamming
    for i in range(80):
        y = P @ (features[0].values[i] / np.linalg.norm(features[0].values[i])) - tau[words.words[i]]
        for b in range(64):  # a threshold may be the very descriptor's value
            assert abs(y[b]) < 1e-6 or (int(words.signatures[i]) >> b & 1) == (y[b] > 0)
    assert np.array_equal(signed.embed_query(features[0]).geometry, features[0].geometry)
    assert np.abs(words.geometry - features[0].geometry)[:, :3].max() < 1


def test_a_blank_descriptor_has_no_word_and_no_bits():
    features = [described(80, seed) for seed in range(3)]
    features[0].values[5] = 0
    words = encoder_of(features, signatures=True).embed(features[0])
    assert (int(words.words[5]), int(words.signatures[5])) == (-1, 0)
    assert len(words.signatures) == 80


def test_assignments_begin_with_the_word_itself():
    features = [described(80, seed) for seed in range(3)]
    encoder = encoder_of(features, signatures=True)
    words = encoder.embed_query(features[1])
    row, word, signature = encoder.assignments(features[1].values, 1, 1.0)
    assert row.tolist() == list(range(80))
    assert np.array_equal(word, words.words[row])
    assert np.array_equal(signature, words.signatures[row])
    several = encoder.assignments(features[1].values, 3, 2.0)
    assert np.bincount(several[0]).tolist() == [3] * 80
    assert np.array_equal(several[1][::3], words.words)
    known = encoder.assignments(features[1].values, 3, 2.0, words.words)
    assert all(np.array_equal(a, b) for a, b in zip(several, known, strict=True))
    with pytest.raises(InstsearchError, match=r"encoder\.signatures=true"):
        encoder_of(features).assignments(features[1].values, 1, 1.0)


@pytest.mark.parametrize("near", [-1, 1 << 20])
def test_neighbours_that_are_no_words_are_an_error(near):
    features = [described(80, seed) for seed in range(3)]
    encoder = encoder_of(features, signatures=True)
    state = {k: torch.as_tensor(v).numpy() for k, v in encoder.fit(Pictures(features), Quiet()).items()}
    state["neighbours"][2, 1] = near
    with pytest.raises(ValueError, match="neighbours runs from"):
        load(encoder, state)


def test_multiple_assignment_finds_more_matches(tmp_path):
    features = [described(80, seed) for seed in range(4)]
    encoder = encoder_of(features, signatures=True)
    g = torch.Generator().manual_seed(3)
    shaken = features[2].values + 0.03 * torch.randn(80, 128, generator=g).numpy()
    asked = replace(features[2], values=shaken)
    data = Collection(tmp_path, [encoder.embed(f) for f in features])
    data.encoder = encoder
    q = query(encoder.embed_query(asked), features=asked)
    matches = []
    for assign in (1, 4):
        searcher = fitted(data, assign=assign, assign_ratio=1.5)
        rows, score = ranking(searcher.search([q], data, 4))
        assert rows[0] == 2
        assert score[0] > 5
        asked = searcher._asked(q, data)
        found = searcher._matches(asked, np.arange(len(asked.word)), None)
        matches.append(np.count_nonzero(found.image == 2))
    assert 20 < matches[0] < matches[1]


def test_words_added_by_expansion_ask_beside_the_several_words_of_the_querys_own(tmp_path):
    features = [described(30, seed) for seed in range(2)]
    encoder = encoder_of(features, signatures=True)
    data = Collection(tmp_path, [encoder.embed(f) for f in features])
    data.encoder = encoder
    own, more = encoder.embed_query(features[0]), encoder.embed(features[1])
    both = {name: np.concatenate([getattr(own, name), getattr(more, name)[:4]]) for name in ADDED}
    searcher = fitted(data, assign=3, assign_ratio=2)
    alone = searcher._asked(query(own, features=features[0]), data)
    asked = searcher._asked(query(replace(own, **both), features=features[0]), data)
    n = len(alone.word)
    assert n > 30
    for name in ("keypoint", "word", "signature"):
        assert np.array_equal(getattr(asked, name)[:n], getattr(alone, name))
    assert asked.keypoint[n:].tolist() == [30, 31, 32, 33]
    assert asked.word[n:].tolist() == more.words[:4].tolist()
    assert asked.signature[n:].tolist() == more.signatures[:4].view(np.uint64).tolist()
    assert fitted(data, assign=3).search([query(replace(own, **both), features=features[0])], data, 2).images[
        0
    ].tolist() == [0, 1]


def test_a_mirrored_object_is_found_where_asked_for(tmp_path):
    cv2 = pytest.importorskip("cv2")
    from instsearch_plugins.extractors.sift import Sift

    sift = Sift(Sift.Config(), CPU)

    def picture(seed):
        noise = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8)
        return cv2.GaussianBlur(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), (0, 0), 2)

    pixels = [picture(seed) for seed in range(4)]
    pixels[1] = np.ascontiguousarray(pixels[3][:, ::-1])
    images = [Image(p, (320, 240)) for p in pixels]
    features = sift.extract(images)
    encoder = encoder_of(features, signatures=True)
    data = Collection(tmp_path, [encoder.embed(f) for f in features[:3]])
    data.encoder = encoder
    box = (40.0, 50.0, 200.0, 190.0)
    q = replace(query(encoder.embed_query(features[3]), box, size=(320, 240), features=features[3]))
    _, scores = ranking(fitted(data, ht=24).search([q], data, 3))
    assert scores[0] < 6
    hits = fitted(data, mirrored=True, ht=24).search([q], data, 3)
    assert hits.images[0, 0] == 1
    assert hits.scores[0, 0] > 10
    assert hits.boxes[0, 0] == pytest.approx([320 - 200, 50, 320 - 40, 190], abs=3)
    other = replace(
        q, features=replace(features[3], values=-features[3].values)
    )  # no histograms of gradients
    with pytest.raises(UsageError, match=r"is of SIFT.*searcher\.mirrored=false"):
        fitted(data, mirrored=True, ht=24).search([other], data, 3)


# -- storage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [True, False])
def test_signatures_are_stored_bit_for_bit(tmp_path, points):
    words = random_words(np.random.default_rng(0), 6)
    words = replace(words, signatures=np.array([0, -1, 1 << 62, -(1 << 63), 5, 6]))
    if not points:
        words = replace(words, words=words.words.reshape(2, 3), geometry=None, grid=Grid.over(2, 3, SIZE))
    index = Index.create(tmp_path / "index")
    layer = index.layer("local", "x", "word-map", {"a": 1})
    with layer.writer(range(2)) as part:
        filling = Filling("word-map", part)
        filling.append(None)
        filling.append(to_item("word-map", words))
        filling.close()
    back = from_item("word-map", layer.read(1))
    assert np.array_equal(back.signatures, words.signatures)
    assert np.array_equal(back.words, words.words)
    assert len(from_item("word-map", layer.read(0)).signatures) == 0
    with pytest.raises(InstsearchError, match="signatures"):
        to_item("word-map", replace(words, signatures=np.zeros(5, np.int64)))


def test_words_without_signatures_are_stored_as_before():
    words = replace(random_words(np.random.default_rng(0), 6), signatures=None)
    assert set(to_item("word-map", words)) == {"words", "geometry", "grid", "transform"}
    assert from_item("word-map", to_item("word-map", words)).signatures is None
