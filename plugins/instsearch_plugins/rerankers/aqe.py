"""Average query expansion (Chum et al., "Total Recall", ICCV 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F

from instsearch_cli.components import Reranker
from instsearch_cli.data import Codes, Query, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.sparse import added, normalised, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Hits


def expanded(query: Codes, hits: Sequence[tuple[Codes, Any]]) -> Codes:
    """q' = L2(q + sum_j x_j): the query's codes with one row, given by its number, of each hit's codes added.

    Of dense codes rows i64[m] may be given, one for each of the query's; of one number the same is added to each of
    them. A sum of zero stays zero.
    """
    if isinstance(query, Vectors):
        total = query.vectors.clone()
        for codes, row in hits:
            if not isinstance(codes, Vectors):
                raise InstsearchError(
                    "dense and sparse codes do not add up: the index is not of one pipeline"
                )
            total += codes.vectors[row]
        return Vectors(F.normalize(total, dim=1), query.boxes)
    rows = []
    for codes, row in hits:
        if not isinstance(codes, SparseVectors):
            raise InstsearchError("dense and sparse codes do not add up: the index is not of one pipeline")
        rows.append(row_of(codes, row))
    sums = [added([row_of(query, i), *rows]) for i in range(len(query.indptr) - 1)]
    return normalised(sums, query)


def matched(codes: Codes, box: np.ndarray) -> int | None:
    """The row of an image's codes that a hit's box belongs to; the first where none does, None without rows."""
    if not len(codes.boxes):
        return None
    return int(np.isclose(np.asarray(codes.boxes), box, atol=1e-3).all(axis=1).argmax())


def likest(query: Codes, codes: Codes) -> Tensor | None:
    """The row of an image's dense codes that is most like each of a query's, i64[m]; None where it has not several.

    argmax_j <q_i, x_j>
    """
    if not isinstance(query, Vectors) or not isinstance(codes, Vectors):
        return None
    if len(query.vectors) < 2 or not len(codes.vectors):
        return None
    return (query.vectors @ codes.vectors.to(query.vectors.dtype).T).argmax(1)


class AverageQueryExpansion(Reranker):
    """Searches again with the mean of the query and its best hits.

    Of a query's several vectors, its regions say, each is expanded with the region of each hit that is most like it.
    """

    @dataclass(frozen=True)
    class Config:
        depth: int = 10  #: how many of the best hits are added to the query

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes], int], Hits],
    ) -> Hits:
        """The hits of the expanded queries; where a query has fewer hits than ``depth``, those there are."""
        codes = [self._expanded(q.codes, self._top(q, hits, i, data)) for i, q in enumerate(queries)]
        return search(codes, hits.images.shape[1])

    def _expanded(self, query: Codes, top: Sequence[tuple[Codes, Any]]) -> Codes:
        return expanded(query, top)

    def _top(self, query: Query, hits: Hits, i: int, data: Data) -> list[tuple[Codes, Any]]:
        top: list[tuple[Codes, Any]] = []
        for rank in range(hits.valid(i)):
            row = int(hits.images[i, rank])
            if len(top) == self.config.depth:
                break
            if row in query.exclude:
                continue
            codes, place = self._described(query, row, hits.boxes[i, rank], data)
            if place is not None:
                top.append((codes, place))
        return top

    def _described(self, query: Query, row: int, box: np.ndarray, data: Data) -> tuple[Codes, Any]:
        """A hit's codes, and which of their rows is added to the query, or to each of its rows; None for none."""
        codes = data.read("codes", row)
        each = likest(query.codes, codes)
        return codes, matched(codes, box) if each is None else each
