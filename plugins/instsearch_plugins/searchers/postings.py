"""An inverted file whose postings carry a Hamming signature and a keypoint's geometry.

Postings lie word by word, in a word by image. One is 14 bytes: image u16 (i32 where a segment has more than 65,536),
signature u64, geometry u32 (:func:`hamming.packed`). All arrays are memory-mapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_cli.errors import REPAIR, InstsearchError
from instsearch_formats import Array
from instsearch_plugins.numeric import hamming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Words

PAIRS = 1 << 23  # pairs of keypoints that a query compares at most: a brick's, among walls of it
NARROW = 1 << 16  # images that u16 tells apart
POSTINGS = {
    "start": Array("i8", (1,), equals="start"),
    "sizes": Array("f4", ("n", 2)),
    "norms": Array("f4", ("n",)),
    "pointers": Array("i8", ("K+1",), climbs="P"),
    "signatures": Array("u8", ("P",), unread=True),
    "images": Array("u2 i4", ("P",), unread=True),
    "geometry": Array("u4", ("P",), unread=True),
}
"""What :func:`inverted` returns, as it must be."""
UNPLACED = (
    "searcher hamming needs words at keypoints, and this pipeline has them on a grid: take --extractor sift, or "
    "--searcher inverted"
)
DAMAGED = f"the postings are damaged: {REPAIR}"


class Matches(NamedTuple):
    """Pairs of what was asked, by number, and of postings: their images and packed geometry; how many bits differ.

    asked, image i64[m]; bits u32[m]; distance u8[m].
    """

    asked: np.ndarray
    image: np.ndarray
    bits: np.ndarray
    distance: np.ndarray

    def some(self, i: np.ndarray) -> Matches:
        """Those of these numbers i64[k]."""
        return Matches(*(field.take(i) for field in self))


class Points(NamedTuple):
    """Keypoints of the segment's images ``first`` and on: image i64[N] from there, word, signature, geometry."""

    first: int
    sizes: np.ndarray
    image: np.ndarray
    word: np.ndarray
    signature: np.ndarray
    geometry: np.ndarray


def inverted(data: Data, idf: np.ndarray | None, scratch: Path, progress: Progress) -> State:
    """Postings of the words of ``data.span``, in files in ``scratch``: two passes, a block in memory at a time.

    Returns start[1], the pictures' sizes f32[n, 2], norms f32[n] = |(idf_w tf_w)_w| of each image, pointers
    i64[K + 1], and for each posting signatures u64, images u16 or i32, geometry u32. K is the largest word that
    occurs, and 1. Raises InstsearchError where words have no signature, or no place.
    """
    n = len(data.span)
    counts = np.zeros(1, np.int64)
    progress.start("counting words", n)
    for points in _points(data, progress):
        if idf is not None and points.word.max(initial=-1) >= len(idf):
            raise InstsearchError(f"the words are damaged: {REPAIR}")
        found = np.bincount(points.word, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    K, pointers = len(counts), np.concatenate([[0], counts.cumsum()])
    signatures = _file(scratch / "signatures", np.uint64, pointers[-1])
    images = _file(scratch / "images", np.uint16 if n <= NARROW else np.int32, pointers[-1])
    geometry = _file(scratch / "geometry", np.uint32, pointers[-1])
    sizes, norms = np.zeros((n, 2), np.float32), np.zeros(n, np.float32)
    free = pointers[:-1].copy()
    progress.start("inverting words", n)
    for points in _points(data, progress):
        order = np.argsort(points.word, kind="stable")
        words = points.word[order]
        at = free[words] + np.arange(len(words)) - np.searchsorted(words, words)
        free += np.bincount(words, minlength=K)
        signatures[at], geometry[at] = points.signature[order], points.geometry[order]
        images[at] = points.image[order] + points.first
        span = slice(points.first, points.first + len(points.sizes))
        sizes[span] = points.sizes
        norms[span] = lengths(points.image, points.word, len(points.sizes), K, idf)
    return {
        "start": np.array([data.span.start]),
        "sizes": sizes,
        "norms": norms,
        "pointers": pointers,
        "signatures": signatures,
        "images": images,
        "geometry": geometry,
    }


def lengths(image: np.ndarray, word: np.ndarray, n: int, K: int, idf: np.ndarray | None) -> np.ndarray:
    """|(idf_w tf_w)_w| of n images f64[n], of whose keypoints these are the image and the word, below K."""
    pairs, tf = np.unique(image * K + word, return_counts=True)
    weight = tf * (1.0 if idf is None else idf[pairs % K])
    return np.sqrt(np.bincount(pairs // K, weight**2, n))


def inverted_of(images: Sequence[Words], idf: np.ndarray | None) -> State:
    """:func:`inverted` of some images alone, in memory: image i is the i-th. Raises InstsearchError as that does."""
    n, every = len(images), [_of_words(i, local) for i, local in enumerate(images)]
    sizes, image, word, signature, geometry = (
        np.concatenate([points[field] for points in every]) for field in range(1, len(Points._fields))
    )
    if idf is not None and word.max(initial=-1) >= len(idf):
        raise InstsearchError(f"the words are damaged: {REPAIR}")
    K, order = int(word.max(initial=0)) + 1, np.argsort(word, kind="stable")
    return {
        "start": np.zeros(1, np.int64),
        "sizes": sizes,
        "norms": lengths(image, word, n, K, idf).astype(np.float32),
        "pointers": np.concatenate([[0], np.bincount(word, minlength=K).cumsum()]),
        "signatures": signature[order],
        "images": image[order],
        "geometry": geometry[order],
    }


def _of_words(image: int, local: Words) -> Points:
    """The keypoints of one image that have a word."""
    if local.geometry is None:
        raise InstsearchError(UNPLACED)
    if local.signatures is None:
        raise InstsearchError(hamming.UNSIGNED)
    some = np.flatnonzero(local.words >= 0)
    size = (np.array(local.grid.transform[:2]) * local.grid.shape[::-1]).astype(np.float32)
    word, signature = local.words[some].astype(np.int64), local.signatures[some].view(np.uint64)
    place = hamming.packed(local.geometry[some], size)
    return Points(image, size[None], np.full(len(some), image), word, signature, place)


def _file(path: Path, dtype: Any, n: int) -> np.ndarray:
    return np.memmap(path, dtype, "w+", shape=(int(n),)) if n else np.empty(0, dtype)


def _points(data: Data, progress: Progress) -> Iterator[Points]:
    for block in data.blocks("local"):
        words, indptr = np.asarray(block["words"]), np.asarray(block["indptr"])
        some = np.flatnonzero(words != np.iinfo(words.dtype).max)
        sizes = np.asarray(block["transform"])[:, :2] * np.asarray(block["grid"])[:, ::-1]
        image = np.repeat(np.arange(len(sizes)), np.diff(indptr))[some]
        signature, geometry = np.empty(0, np.uint64), np.empty(0, np.uint32)
        if len(some):  # a part of nothing but empty images has words alone
            if "geometry" not in block:
                raise InstsearchError(UNPLACED)
            if "signatures" not in block:
                raise InstsearchError(hamming.UNSIGNED)
            signature = np.asarray(block["signatures"])[some]
            geometry = hamming.packed(np.asarray(block["geometry"])[some], sizes[image])
        first = int(block["start"]) - data.span.start
        yield Points(first, sizes, image, words[some].astype(np.int64), signature, geometry)
        progress.advance(len(sizes))


class Postings:
    """What :func:`inverted` made, to be looked up."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.start = int(np.asarray(state["start"])[0])
        self.sizes, self.norms = np.asarray(state["sizes"]), np.asarray(state["norms"])
        self.pointers, self.geometry = np.asarray(state["pointers"]), np.asanyarray(state["geometry"])
        self.signatures, self.images = np.asanyarray(state["signatures"]), np.asanyarray(state["images"])

    def matches(
        self, words: np.ndarray, signatures: np.ndarray, threshold: int, shown: np.ndarray | None = None
    ) -> Matches:
        """The postings of words i64[A] whose signature differs from that asked, u64[A], in few bits.

        They come as asked. Of words with more than PAIRS postings together the rarest are looked up. Only images that
        are ``shown``, bool[n], count.
        """
        K = len(self.pointers) - 1  # words from there on do not occur
        starts, ends = (self.pointers[np.minimum(w, K)] for w in (words, words + 1))
        lengths = ends - starts
        rare = np.argsort(lengths, kind="stable")
        lengths[rare[lengths[rare].cumsum() > PAIRS]] = 0
        upto = lengths.cumsum()
        distance = self._distances(starts, lengths, signatures)
        near = np.flatnonzero(distance <= threshold)
        asked = np.repeat(np.arange(len(words)), np.diff(np.searchsorted(near, upto), prepend=0))
        at = near + (starts - upto + lengths).take(asked)
        image, distance = self.image_of(at), distance.take(near)
        if shown is not None:
            there = np.flatnonzero(shown.take(image))
            asked, at, image, distance = (v.take(there) for v in (asked, at, image, distance))
        return Matches(asked, image, self.geometry[at], distance)

    def _distances(self, starts: np.ndarray, lengths: np.ndarray, signatures: np.ndarray) -> np.ndarray:
        """In how many bits the postings from ``starts`` on, so many, differ from each signature, one after another."""
        distance = np.empty(int(lengths.sum()), np.uint8)
        differing = np.empty(int(lengths.max(initial=0)), np.uint64)  # in the cache for every word
        stored, first = np.asarray(self.signatures), 0
        for start, n, signature in zip(starts.tolist(), lengths.tolist(), signatures, strict=True):
            np.bitwise_xor(stored[start : start + n], signature, out=differing[:n])
            np.bitwise_count(differing[:n], out=distance[first : first + n])
            first += n
        return distance

    def image_of(self, at: np.ndarray) -> np.ndarray:
        """The images i64[m], counted within the segment, of postings."""
        image: np.ndarray = self.images[at]
        if len(image) and not 0 <= image.min() <= image.max() < len(self.norms):
            raise InstsearchError(DAMAGED)
        return image.astype(np.int64)
