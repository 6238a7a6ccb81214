"""What searchers of dense codes share: gathering a segment's vectors, reading a query's,
and matching several vectors of a query with several of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.data import Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.ranking import Appended, Gathered, leads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from instsearch_cli.components import Data, Progress
    from instsearch_cli.data import Codes


def gather(data: Data, scratch: Path, progress: Progress) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The owners of a segment's rows (see :class:`Owners`) and its vectors f32[R, D], memory-mapped."""
    gathered = Gathered(data, scratch)
    vectors: Appended | None = None
    progress.start("gathering codes", len(data.span))
    for block in data.blocks("codes"):
        values, pointers = np.asarray(block["vectors"]), np.asarray(block["indptr"])
        gathered.add(block, pointers)
        if len(values):  # a part without any does not know how wide they are
            vectors = vectors or Appended(scratch / "vectors", np.float32, values.shape[1])
            vectors.append(values)
        progress.advance(len(pointers) - 1)
    return gathered.state(), vectors.array() if vectors else np.empty((0, 0), np.float32)


def values_of(codes: Codes, width: int | None, searcher: str) -> np.ndarray:
    """A query's vectors f32[M, D]. Raises InstsearchError unless they are dense and D is ``width``, if given."""
    if not isinstance(codes, Vectors):
        raise InstsearchError(f"the {searcher} searcher takes vectors; use the inverted searcher")
    if width is not None and codes.vectors.shape[1] != width:
        raise InstsearchError(
            f"the query has {codes.vectors.shape[1]} values and the index {width}: "
            "they come from different pipelines"
        )
    return np.ascontiguousarray(codes.vectors.cpu().numpy(), np.float32)


def image_blocks(pointers: np.ndarray, rows: int) -> Iterator[slice]:
    """Ranges of whole images, pointers i64[n + 1] being where each starts, of at most ``rows`` rows where it can be."""
    image, n = 0, len(pointers) - 1
    while image < n:
        until = max(image + 1, int(np.searchsorted(pointers, pointers[image] + rows, side="right")) - 1)
        yield slice(image, until)
        image = until


def r_match(products: np.ndarray, pointers: np.ndarray) -> np.ndarray:
    """R-Match: each of the query's vectors with the vector of the image that is most like it.

    score(i) = sum_m max_r s_mr, over the rows r of image i

    products: s f[M, R] of the query's M vectors with R rows, pointers i64[n + 1] where each image's start. Returns
    f[R]: the image's score at the row with the largest product, the first of them, and -inf elsewhere; with M = 1
    every row's own product. M = 0 matches nothing.

    References: Razavian, Sullivan, Carlsson and Maki, "Visual instance retrieval with deep convolutional networks",
    2016; Iscen et al., CVPR 2017.
    """
    if len(products) == 1:
        own: np.ndarray = products[0]
        return own
    scores = np.full(products.shape[1], -np.inf, products.dtype)
    if not products.size:
        return scores
    counts = np.diff(pointers)
    starts = (pointers[:-1] - pointers[0])[counts > 0]
    largest = products.max(axis=0)
    peak = np.repeat(np.maximum.reduceat(largest, starts), counts[counts > 0])
    places = np.flatnonzero(largest == peak)
    image = np.searchsorted(starts, places, side="right")
    best = places[leads(image)]
    scores[best] = np.maximum.reduceat(products, starts, axis=1).sum(axis=0)
    return scores
