"""Re-ranking by global descriptors alone, refined by each other (SuperGlobal: Shao et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from instsearch_cli.data import Vectors
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.refinement import refined_scores
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query


class SuperGlobal(HitByHit):
    """score = (<q, r> + <e, r>) / 2 with r, the hit's code, refined by its nearest among the hits looked at.

    e is the largest of each value over the best of these, see :func:`refined_scores`. It reads no picture and no
    local feature. Of a hit with a code for each of its regions the one most like the query counts; a query with
    several codes counts as their sum. Boxes stay.
    """

    @dataclass(frozen=True)
    class Config(HitByHit.Config):
        """Options of ``superglobal``, the paper's."""

        depth: int = 400  #: how many of the best hits are looked at, and refine each other
        neighbours: int = 9  #: how many of them refine each; one more makes the query's
        beta: float = 0.15  #: what a neighbour counts for, times its similarity

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.neighbours < 0 or self.beta < 0:
                raise ValueError("neighbours and beta are not negative")

    config: Config

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The hits' scores by their refined codes. Raises InstsearchError for codes that are not dense."""
        q = _vectors(query.codes).sum(0)
        found, codes = [], []
        for inputs in data.inputs(("codes",), rows):
            vectors = _vectors(inputs.codes).to(q.device)
            if len(vectors):
                found.append(inputs.row)
                codes.append(vectors[(vectors @ q).argmax()])
        if found:
            scores = refined_scores(q, torch.stack(codes), self.config.neighbours, self.config.beta)
            for row, score in zip(found, scores.tolist(), strict=True):
                yield Look(row, score, None)


def _vectors(codes: object) -> torch.Tensor:
    if not isinstance(codes, Vectors):
        raise InstsearchError(
            "superglobal refines dense codes, and this pipeline's are words: take --encoder gem, or alpha-qe"
        )
    return codes.vectors
