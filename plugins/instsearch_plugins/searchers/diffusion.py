"""Diffusion of similarity over the collection (Iscen, Tolias, Avrithis, Furon and Chum, CVPR 2017).

The query is not in the graph: it sets off the diffusion at the vectors nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError
from instsearch_formats import Array
from instsearch_plugins.numeric.graph import Laplacian, conjugate_gradient
from instsearch_plugins.numeric.symmetric import Symmetric, reordered
from instsearch_plugins.searchers.graph_search import DAMAGED, TOLERANCE, GraphSearch, largest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.components import Progress, State


class Diffusion(GraphSearch):
    """score(i) = pooled f over the rows of image i, where (I - alpha D^(-1/2) W D^(-1/2)) f = y.

    W is the graph of mutual neighbours among the vectors (:func:`mutual_graph`), y the query's similarity to
    its nearest ones (:func:`seeds`); conjugate gradients, at most ``iterations`` of them as published, which
    leaves f approximate. An image that nothing diffuses to comes after all others, in the order of its initial
    similarity, with a score of that less one; so codes are to have unit length. A hit's box is that of the
    image's best region. `regional-diffusion` is this with the paper's setting for several regions an image.

    Excluded images are not there: they set off nothing, pass nothing on, and D leaves them out. The lists of
    neighbours are not made again without them, though, neither for a query nor after images were removed.

    Each segment of the index has its own graph, and images of two segments are no neighbours. Images added
    later make a segment of their own until `instsearch index` merges it with one of like size: where it
    matters, index a collection in one go. Making the graph takes time with the square of the vectors, memory
    in proportion to them.
    """

    name: ClassVar[str] = "diffusion"
    learns: ClassVar[dict[str, Array]] = GraphSearch.learns | {
        "edges": Array("f4", ("E",)),
        "ends": Array("i4 i8", ("E",), below="R"),
        "pointers": Array("i4 i8", ("R+1",), climbs="E"),
        "components": Array("i4", ("R",), below="R"),
        "order": Array("i4 i8", ("R",), group="order", below="R"),
    }

    @dataclass(frozen=True)
    class Config(GraphSearch.Config):
        """Options of ``diffusion``."""

        alpha: float = option(0.99, touches="query")  #: how far it goes: 0 stays at the seeds, below 1
        iterations: int = option(20, touches="query")  #: of conjugate gradients, at most
        #: diffuse among so many images nearest to the query only, quicker in large collections; 0: among all
        truncate: int = option(0, touches="query")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.iterations < 1 or not 0 <= self.alpha < 1:
                raise ValueError("iterations is at least 1, alpha at least 0 and below 1")
            if self.truncate and self.truncate < self.kq:
                raise ValueError("truncate is 0 or at least kq")

    config: Config

    def prepared(
        self, W: sparse.csr_array, V: np.ndarray, shown: np.ndarray, scratch: Path, progress: Progress
    ) -> State:
        """The graph in an order of its own: edges f32[nnz], ends and pointers of the rows of W[order][:, order].

        And components i32[R], the connected component of each of these nodes.
        """
        W, order = reordered(W)
        return {
            "edges": W.data,
            "ends": W.indices,
            "pointers": W.indptr,
            "components": _components(W),
            "order": order,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what ``fit`` returned. Raises InstsearchError where it cannot be so."""
        super().load(state)
        R = self.owners.rows
        self.components = np.asarray(state["components"])
        self.order = np.asarray(state.get("order", np.arange(R)))  # the first graphs were stored as they were
        graph = (np.asarray(state["edges"]), np.asarray(state["ends"]), np.asarray(state["pointers"]))
        self.W = sparse.csr_array(graph, shape=(R, R))
        if (np.bincount(self.order, minlength=R) != 1).any():
            raise InstsearchError(DAMAGED)
        self.product = Symmetric(self.W)
        self.node = np.empty(R, np.int64)
        self.node[self.order] = np.arange(R)

    def spread(
        self, y: np.ndarray, hidden: list[np.ndarray], initial: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """f of the whole graph, or, truncated, of that of the nearest images alone."""
        shown = np.ones(y.shape, bool)
        for j, gone in enumerate(hidden):
            shown[gone, j] = False
        if not self.config.truncate:
            return self._diffused(y, shown)
        f, worst = np.zeros_like(y), 0.0
        for j in range(y.shape[1]):
            near = self._near(initial[:, j])
            f[:, [j]], residual = self._diffused(y[:, [j]], shown[:, [j]], near)
            worst = max(worst, residual)
        return f, worst

    def _near(self, initial: np.ndarray) -> np.ndarray:
        """All rows, ascending, of the images whose best row is nearest to the query."""
        if self.owners.single:
            return np.sort(largest(initial, self.config.truncate))
        owning = np.flatnonzero(np.diff(self.owners.pointers))
        best = np.maximum.reduceat(initial, self.owners.pointers[owning])
        return self.owners.rows_of(np.sort(owning[largest(best, self.config.truncate)]))

    def _diffused(
        self, y: np.ndarray, shown: np.ndarray, near: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        """f f32[R, Q] of y f32[R, Q]; diffused among the rows ``near`` only, where these are given.

        Nothing leaves the components of the graph that the seeds are in: where these are few, the system is
        solved on them alone, which changes nothing but the time it takes.
        """
        y, shown = y[self.order], shown[self.order]
        reached = np.zeros(len(self.components), bool)
        reached[self.components[y.any(axis=1)]] = True
        if near is None:
            nodes = np.flatnonzero(reached[self.components])
        else:
            nodes = np.sort(self.node[near])
            nodes = nodes[reached[self.components[nodes]]]
        whole = near is None and 2 * len(nodes) > len(y)
        f = np.zeros_like(y)
        at: Any = slice(None) if whole else nodes
        A = Laplacian(self.product if whole else self.W[nodes][:, nodes], self.config.alpha, shown[at])
        f[at], residuals = conjugate_gradient(A, y[at], tol=TOLERANCE, max_iter=self.config.iterations)
        return f[self.node], float(residuals.max(initial=0))


def _components(W: sparse.csr_array) -> np.ndarray:
    """The connected component of each node, numbered: i32[n]."""
    from scipy.sparse.csgraph import connected_components

    labels: np.ndarray = connected_components(W, directed=False)[1]
    return labels.astype(np.int32)
