"""Hits as a component has to give them, looked at before anybody believes them (docs/plugins/reranker.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import Hits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Query


def fault(hits: Any, queries: Sequence[Query], live: np.ndarray) -> str:
    """What is wrong with the hits of some queries among the rows i64[n] that are there, ascending; "" for nothing."""
    if not isinstance(hits, Hits):
        return f"gave {type(hits).__name__} where Hits are wanted"
    images, scores, boxes = (np.asarray(each) for each in (hits.images, hits.scores, hits.boxes))
    if len(images) != len(queries):
        return f"gave {len(images)} rows of hits for {len(queries)} queries"
    if images.dtype.kind != "i" or scores.dtype.kind != "f" or boxes.dtype.kind != "f":
        return f"gave images, scores and boxes of {images.dtype}, {scores.dtype} and {boxes.dtype}"
    there = images >= 0
    if (there[:, 1:] & ~there[:, :-1]).any():
        return "gave hits behind the padding"
    if not _among(images[there], live):
        return "gave an image that is not there, or was removed"
    for row, query in zip(images, queries, strict=True):
        found = row[row >= 0]
        if query.exclude and not query.exclude.isdisjoint(found.tolist()):
            return "gave an image that the query leaves out"
        if query.per_image == 1 and len(np.unique(found)) < len(found):
            return "gave an image twice"
    if np.isnan(scores[there]).any():
        return "gave a score that is no number"
    unknown = np.isnan(boxes[there])
    boxed = boxes[there][~unknown.any(axis=1)]
    if (unknown.any(axis=1) != unknown.all(axis=1)).any() or not np.isfinite(boxed).all():
        return "gave a box that is no box"
    return "gave a box turned inside out" if (boxed[:, 2:] < boxed[:, :2]).any() else ""


def _among(rows: np.ndarray, live: np.ndarray) -> bool:
    """Whether all rows are among those, which ascend."""
    place = np.searchsorted(live, rows)
    return bool((place < len(live)).all() and (live[place] == rows).all())
