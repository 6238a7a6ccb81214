"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.data import Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.reciprocal import distances
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query


class KReciprocal(HitByHit):
    """score = -((1 - lam) d_J + lam d), see :func:`distances`, over the query and the hits looked at.

    It reads no picture and no local feature. Of a hit with a code for each of its regions the one most like the query
    counts; a query with several codes counts as their sum. Boxes stay.
    """

    @dataclass(frozen=True)
    class Config(HitByHit.Config):
        """Options of ``k-reciprocal``, the paper's."""

        depth: int = 200  #: how many of the best hits are looked at, and are each other's neighbours
        k1: int = 20  #: nearest neighbours that are to be mutual
        k2: int = 6  #: nearest neighbours that a code is averaged over; 1: none but itself
        lam: float = 0.3  #: what the codes' own distance counts for, 0 to 1

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.k1 < 1 or self.k2 < 1 or not 0 <= self.lam <= 1:
                raise ValueError("k1 and k2 are at least 1, lam from 0 to 1")

    config: Config

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The hits' scores. Raises InstsearchError for codes that are not dense."""
        q = l2(_vectors(query.codes).sum(0, keepdim=True))
        found, codes = [], [q[0]]
        for inputs in data.inputs(("codes",), rows):
            vectors = _vectors(inputs.codes).to(q.device)
            if len(vectors):
                found.append(inputs.row)
                codes.append(vectors[(vectors @ q[0]).argmax()])
        if found:
            d = distances(l2(torch.stack(codes)), self.config.k1, self.config.k2, self.config.lam)
            for row, far in zip(found, d.tolist(), strict=True):
                yield Look(row, -far, None)


def _vectors(codes: object) -> torch.Tensor:
    if not isinstance(codes, Vectors):
        raise InstsearchError(
            "k-reciprocal compares dense codes, and this pipeline's are words: take --encoder gem, or alpha-qe"
        )
    return codes.vectors
