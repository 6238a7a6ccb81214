"""A verdict on each hit: the probability that it shows the object, from verification's scores.

What verification finds where there is nothing falls off exponentially with the number of inliers, so that the
log-odds grow with it in proportion; the scores far down the list say how much it finds by chance with this query.
The coefficients are learnt from queries asked with and without their object (Platt 1999).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsearch_cli.components import Reranker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.components import Data, Search
    from instsearch_cli.data import Hits, Query


MARGIN = 4.0  #: of log-odds: two photographs agree better than a photograph and a drawing of the object do
SURE = 8.0  #: log-odds from which on they say no more
SPEAKS = -4.0  #: log-odds from which on those of what the object is not speak against a hit
AGAINST = 0.3  #: by how much: most of what is alike, the object and its look-alikes share


def evidence(s: np.ndarray, start: int, stop: int, rest_cap: float, best_cap: float) -> np.ndarray:
    """What speaks for each hit of a query: 1, its score, that of the rest, and that of the best hit.

    x_i = (1, s_i, min(r, rest_cap), min(s_1, best_cap)),  r = mean of s_j over start < j <= stop

    s: f32[n] falls. Of fewer than 2 start hits the rest is the second half. Capped, since one clear hit is as good as
    one still clearer, and since the rest shows the object, too, where more than ``start`` images do. Returns f64[n, 4].
    """
    s = np.asarray(s, np.float64)
    x = np.ones((len(s), 4))
    if len(s):
        r = s[min(start, len(s) // 2) : stop].mean()
        x[:, 1], x[:, 2], x[:, 3] = s, min(r, rest_cap), min(s[0], best_cap)
    return x


class Verdict(Reranker):
    """score = 1 / (1 + exp(-w x)); the order stays. To be the last reranker, on the scores it was learnt from."""

    probabilities = True
    on_device: ClassVar[bool] = False
    several: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """The weights are those of reranker ``geometric`` on SIFT; benchmarks/verdict.py learns others."""

        min_score: float = 0.0  #: `query` leaves out hits below, and says "not found" where none is left
        bias: float = -11.95  #: weight of the constant
        score: float = 1.37  #: weight of a hit's score, which is mostly its inliers
        rest: float = -5.46  #: weight of the mean score of the hits from ``start`` to ``depth``
        best: float = 0.51  #: weight of the first hit's score
        start: int = 25  #: so many images may show the object before they are taken for the rest
        depth: int = 100  #: where the rest ends
        rest_cap: float = 2.0  #: the rest counts no more than this
        best_cap: float = 10.0  #: the first hit counts no more than this

        def __post_init__(self) -> None:
            if not 0 <= self.min_score <= 1:
                raise ValueError("min_score is between 0 and 1")
            if not 0 <= self.start < self.depth:
                raise ValueError("start is at least 0, and depth above it")
            if self.score < 0:
                raise ValueError("score is at least 0: the order stays")

    config: Config

    def rerank(self, queries: Sequence[Query], hits: Hits, data: Data, search: Search) -> Hits:
        """The same hits with probabilities for scores."""
        judged = self.evidence(queries, hits, data, search)
        return replace(judged, scores=self.score(judged.scores).astype(np.float32))

    def evidence(self, queries: Sequence[Query], hits: Hits, data: Data, search: Search) -> Hits:
        """The same hits with log-odds w x for scores, f64: probabilities near 1 run together."""
        scores = hits.scores.astype(np.float64)
        for q in range(len(queries)):
            n = hits.valid(q)
            scores[q, :n] = self._log_odds(hits.scores[q, :n])
        return replace(hits, scores=scores)

    def score(self, evidence: np.ndarray) -> np.ndarray:
        """Probabilities f64 of log-odds; padding stays at -inf."""
        p = np.exp(-np.logaddexp(0, -evidence))  # 1 / (1 + exp(-x)), without overflow
        judged: np.ndarray = np.where(np.isneginf(evidence), -np.inf, p)
        return judged

    def _log_odds(self, s: np.ndarray) -> np.ndarray:
        """Of the scores f32[n] of one query's hits, best first: f64[n]."""
        c = self.config
        w = np.array([c.bias, c.score, c.rest, c.best])
        x: np.ndarray = evidence(s, c.start, c.depth, c.rest_cap, c.best_cap) @ w
        return x

    def contested(self, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """own - AGAINST log(1 + exp(other - SPEAKS)): the order is by how much better the object fits, too.

        -inf where the other is more likely there than not, and wins by MARGIN, or both are as sure as can be.
        """
        beaten = (other > 0) & ((other >= own + MARGIN) | ((other >= own) & (other > SURE)))
        return np.where(beaten, -np.inf, own - AGAINST * np.logaddexp(0, other - SPEAKS))
