"""Indexes of faiss (Douze et al., "The Faiss library", 2024): built by a factory string, kept as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.errors import REPAIR, InstsearchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = 1 << 16  # vectors added at once
TRAIN = 1 << 18  # vectors to train on, unless the centroids ask for more
DAMAGED = f"the faiss index is damaged: {REPAIR}"
UNCHECKED = ("NSG", "NNDescent")  # kinds of index that faiss believes without checking what it reads
POINTS = 39  # vectors that faiss wants for each centroid that it trains


def built(V: np.ndarray, factory: str, advance: Callable[[int], None] | None = None) -> Any:
    """An index of inner products with the rows of V f32[n, D]; None where they are too few for its centroids.

    Raises UsageError for a factory string that faiss does not know, or cannot train on these vectors.
    """
    import faiss

    try:
        index = faiss.index_factory(max(V.shape[1], 1), factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"faiss cannot build the index '{factory}' for vectors of {V.shape[1]} values; a factory is, for "
            "example, IVF1024,Flat, HNSW32 or OPQ16_64,IVF1024,PQ16"
        ) from error
    wanted = POINTS * _centroids(index)
    if len(V) == 0 or len(V) < wanted:
        return None
    step = max(1, len(V) // max(TRAIN, wanted))
    try:
        index.train(np.ascontiguousarray(V[::step], np.float32))
        for first in range(0, len(V), ROWS):
            part = np.ascontiguousarray(V[first : first + ROWS], np.float32)
            index.add(part)
            if advance:
                advance(len(part))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rsplit(": ", 1)[-1]
        raise UsageError(f"faiss cannot train '{factory}' on {len(V)} vectors: {reason}") from error
    return index


def tuned(index: Any, search: str) -> Any:
    """The index with its search parameters set, as nprobe=16. Raises UsageError for one that it has not."""
    import faiss

    try:
        if search:
            faiss.ParameterSpace().set_index_parameters(index, search)
    except RuntimeError as error:
        raise UsageError(
            f"this faiss index does not take '{search}'; it is, for example, nprobe=16 or efSearch=64"
        ) from error
    return index


def searched(index: Any, q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Products f32[m, k] of q f32[m, D] with their k nearest rows i64[m, k], -1 where the index finds fewer.

    On as many threads as torch has in the calling thread, so that work side by side takes one core each.
    """
    import faiss
    import torch

    threads = faiss.omp_get_max_threads()  # of the calling thread alone, as is setting it
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        found: tuple[np.ndarray, np.ndarray] = index.search(np.ascontiguousarray(q, np.float32), k)
    finally:
        faiss.omp_set_num_threads(threads)
    return found


def stored(index: Any) -> np.ndarray:
    """The index as faiss writes it: u8[...]."""
    import faiss

    return np.asarray(faiss.serialize_index(index))


def loaded(array: np.ndarray, n: int) -> Any:
    """What :func:`stored` gave, an index of n vectors again. Raises InstsearchError if it is damaged.

    Kinds that no factory of inner products makes, and whose readers check nothing, are refused.
    """
    import faiss

    try:
        index = faiss.deserialize_index(np.asarray(array))
    except (RuntimeError, MemoryError) as error:
        raise InstsearchError(DAMAGED) from error
    unchecked = any(kind in name for name in _kinds(index) for kind in UNCHECKED)
    if index.ntotal != n or not index.is_trained or unchecked:
        raise InstsearchError(DAMAGED)
    return index


def _kinds(index: Any) -> Iterator[str]:
    """The class of an index and those of the ones within it."""
    import faiss

    index = faiss.downcast_index(index)
    yield type(index).__name__
    for name in ("index", "base_index", "refine_index", "quantizer", "storage"):
        if getattr(index, name, None) is not None:
            yield from _kinds(getattr(index, name))


def _centroids(index: Any) -> int:
    """The most centroids that an index trains at once."""
    import faiss

    index = faiss.downcast_index(index)
    inner = [getattr(index, name) for name in ("index", "base_index") if hasattr(index, name)]
    quantiser = getattr(index, "pq", None)
    own = max(getattr(index, "nlist", 0), getattr(quantiser, "ksub", 0))
    return max([own, *map(_centroids, inner)])
