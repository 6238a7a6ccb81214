"""Diffusion worked out beforehand (Yang, Hinami, Matsui, Ly and Satoh, "Efficient image retrieval via decoupling
diffusion into online and offline processing", AAAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError
from instsearch_formats import Array
from instsearch_plugins.numeric.graph import conjugate_gradient, normalised
from instsearch_plugins.numeric.ranking import Appended
from instsearch_plugins.numeric.symmetric import Symmetric
from instsearch_plugins.searchers.graph_search import DAMAGED, TOLERANCE, GraphSearch, warn_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from instsearch_cli.components import Progress, State

LATE, EARLY = "late", "early"
TOGETHER = 1 << 16  # unknowns solved for at once
LISTED = 1 << 22  # neighbours listed at once


class Apart:
    """I - alpha S_q for Q graphs of m nodes each, S_q f[m, m]: column q of x is multiplied by the q-th."""

    def __init__(self, graphs: list[sparse.csr_array], alpha: float) -> None:
        self.alpha, m = alpha, graphs[0].shape[0]  # pyright: ignore[reportOptionalSubscript]
        ends = np.concatenate([W.indices + q * m for q, W in enumerate(graphs)])
        counts = np.concatenate([np.diff(W.indptr) for W in graphs])
        pointers = np.concatenate([[0], counts.cumsum()]).astype(ends.dtype)
        n = len(counts)
        values = np.concatenate([S.data for S in graphs])
        self.S = Symmetric(sparse.csr_array((values, ends, pointers), shape=(n, n)))

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        product: np.ndarray = (self.S @ x.T.ravel()).reshape(x.shape[1], x.shape[0]).T
        return x - self.alpha * product


def columns(
    W: sparse.csr_array, near: np.ndarray, of: np.ndarray, alpha: float, iterations: int, early: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What one node of each of Q subgraphs diffuses to within it.

    (I - alpha S_q) f_q = e_of(q),  S_q = W_q = W[near(q), near(q)],  early: S_q = D_q^(-1/2) W_q D_q^(-1/2)

    W: f32[n, n] symmetric, :func:`normalised` as a whole but for ``early``; near: i64[Q, m], ascending, of(q) i64[Q]
    among near(q). Returns f f32[Q, m] and the residuals f64[Q].
    """
    b = (near == of[:, None]).astype(W.dtype)
    graphs = [W[rows][:, rows] for rows in near]
    A = Apart([normalised(S) for S in graphs] if early else graphs, alpha)
    f, residuals = conjugate_gradient(A, b.T, tol=TOLERANCE, max_iter=iterations)
    return f.T, residuals


def nearest_rows(V: np.ndarray, m: int) -> Iterator[tuple[int, np.ndarray]]:
    """The m nearest rows of each row, ascending, itself always among them: (first row, i64[n, m]) by parts."""
    import faiss

    V = np.ascontiguousarray(V, np.float32)
    step = max(1, LISTED // max(m, 1))
    for first in range(0, len(V), step):
        near = faiss.knn(V[first : first + step], V, m, metric=faiss.METRIC_INNER_PRODUCT)[1]
        itself = np.arange(first, first + len(near))
        crowded = (near != itself[:, None]).all(axis=1)  # out of its list, by as many equal vectors
        near[crowded, -1] = itself[crowded]
        near.sort(axis=1)
        yield first, near


class OfflineDiffusion(GraphSearch):
    """score(i) = pooled f over the rows of image i, f = sum_j y_j f_j, each column f_j solved for beforehand.

    f_j is what `diffusion` makes of vector j alone (:func:`columns`), among the ``truncate`` vectors nearest to it; y
    is that of `diffusion` (:func:`seeds`), and so is everything else. A query takes a sum of ``kq`` sparse columns in
    place of solving anything.

    The columns take 8 * ``truncate`` bytes a vector on disk, which a search reads only the ``kq`` of, and time
    with the square of the vectors. They are made with all images of the segment: one that is excluded for a query,
    or removed later, sets off nothing and is not returned, but it has passed on what it had by then. Measure with
    `diffusion` where a protocol excludes images.
    """

    name: ClassVar[str] = "offline-diffusion"
    learns: ClassVar[dict[str, Array]] = GraphSearch.learns | {
        "columns": Array("f4", ("E",), unread=True),
        "reached": Array("i4 i8", ("E",), unread=True),
        "bounds": Array("i8", ("R+1",), climbs="E"),
    }

    @dataclass(frozen=True)
    class Config(GraphSearch.Config):
        """Options of ``offline-diffusion``."""

        alpha: float = option(0.99, touches="search")  #: how far it goes: 0 stays at the seeds, below 1
        iterations: int = option(20, touches="search")  #: of conjugate gradients, at most
        truncate: int = option(1000, touches="search")  #: nearest vectors that each vector diffuses among
        #: late, by weights that all vectors have a part in, as in the paper; early: as if there were no others
        truncation: str = option(LATE, touches="search")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.iterations < 1 or not 0 <= self.alpha < 1:
                raise ValueError("iterations is at least 1, alpha at least 0 and below 1")
            if self.truncate < 1:
                raise ValueError("truncate is at least 1")
            if self.truncation not in (LATE, EARLY):
                raise ValueError(f"truncation is late or early, not {self.truncation!r}")

    config: Config

    def prepared(
        self, W: sparse.csr_array, V: np.ndarray, shown: np.ndarray, scratch: Path, progress: Progress
    ) -> State:
        """The columns: columns f32[nnz] at the rows reached i32[nnz], bounds i64[R + 1]. Warns as `diffusion` does."""
        config = self.config
        values = Appended(scratch / "columns", np.float32)
        reached = Appended(scratch / "reached", np.int32 if len(V) < 2**31 else np.int64)
        counts, place, worst = np.zeros(len(V), np.int64), np.flatnonzero(shown), 0.0
        m = min(config.truncate, len(place))
        if len(place) < len(V):
            V, W = V[place], W[place][:, place]
        if not (early := config.truncation == EARLY):
            W = normalised(W)
        progress.start("diffusing each vector", len(place), "vectors")
        step = max(1, TOGETHER // max(m, 1))
        for first, near in nearest_rows(V, m) if m else ():
            for at in range(0, len(near), step):
                rows = near[at : at + step]
                of = np.arange(first + at, first + at + len(rows))
                f, residuals = columns(W, rows, of, config.alpha, config.iterations, early)
                counts[place[of]] = (f != 0).sum(axis=1)
                values.append(f[f != 0])
                reached.append(place[rows[f != 0]])
                worst = max(worst, float(residuals.max()))
                progress.advance(len(rows))
        warn_of(worst, config.iterations, "raise searcher.iterations or lower searcher.alpha")
        bounds = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        return {"columns": values.array(), "reached": reached.array(), "bounds": bounds}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``fit`` returned, the columns unread."""
        super().load(state)
        self.columns, self.reached = np.asanyarray(state["columns"]), np.asanyarray(state["reached"])
        self.bounds = np.asarray(state["bounds"])

    def spread(
        self, y: np.ndarray, hidden: list[np.ndarray], initial: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Sums of columns; the residual has been looked at when they were made."""
        f = np.zeros_like(y)
        for j, gone in enumerate(hidden):
            total = np.zeros(len(y), np.float32)
            for row in np.flatnonzero(y[:, j]).tolist():
                part = slice(self.bounds[row], self.bounds[row + 1])
                rows = self.reached[part]
                column = self.columns[part]
                if len(rows) and not (0 <= rows.min() <= rows.max() < len(y) and np.isfinite(column).all()):
                    raise InstsearchError(DAMAGED)
                total[rows] += y[row, j] * column
            total[gone] = 0
            f[:, j] = total
        return f, 0.0
