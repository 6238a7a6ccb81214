"""What searchers share that diffuse similarity over the graph of mutual neighbours (Iscen et al., CVPR 2017)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scipy import sparse

from instsearch_cli.components import Searcher, option
from instsearch_cli.data import Hits
from instsearch_cli.errors import REPAIR
from instsearch_formats import Array
from instsearch_plugins.numeric.graph import mutual_graph
from instsearch_plugins.numeric.ranking import OWNERS, Best, Owners, leads
from instsearch_plugins.searchers.dense import gather, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Query

ROWS = 1 << 16  # vectors compared at once
QUERIES = 16  # queries diffused at once
CELLS = 1 << 26  # similarities held at once, unless one query has more
TOLERANCE = 1e-6
RESIDUAL = 0.1  # let pass in silence; 20 iterations at alpha 0.99 left at most 0.07 on graphs made to be hard
LAMBDA = 1.0
DAMAGED = f"the graph is damaged: {REPAIR}"


def gmp_weights(V: np.ndarray, pointers: np.ndarray, regulariser: float = LAMBDA) -> np.ndarray:
    """How much each region counts for its image, by generalised max pooling.

    (V_i V_i^T + lambda I) c_i = 1

    V: f32[R, D] with image i owning the rows V_i = pointers[i]:pointers[i + 1]. Returns c f32[R].

    Reference: Murray and Perronnin, "Generalized max pooling", CVPR 2014.
    """
    c = np.empty(len(V), np.float32)
    counts = np.diff(pointers)
    for m in np.unique(counts[counts > 0]).tolist():
        firsts = pointers[:-1][counts == m]
        step = max(1, ROWS // m)
        for at in range(0, len(firsts), step):
            rows = firsts[at : at + step, None] + np.arange(m)
            X = V[rows].astype(np.float64)
            gram = X @ X.transpose(0, 2, 1) + regulariser * np.eye(m)
            c[rows] = np.linalg.solve(gram, np.ones((len(rows), m, 1)))[..., 0]
    return c


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest values lie, best first, ties by place; -inf is never among them. i64[<= k]"""
    bound = -np.inf if k >= len(values) else np.partition(values, -k)[-k]
    found = np.flatnonzero((values >= bound) & (values > -np.inf))
    best: np.ndarray = found[np.lexsort((found, -values[found]))][:k]
    return best


def seeds(similarities: np.ndarray, kq: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a query sets off the diffusion, and how strongly.

    y_i = max(sum_m s_mi, 0)^gamma, over the regions m of the query among whose kq nearest i is; the kq largest

    similarities: s f32[M, R], -inf where a row does not count. Returns rows i64[<= kq] and y f32[<= kq].
    """
    nearest = [largest(s, kq) for s in similarities]
    found, place = np.unique(np.concatenate(nearest), return_inverse=True)
    each = np.concatenate([s[rows] for s, rows in zip(similarities, nearest, strict=True)])
    total = np.bincount(place, each, minlength=len(found))
    kept = largest(total, kq)
    return found[kept], (np.maximum(total[kept], 0) ** gamma).astype(np.float32)


def shown_graph(
    V: np.ndarray, shown: np.ndarray, k: int, gamma: float, progress: Progress
) -> sparse.csr_array:
    """:func:`mutual_graph` of the rows shown bool[R] alone; the others have no neighbours. f32[R, R]"""
    progress.start("building the graph", int(shown.sum()), "vectors")
    W = mutual_graph(V if shown.all() else V[shown], k, gamma, progress.advance)
    if shown.all():
        return W
    place = np.flatnonzero(shown).astype(W.indices.dtype)
    counts = np.zeros(len(V), np.int64)
    counts[shown] = np.diff(W.indptr)
    indptr = np.concatenate([[0], counts.cumsum()]).astype(W.indptr.dtype)
    return sparse.csr_array((W.data, place[W.indices], indptr), shape=(len(V), len(V)))


def warn_of(residual: float, iterations: int, remedy: str) -> None:
    """Say so where conjugate gradients were stopped far from the solution."""
    if residual > RESIDUAL:
        warnings.warn(
            f"diffusion is approximate: after {iterations} iterations the residual is {residual:.2g}, above "
            f"{RESIDUAL:g}; {remedy}",
            RuntimeWarning,
            stacklevel=3,
        )


class GraphSearch(Searcher, ABC):
    """Ranks images by what a query's similarity to its nearest vectors becomes, diffused over the graph."""

    accepts: ClassVar[tuple[str, ...]] = ("vectors",)
    learns: ClassVar[dict[str, Array]] = OWNERS | {
        "vectors": Array("f4", ("R", "D")),
        "weights": Array("f4", ("R",)),
    }
    name: ClassVar[str] = ""

    @dataclass(frozen=True)
    class Config:
        """Options of every such searcher."""

        k: int = option(50, touches="search")  #: nearest vectors that may be neighbours, itself among them
        gamma: float = option(3.0, touches="search")  #: similarities are raised to this power
        kq: int = option(10, touches="query")  #: vectors nearest to the query that set off the diffusion
        #: an image's score of its regions': their largest, their sum, or by generalised max pooling
        pool: Literal["gmp", "sum", "max"] = option("gmp", touches="query")

        def __post_init__(self) -> None:
            if self.k < 1 or self.kq < 1 or self.gamma <= 0:
                raise ValueError("k and kq are at least 1, gamma is above 0")

    config: Any

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config

    def fit(self, data: Data, progress: Progress) -> State:
        """Build the graph over the segment's vectors, those of removed images left alone.

        Returns vectors f32[R, D]; weights f32[R], the regions' for gmp; the owners of the rows; and what
        :meth:`prepared` makes of the graph.
        """
        scratch = data.scratch()
        owned, V = gather(data, scratch, progress)
        owners = Owners.of_state(owned)
        shown = np.ones(owners.rows, bool)
        shown[owners.removed(data)] = False
        W = shown_graph(V, shown, self.config.k, self.config.gamma, progress)
        weights = gmp_weights(V, owners.pointers)
        return {**owned, "vectors": V, "weights": weights, **self.prepared(W, V, shown, scratch, progress)}

    @abstractmethod
    def prepared(
        self, W: sparse.csr_array, V: np.ndarray, shown: np.ndarray, scratch: Path, progress: Progress
    ) -> State:
        """What is kept of the graph W f32[R, R] of the vectors V f32[R, D]."""

    @abstractmethod
    def spread(
        self, y: np.ndarray, hidden: list[np.ndarray], initial: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """What seeds diffuse to: f f32[R, Q] of y f32[R, Q], and the largest residual.

        hidden: the rows, ascending, that are not there for each query; initial: f32[R, Q], the similarity of
        each row to the query, -inf where hidden.
        """

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``fit`` returned."""
        self.owners = Owners.of_state(state)
        self.vectors, self.weights = np.asarray(state["vectors"]), np.asarray(state["weights"])
        self.image = self.owners.image_of(np.arange(self.owners.rows))

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        """The best k images of each query. Warns where conjugate gradients were stopped far from the solution."""
        R = self.owners.rows
        vectors = [values_of(q.codes, self.vectors.shape[1] if R else None, self.name) for q in queries]
        if not R:
            return Hits.stack([(np.empty(0, np.int64), np.empty(0, np.float32), None)] * len(queries), k)
        removed = self.owners.removed(data)
        hidden = [self.owners.hidden(query, removed) for query in queries]
        most = max((len(q) for q in vectors), default=1)
        step = max(1, min(QUERIES, CELLS // (R * max(most, 1))))
        ranked, worst = [], 0.0
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            some, residual = self._ranked(vectors[part], hidden[part], k)
            ranked += some
            worst = max(worst, residual)
        if worst:
            warn_of(worst, self.config.iterations, "raise searcher.iterations or lower searcher.alpha")
        return Hits.stack(ranked, k)

    def _ranked(self, queries: list[np.ndarray], hidden: list[np.ndarray], k: int) -> tuple[list[Any], float]:
        shape = (self.owners.rows, len(queries))
        y, initial = np.zeros(shape, np.float32), np.empty(shape, np.float32)
        for j, (s, gone) in enumerate(zip(self._similarities(queries), hidden, strict=True)):
            s[:, gone] = -np.inf
            initial[:, j] = s.max(axis=0, initial=-np.inf)
            rows, strength = seeds(s, self.config.kq, self.config.gamma)
            y[rows, j] = strength
        f, residual = self.spread(y, hidden, initial)
        return [self._best(f[:, j], initial[:, j], k) for j in range(len(queries))], residual

    def _similarities(self, queries: list[np.ndarray]) -> list[np.ndarray]:
        """The products of each query's rows with all vectors: f32[M, R] a query."""
        stacked = np.concatenate(queries)
        products = np.empty((len(stacked), len(self.vectors)), np.float32)
        for first in range(0, len(self.vectors), ROWS):
            part = slice(first, first + ROWS)
            np.matmul(stacked, self.vectors[part].T, out=products[:, part])
        return np.split(products, np.cumsum([len(q) for q in queries])[:-1])

    def _best(self, f: np.ndarray, initial: np.ndarray, k: int) -> Any:
        """The best k images by pooled f, then by initial similarity."""
        rows = np.flatnonzero(f > 0)
        f, image = f[rows], self.image[rows]
        change = leads(image)
        starts, place = np.flatnonzero(change), np.cumsum(change) - 1
        peak = np.maximum.reduceat(f, starts) if len(rows) else f
        leading = np.flatnonzero(f == peak[place])
        best = leading[leads(place[leading])]  # the first such region of each image
        if self.config.pool == "max" or not len(rows):
            pooled = peak
        else:
            pooled = np.add.reduceat(f * self.weights[rows] if self.config.pool == "gmp" else f, starts)
        reached = pooled > 0
        scores = np.minimum(initial - 1, 0)
        scores[self.owners.rows_of(image[starts[reached]])] = -np.inf
        scores[rows[best[reached]]] = pooled[reached]
        kept = Best(k, self.owners)
        kept.add(0, scores)
        return self.owners.ranked(kept.rows, kept.scores, k)
