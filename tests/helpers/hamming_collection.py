"""Keypoints with words and signatures, collections of them, and the hamming searcher made for one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from instsearch_cli.data import Grid, Image, Query, Words
from instsearch_cli.progress import Quiet
from instsearch_cli.storage import to_item
from instsearch_plugins.abilities import WordEncoder
from instsearch_plugins.numeric import hamming
from instsearch_plugins.searchers.hamming import HammingEmbedding

CPU = torch.device("cpu")
SIZE = (640, 480)
K = 6


class Pictures:
    """Keypoints of some pictures, as encoders see them."""

    def __init__(self, features):
        self.features, self.images = features, np.arange(len(features))

    def inputs(self, kinds, rows=None):
        for row in rows:
            yield SimpleNamespace(row=int(row), features=self.features[row])


def keypoints(n, seed=0, size=SIZE):
    """Geometry f32[n, 4] at the middle of the steps that postings have."""
    rng = np.random.default_rng(seed)
    geometry = np.stack(
        [
            rng.uniform(0, size[0], n),
            rng.uniform(0, size[1], n),
            2 ** rng.uniform(0, 4, n),
            rng.uniform(0, 360, n),
        ],
        1,
    )
    return hamming.unpacked(hamming.packed(geometry.astype(np.float32), size), size)


def words_of(words, signatures, geometry, size=SIZE, K=K):
    return Words(
        np.asarray(words, np.int32),
        Grid.nominal(size),
        np.asarray(geometry, np.float32).reshape(-1, 4),
        K,
        np.asarray(signatures, np.uint64).view(np.int64),
    )


class Weighed(WordEncoder):
    """Words by how rare they are alone."""

    def __init__(self, idf):
        self.idf = np.asarray(idf, np.float32)


class Collection:
    """Words of some images in a layer of an index, as the searcher sees them."""

    def __init__(self, folder: Path, items, start=0, removed=(), idf=None, spans=(3, 100), index=None):
        self.folder, self.items, self.span = folder, items, range(start, start + len(items))
        self.images = np.array([i for i in self.span if i not in set(removed)], np.int64)
        self.encoder = None if idf is None else Weighed(idf)
        self.parts, at = [], 0
        for n in spans:
            self.parts.append(items[at : at + n])
            at += n

    def scratch(self):
        return self.folder

    def blocks(self, kind):
        assert kind == "local"
        first = self.span.start
        for items in self.parts:
            if not items:
                continue
            stored = [to_item("word-map", item) for item in items]
            names = set().union(*stored) - {"grid", "transform"}
            block = {name: np.concatenate([item[name] for item in stored]) for name in names}
            block |= {name: np.stack([item[name] for item in stored]) for name in ("grid", "transform")}
            block["indptr"] = np.cumsum([0, *(len(item["words"]) for item in stored)])
            yield {**block, "start": first, "stop": first + len(items)}
            first += len(items)


def query(words, box=None, exclude=(), size=SIZE, features=None):
    image = Image(np.zeros((4, 4, 3), np.uint8), size)
    return Query("q", image, box, features, words, None, frozenset(exclude))


def fitted(data, **options):
    searcher = HammingEmbedding(HammingEmbedding.Config(**{"assign": 1, **options}), CPU)
    searcher.load(searcher.fit(data, Quiet()))
    return searcher


def ranking(hits):
    n = hits.valid(0)
    return hits.images[0, :n].tolist(), hits.scores[0, :n]


def random_words(rng, n, K=K, bits=3):
    """Words whose signatures differ in few bits."""
    flips = [sum(1 << int(b) for b in set(rng.integers(0, 64, rng.integers(0, bits + 1)))) for _ in range(n)]
    return words_of(
        rng.integers(-1, K, n), np.array(flips, np.uint64), keypoints(n, int(rng.integers(1e6))), K=K
    )
