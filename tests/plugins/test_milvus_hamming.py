"""Searcher `milvus-hamming`: candidates by words from Milvus, ranked as `hamming` ranks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hamming_collection import Collection, Weighed, fitted, query, random_words
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.searchers.hamming import among
from instsearch_plugins.searchers.milvus_hamming import MilvusHamming
from instsearch_plugins.searchers.postings import inverted, inverted_of

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def keypoint_images(n=9, seed=0):
    rng = np.random.default_rng(seed)
    return [random_words(rng, int(rng.integers(0, 40))) for _ in range(n)]


@pytest.mark.parametrize("idf", [None, np.linspace(0.5, 2, 6)])
def test_postings_of_some_images_are_those_of_a_collection_of_them(tmp_path: Path, idf) -> None:
    images = keypoint_images()
    data = Collection(tmp_path, images)
    mine, theirs = inverted_of(images, idf), inverted(data, idf, tmp_path, Quiet())
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=1e-6)


def test_candidates_are_ranked_as_hamming_ranks_them(tmp_path: Path) -> None:
    images = keypoint_images(seed=3)
    some, one = images[2:7], keypoint_images(1, seed=9)[0]
    data = Collection(tmp_path, some, idf=np.ones(6))
    whole = fitted(data)
    config = whole.config
    numbers, scores, boxes = among(config, query(one), data, some)
    hits = whole.search([query(one)], data, 9)
    n = hits.valid(0)
    assert n
    np.testing.assert_array_equal(numbers, hits.images[0, :n])
    np.testing.assert_allclose(scores, hits.scores[0, :n], rtol=1e-5)
    np.testing.assert_array_equal(boxes, hits.boxes[0, :n])
    assert isinstance(data.encoder, Weighed)


def test_keypoint_options() -> None:
    config = make_config(MilvusHamming, {"uri": "http://x:1", "ht": "20", "candidates": "7"}, "searcher")
    assert (config.uri, config.ht, config.candidates) == ("http://x:1", 20, 7)
    for bad in ({"candidates": 0}, {"ht": 65}, {"uri": "x"}):
        with pytest.raises(UsageError):
            make_config(MilvusHamming, bad, "searcher")
