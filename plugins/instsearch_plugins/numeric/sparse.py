"""Small sums of sparse codes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from instsearch_cli.data import SparseVectors

Row = tuple["Tensor", "Tensor"]


def row_of(codes: SparseVectors, row: int) -> Row:
    """One row as (words i64[nnz], values f32[nnz])."""
    at = slice(int(codes.indptr[row]), int(codes.indptr[row + 1]))
    return torch.from_numpy(codes.indices[at]), torch.from_numpy(codes.data[at])


def added(rows: Iterable[Row]) -> Row:
    """sum_r x_r of sparse rows: (words i64[n] ascending, values f32[n])."""
    words, values = zip(*rows, strict=True)
    distinct, place = torch.unique(torch.cat(words), return_inverse=True)
    total = torch.zeros(len(distinct), dtype=torch.float32)
    return distinct, total.index_add_(0, place, torch.cat(values).to(torch.float32))


def normalised(rows: Sequence[Row], query: SparseVectors) -> SparseVectors:
    """L2(x_r) of sparse rows, one for each of the query's, as codes with its boxes; a row of zero stays zero."""
    if not rows:
        return query
    return replace(
        query,
        indices=torch.cat([words for words, _ in rows]).numpy(),
        data=torch.cat([F.normalize(values, dim=0) for _, values in rows]).numpy(),
        indptr=torch.tensor([0, *(len(words) for words, _ in rows)]).cumsum(0).numpy(),
    )
