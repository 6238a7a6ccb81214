"""Query expansion weighted by similarity (Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no
human annotation", TPAMI 2019, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from instsearch_cli.data import Codes, SparseVectors, Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.sparse import added, normalised, row_of
from instsearch_plugins.rerankers.aqe import AverageQueryExpansion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def weighted(query: Codes, hits: Sequence[tuple[Codes, Any]], alpha: float) -> Codes:
    """q' = L2(q + sum_j max(<q, x_j>, 0)^alpha x_j), with one row, given by its number, of each hit's codes.

    A query with several rows has each of them expanded with weights of its own; of dense codes rows i64[m] may be
    given, one for each of them. alpha = 0 weighs all hits 1. A sum of zero stays zero.
    """
    if isinstance(query, Vectors):
        Q = query.vectors
        rows = [codes.vectors[row].expand_as(Q) for codes, row in hits if isinstance(codes, Vectors)]
        if len(rows) < len(hits):
            raise InstsearchError("dense and sparse codes do not add up: the index is not of one pipeline")
        if not rows:
            return Vectors(F.normalize(Q, dim=1), query.boxes)
        x = torch.stack(rows)
        s = torch.einsum("md,nmd->nm", Q, x).clamp(min=0) ** alpha
        return Vectors(F.normalize(Q + torch.einsum("nm,nmd->md", s, x), dim=1), query.boxes)
    words = [row_of(codes, row) for codes, row in hits if isinstance(codes, SparseVectors)]
    if len(words) < len(hits):
        raise InstsearchError("dense and sparse codes do not add up: the index is not of one pipeline")
    sums = []
    for q in (row_of(query, i) for i in range(len(query.indptr) - 1)):
        s = torch.stack([_dot(q, x) for x in words]).clamp(min=0) ** alpha if words else torch.zeros(0)
        sums.append(added([q, *((i, float(w) * v) for w, (i, v) in zip(s, words, strict=True))]))
    return normalised(sums, query)


def _dot(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    """The inner product of two sparse rows whose words ascend."""
    if not len(y[0]):
        return x[1].new_zeros(())
    at = torch.searchsorted(y[0], x[0]).clamp(max=len(y[0]) - 1)
    return (x[1] * y[1][at] * (y[0][at] == x[0])).sum()


class AlphaQueryExpansion(AverageQueryExpansion):
    """As average query expansion, but each hit counts by its similarity to the query, to the power alpha.

    The similarity is that of the codes, whatever the searcher's scores are; alpha = 0 is `aqe`.
    """

    @dataclass(frozen=True)
    class Config(AverageQueryExpansion.Config):
        alpha: float = 3.0  #: the power; 0 weighs all hits alike

        def __post_init__(self) -> None:
            if self.alpha < 0:
                raise ValueError("alpha is not negative")

    config: Config

    def _expanded(self, query: Codes, top: Sequence[tuple[Codes, Any]]) -> Codes:
        return weighted(query, top, self.config.alpha)
