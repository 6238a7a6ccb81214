"""Whether one ranking is better than another, or lucky: a paired randomisation test of average precisions.

M. D. Smucker, J. Allan, B. Carterette: A comparison of statistical significance tests for information retrieval
evaluation, CIKM 2007; the test is R. A. Fisher's (The design of experiments, 1935).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

EXACT = 15  #: up to so many queries that differ all exchanges are counted
DRAWN = 100_000  #: exchanges that are drawn where there are more
CHUNK = 1 << 20  #: signs of these at once
EQUAL = 1e-12  #: differences that small are those of rounding
SEED = 7


class Scored(Protocol):
    """What is compared: a name, and a row of numbers for each query, "id" and "ap" among them."""

    @property
    def name(self) -> str: ...
    @property
    def queries(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Pair:
    """A query's average precision under both."""

    id: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """Two rankings of the same queries; ``left_out`` counts the queries that one of them has no precision for."""

    a: str
    b: str
    pairs: tuple[Pair, ...]
    p: float
    left_out: int = 0

    @property
    def means(self) -> tuple[float, float]:
        """mAP of both over the queries that both have."""
        return float(np.mean([pair.a for pair in self.pairs])), float(
            np.mean([pair.b for pair in self.pairs])
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        """For how many queries ``b`` is better, worse, and equal."""
        signs = [(pair.difference > EQUAL) - (pair.difference < -EQUAL) for pair in self.pairs]
        return signs.count(1), signs.count(-1), signs.count(0)

    def largest(self, n: int) -> list[Pair]:
        """The n queries that differ most, the largest difference first."""
        return sorted(self.pairs, key=lambda pair: (-abs(pair.difference), pair.id))[:n]

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        better, worse, equal = self.counts
        a, b = self.means
        queries = [{"id": q.id, "a": q.a, "b": q.b, "difference": q.difference} for q in self.pairs]
        sums: dict[str, Any] = {"mAP": [a, b], "difference": b - a, "p": self.p}
        counts = {"better": better, "worse": worse, "equal": equal, "left_out": self.left_out}
        return {"a": self.a, "b": self.b, **sums, **counts, "queries": queries}


def compare(scored: Sequence[Scored]) -> list[Comparison]:
    """Each of some measurements of one dataset's queries with the first.

    Raises InstsearchError where two have no query in common, ValueError where there is nothing to compare.
    """
    first, *others = scored
    mine = {str(query["id"]): query["ap"] for query in first.queries}
    comparisons = []
    for other in others:
        theirs = {str(query["id"]): query["ap"] for query in other.queries}
        both = [id for id in mine if mine[id] is not None and theirs.get(id) is not None]
        if not both:
            raise InstsearchError(f"'{first.name}' and '{other.name}' have no query in common")
        pairs = tuple(Pair(id, float(mine[id]), float(theirs[id])) for id in both)
        p = randomisation_test([pair.a for pair in pairs], [pair.b for pair in pairs])
        left_out = len({*mine, *theirs}) - len(both)
        comparisons.append(Comparison(first.name, other.name, pairs, p, left_out))
    return comparisons


def randomisation_test(a: ArrayLike, b: ArrayLike, drawn: int = DRAWN, seed: int = SEED) -> float:
    """The two-sided p-value of a difference of means under the exchange of what is paired.

    p = P(|sum s_i d_i| >= |sum d_i|),  d_i = b_i - a_i,  s_i = +1 or -1, each as likely

    the share of all 2^n signs where at most EXACT differences are not 0, else (m + 1) / (N + 1), m of N = ``drawn``
    random ones (the signs that were observed count as drawn). a, b: f64[n] in the same order. 1 where nothing differs.
    At most CHUNK signs are in memory at once. Raises ValueError unless a and b are as long as each other.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"pairs of numbers are wanted, not {a.shape} and {b.shape}")
    d = (b - a)[np.abs(b - a) > EQUAL]
    if not len(d):
        return 1.0
    observed = abs(d.sum()) - EQUAL * np.abs(d).sum()  # sums in another order differ in their last bits
    if len(d) <= EXACT:
        signs = ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1) * 2.0 - 1
        return float(np.mean(np.abs(signs @ d) >= observed))
    rng, extreme = np.random.default_rng(seed), 0
    rows = max(1, CHUNK // len(d))
    for start in range(0, drawn, rows):
        signs = rng.integers(0, 2, (min(rows, drawn - start), len(d)), np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ d) >= observed).sum())
    return (extreme + 1) / (drawn + 1)
