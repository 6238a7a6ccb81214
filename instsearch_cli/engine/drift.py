"""How far the visual words of images added later are from those that a vocabulary was learnt from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instsearch_formats import Array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_formats import Index, Layer, ModelInfo

PARTS = 8  # of the index that are looked at on either side: 2,048 images at most
FITTED = {"fitted-rows": Array("i8", ("m",), group="rows", below=10**10)}
SPLITS = 10  # at random, to know what chance does


class Drift(NamedTuple):
    """Divergence of two sets of images in bits, 0 to 1, and its mean over random splits of the same images."""

    divergence: float
    by_chance: float


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms, in bits.

    JS = H((p + q) / 2) - (H(p) + H(q)) / 2,  H(p) = - sum_k p_k log2 p_k

    p, q [K], not negative, not all 0: they are divided by their sums. Returns 0 (alike) to 1 (nothing in common).
    Reference: Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    p, q = p / p.sum(), q / q.sum()
    return float(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def drift(words: np.ndarray, image: np.ndarray, new: np.ndarray) -> Drift | None:
    """How far the words of new images are from those of the others; None where one of these has no word.

    Two samples of one collection differ too, the more the smaller they are: ``by_chance`` says by how much, from
    splits of the images (not of their words, which come in bursts) in two of the same sizes.
    words i64[m] >= 0, image i64[m] in [0, n), new bool[n].
    """
    if not new[image].any() or new[image].all():
        return None
    from scipy import sparse

    shape = (len(new), int(words.max()) + 1)
    counts = sparse.csr_array((np.ones(len(words), np.float32), (image, words)), shape)
    total = np.asarray(counts.sum(axis=0))

    def of(chosen: np.ndarray) -> float | None:
        histogram = chosen.astype(np.float32) @ counts
        rest = total - histogram
        return divergence(histogram, rest) if histogram.any() and rest.any() else None

    rng = np.random.default_rng(0)
    splits = [of(rng.permutation(new)) for _ in range(SPLITS)]
    found = of(new)
    assert found is not None
    return Drift(found, float(np.mean([split for split in splits if split is not None] or [found])))


def of_model(index: Index, model: ModelInfo) -> Drift | None:
    """The drift of a vocabulary's words, read from the index; None where the model is no vocabulary.

    New are the images after the last one that it was fitted on. A sample of either side is read.
    """
    layer = next(
        (
            index.layer(info.kind, info.name, info.encoding, info.identity)
            for info in index.layers()
            if info.encoding == "word-map"
            and str(info.identity.get("inputs", {}).get("model", "")).startswith(model.fingerprint)
        ),
        None,
    )
    read = None if layer is None else index.read_model(model.name, model.identity, FITTED)
    if layer is None or read is None or not len(read[0].get("fitted-rows", ())):
        return None
    last = int(read[0]["fitted-rows"].max())
    old = [range(r.start, min(r.stop, last + 1)) for r in layer.ranges() if r.start <= last]
    new = [range(max(r.start, last + 1), r.stop) for r in layer.ranges() if r.stop > last + 1]
    parts = list(_words(layer, [*_some(old), *_some(new)]))
    if not parts:
        return None
    words, row = (np.concatenate(side) for side in zip(*parts, strict=True))
    there = index.images.alive()[row]
    rows, image = np.unique(row[there], return_inverse=True)
    return drift(words[there], image, rows > last) if len(rows) else None


def _some(spans: list[range]) -> list[range]:
    """PARTS of them at most, evenly spread."""
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(PARTS, len(spans))).astype(int))
    return [spans[i] for i in chosen]


def _words(layer: Layer, spans: list[range]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The stored words, and the row of the image of each."""
    for span in spans:
        for block in layer.blocks(span):
            words = np.asarray(block["words"])
            row = np.repeat(np.arange(block["start"], block["stop"]), np.diff(block["indptr"]))
            is_word = words != np.iinfo(words.dtype).max
            yield words[is_word].astype(np.int64), row[is_word]
