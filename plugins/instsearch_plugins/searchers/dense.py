"""What searchers of dense codes share: gathering a segment's vectors, reading a query's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.data import Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.ranking import Appended, Gathered

if TYPE_CHECKING:
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
