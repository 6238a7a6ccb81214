"""Diffusion of similarity over the collection (Iscen, Tolias, Avrithis, Furon and Chum, CVPR 2017).

The query is not in the graph: it sets off the diffusion at the vectors nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scipy import sparse

from instsearch_cli.components import option
from instsearch_cli.data import Hits
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.graph import Laplacian, conjugate_gradient, mutual_graph
from instsearch_plugins.numeric.ranking import Best, Owners
from instsearch_plugins.searchers.dense import gather, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Query

ROWS = 1 << 16  # vectors compared at once
QUERIES = 16  # queries diffused at once
CELLS = 1 << 26  # similarities held at once, unless one query has more
TOLERANCE = 1e-6
LAMBDA = 1.0
DAMAGED = "the graph is damaged: run `instsearch verify`, then `instsearch index` again"


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


class Diffusion:
    """score(i) = pooled f over the rows of image i, where (I - alpha D^(-1/2) W D^(-1/2)) f = y.

    W is the graph of mutual neighbours among the vectors (:func:`mutual_graph`), y the query's similarity to
    its nearest ones (:func:`seeds`); conjugate gradients, at most ``iterations`` of them as published, which
    leaves f approximate. An image that nothing diffuses to comes after all others, in the order of its initial
    similarity, with a score of that less one; so codes are to have unit length. A hit's box is that of the
    image's best region. The paper's setting for several regions an image is k = kq = 200.

    Excluded images are not there: they set off nothing, pass nothing on, and D leaves them out. The lists of
    neighbours are not made again without them, though, neither for a query nor after images were removed.

    Each segment of the index has its own graph, and images of two segments are no neighbours. Images added
    later make a segment of their own until `instsearch index` merges it with one of like size: where it
    matters, index a collection in one go. Making the graph takes time with the square of the vectors, memory
    in proportion to them.
    """

    accepts: ClassVar[tuple[str, ...]] = ("vectors",)

    @dataclass(frozen=True)
    class Config:
        k: int = option(50, touches="search")  #: nearest vectors that may be neighbours, itself among them
        gamma: float = option(3.0, touches="search")  #: similarities are raised to this power
        kq: int = option(10, touches="query")  #: vectors nearest to the query that set off the diffusion
        alpha: float = option(0.99, touches="query")  #: how far it goes: 0 stays at the seeds, below 1
        iterations: int = option(20, touches="query")  #: of conjugate gradients, at most
        #: an image's score of its regions': their largest, their sum, or by generalised max pooling
        pool: Literal["gmp", "sum", "max"] = option("gmp", touches="query")
        #: diffuse among so many vectors nearest to the query only, quicker in large collections; 0: among all
        truncate: int = option(0, touches="query")

        def __post_init__(self) -> None:
            if self.k < 1 or self.kq < 1 or self.iterations < 1 or self.gamma <= 0:
                raise ValueError("k, kq and iterations are at least 1, gamma is above 0")
            if not 0 <= self.alpha < 1:
                raise ValueError("alpha is at least 0 and below 1")
            if self.truncate and self.truncate < self.kq:
                raise ValueError("truncate is 0 or at least kq")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def fit(self, data: Data, progress: Progress) -> State:
        """Build the graph over the segment's vectors, those of removed images left alone.

        Returns vectors f32[R, D]; the graph's rows as edges f32[nnz], ends and pointers; components i32[R], its
        connected components; weights f32[R], the regions' for gmp; and the owners of the rows.
        """
        owned, V = gather(data, data.scratch(), progress)
        owners = Owners.of_state(owned)
        shown = np.ones(owners.rows, bool)
        shown[owners.removed(data)] = False
        progress.start("building the graph", int(shown.sum()), "vectors")
        W = mutual_graph(V if shown.all() else V[shown], self.config.k, self.config.gamma, progress.advance)
        if not shown.all():
            place = np.flatnonzero(shown).astype(W.indices.dtype)
            counts = np.zeros(owners.rows, np.int64)
            counts[shown] = np.diff(W.indptr)
            indptr = np.concatenate([[0], counts.cumsum()]).astype(W.indptr.dtype)
            W = sparse.csr_array((W.data, place[W.indices], indptr), shape=(owners.rows, owners.rows))
        return {
            **owned,
            "vectors": V,
            "edges": W.data,
            "ends": W.indices,
            "pointers": W.indptr,
            "components": _components(W),
            "weights": gmp_weights(V, owners.pointers),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.owners = Owners.of_state(state)
        self.vectors, self.weights = np.asarray(state["vectors"]), np.asarray(state["weights"])
        self.components = np.asarray(state["components"])
        R = self.owners.rows
        graph = (np.asarray(state["edges"]), np.asarray(state["ends"]), np.asarray(state["pointers"]))
        try:
            self.W = sparse.csr_array(graph, shape=(R, R))
            self.W.check_format(full_check=True)  # compiled code trusts it
        except ValueError as error:
            raise InstsearchError(DAMAGED) from error
        if not len(self.vectors) == len(self.weights) == len(self.components) == R:
            raise InstsearchError(DAMAGED)
        if R and not 0 <= self.components.min() <= self.components.max() < R:
            raise InstsearchError(DAMAGED)
        self.image = self.owners.image_of(np.arange(R))

    def search(self, queries: Sequence[Query], data: Data, k: int) -> Hits:
        R = self.owners.rows
        vectors = [values_of(q.codes, self.vectors.shape[1] if R else None, "diffusion") for q in queries]
        if not R:
            return Hits.stack([(np.empty(0, np.int64), np.empty(0, np.float32), None)] * len(queries), k)
        removed = self.owners.removed(data)
        hidden = [self.owners.hidden(query, removed) for query in queries]
        most = max((len(q) for q in vectors), default=1)
        step = max(1, min(QUERIES, CELLS // (R * max(most, 1))))
        ranked = []
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            ranked += self._ranked(vectors[part], hidden[part], k)
        return Hits.stack(ranked, k)

    def _ranked(self, queries: list[np.ndarray], hidden: list[np.ndarray], k: int) -> list[Any]:
        shape = (self.owners.rows, len(queries))
        y, shown, initial = np.zeros(shape, np.float32), np.ones(shape, bool), np.empty(shape, np.float32)
        for j, (s, gone) in enumerate(zip(self._similarities(queries), hidden, strict=True)):
            s[:, gone] = -np.inf
            shown[gone, j] = False
            initial[:, j] = s.max(axis=0, initial=-np.inf)
            rows, strength = seeds(s, self.config.kq, self.config.gamma)
            y[rows, j] = strength
        if self.config.truncate:
            near = [largest(initial[:, j], self.config.truncate) for j in range(len(queries))]
            columns = [self._diffused(y[:, [j]], shown[:, [j]], rows) for j, rows in enumerate(near)]
            f = np.concatenate(columns, axis=1)
        else:
            f = self._diffused(y, shown)
        return [self._best(f[:, j], initial[:, j], k) for j in range(len(queries))]

    def _similarities(self, queries: list[np.ndarray]) -> list[np.ndarray]:
        """The products of each query's rows with all vectors: f32[M, R] a query."""
        stacked = np.concatenate(queries)
        products = np.empty((len(stacked), len(self.vectors)), np.float32)
        for first in range(0, len(self.vectors), ROWS):
            part = slice(first, first + ROWS)
            np.matmul(stacked, self.vectors[part].T, out=products[:, part])
        return np.split(products, np.cumsum([len(q) for q in queries])[:-1])

    def _diffused(self, y: np.ndarray, shown: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        """f f32[R, Q] of y f32[R, Q]; diffused among the rows ``near`` only, where these are given.

        Nothing leaves the components of the graph that the seeds are in: where these are few, the system is
        solved on them alone, which changes nothing but the time it takes.
        """
        reached = np.zeros(len(self.components), bool)
        reached[self.components[y.any(axis=1)]] = True
        if near is None:
            rows = np.flatnonzero(reached[self.components])
        else:
            rows = np.sort(near[reached[self.components[near]]])
        whole = near is None and 2 * len(rows) > len(y)
        f = np.zeros_like(y)
        at: Any = slice(None) if whole else rows
        W = self.W if whole else self.W[rows][:, rows]
        A = Laplacian(W, self.config.alpha, shown[at])
        f[at] = conjugate_gradient(A, y[at], tol=TOLERANCE, max_iter=self.config.iterations).x
        return f

    def _best(self, f: np.ndarray, initial: np.ndarray, k: int) -> Any:
        """The best k images by pooled f, then by initial similarity."""
        rows = np.flatnonzero(f > 0)
        f, image = f[rows], self.image[rows]
        change = np.diff(image, prepend=-1) > 0
        starts, place = np.flatnonzero(change), np.cumsum(change) - 1
        peak = np.maximum.reduceat(f, starts) if len(rows) else f
        leading = np.flatnonzero(f == peak[place])
        best = leading[np.diff(place[leading], prepend=-1) > 0]  # the first such region of each image
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


def _components(W: sparse.csr_array) -> np.ndarray:
    """The connected component of each node, numbered: i32[n]."""
    from scipy.sparse.csgraph import connected_components

    labels: np.ndarray = connected_components(W, directed=False)[1]
    return labels.astype(np.int32)
