"""Graphs of mutual nearest neighbours, and what diffuses over them.

Diffusion: Iscen, Tolias, Avrithis, Furon and Chum, "Efficient diffusion on region manifolds", CVPR 2017.
Centrality: Siméoni, Iscen, Tolias, Avrithis and Chum, "Unsupervised object discovery for instance
recognition", WACV 2018, section 4.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

QUERIES = 4096  # vectors whose neighbours are sought at once


def knn(
    V: np.ndarray, k: int, advance: Callable[[int], None] | None = None, index: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of V that each row has the largest inner product with; among them, as a rule, itself.

    V: f32[n, D], memory-mapped will do; exact, or by a faiss ``index`` that holds its rows. Returns the products
    f32[n, k] and the rows i64[n, k], best first, with k = n where there are fewer rows; where an index finds
    fewer the row is -1. ``advance`` is told of every so many rows that are done.
    """
    import faiss

    n = len(V)
    k = min(k, n)
    products, rows = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    V = np.ascontiguousarray(V, np.float32)
    for first in range(0, n if k else 0, QUERIES):
        part = slice(first, first + QUERIES)
        if index is not None:
            products[part], rows[part] = index.search(V[part], k)
        else:
            products[part], rows[part] = faiss.knn(V[part], V, k, metric=faiss.METRIC_INNER_PRODUCT)
        if advance:
            advance(len(V[part]))
    return products, rows


def mutual_graph(
    V: np.ndarray, k: int, gamma: float, advance: Callable[[int], None] | None = None, index: Any = None
) -> sparse.csr_array:
    """The weights of the mutual k-nearest-neighbour graph.

    W_ij = max(<v_i, v_j>, 0)^gamma where i != j and each is among the k nearest rows of the other, else 0

    V: f32[n, D]. As in the authors' code a row counts among its own k nearest, which leaves it k - 1
    neighbours at most. Neighbours are sought by ``index``, if given (:func:`knn`). Returns f32[n, n], symmetric,
    at most n (k - 1) entries, all positive.
    """
    n = len(V)
    products, rows = knn(V, k, advance, index)
    s = np.maximum(products, 0) ** np.float32(gamma)
    s[(rows == np.arange(n)[:, None]) | (rows < 0)] = 0
    np.maximum(rows, 0, out=rows)
    narrow = np.int32 if s.size < 2**31 else np.int64  # products wait for the memory
    indptr = np.arange(n + 1, dtype=narrow) * rows.shape[1]
    nearest: Any = sparse.csr_array((s.ravel(), rows.ravel().astype(narrow), indptr), shape=(n, n))
    nearest.eliminate_zeros()
    nearest.sort_indices()
    W = nearest.minimum(nearest.T.tocsr())  # 0 unless both are there; symmetric to the last bit
    W.eliminate_zeros()
    W.sort_indices()
    return W


def inverse_root(D: np.ndarray) -> np.ndarray:
    """D^(-1/2), 0 where D is 0."""
    root = np.sqrt(D)
    inverse: np.ndarray = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
    return inverse


def normalised(W: sparse.csr_array) -> sparse.csr_array:
    """D^(-1/2) W D^(-1/2) with D = diag(W 1); rows without neighbours stay zero."""
    degrees = W @ np.ones(W.shape[0], W.dtype)  # pyright: ignore[reportOptionalSubscript]
    c = sparse.diags_array(inverse_root(degrees))
    return (c @ W @ c).tocsr()


class Laplacian:
    """I - alpha D^(-1/2) W D^(-1/2) as an operator, for Q right-hand sides, each over its own nodes.

    W: f[n, n], sparse or :class:`~instsearch_plugins.numeric.symmetric.Symmetric`; shown: bool[n, Q]. A node that
    is not shown to a column is not in that column's graph: D sums the weights to shown nodes only, and the hidden
    node's row is that of I. W itself is neither copied nor changed.
    """

    def __init__(self, W: Any, alpha: float, shown: np.ndarray | None = None) -> None:
        self.W, self.alpha = W, alpha
        shown = np.ones((W.shape[0], 1), W.dtype) if shown is None else shown.astype(W.dtype)
        self.c = shown * inverse_root(self._times(shown))

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        y = self._times(self.c * x)
        y *= self.c
        y *= -self.alpha
        y += x
        return y

    def _times(self, x: np.ndarray) -> np.ndarray:
        """W x; the product with one vector is quicker than that with a matrix of one column."""
        product: np.ndarray = (self.W @ x[:, 0])[:, None] if x.shape[1] == 1 else self.W @ x
        return product


class Solution(NamedTuple):
    """x f[n, Q] and ||b - A x|| / ||b|| of each column f64[Q]."""

    x: np.ndarray
    residuals: np.ndarray


def conjugate_gradient(
    A: Any, b: np.ndarray, x0: np.ndarray | None = None, tol: float = 1e-6, max_iter: int = 20
) -> Solution:
    """Solve A x = b for several right-hand sides at once, each by conjugate gradients of its own.

    A: symmetric, positive definite, anything with ``A @ x`` (a sparse matrix, a :class:`Laplacian`);
    b, x0: f[n, Q]; x0 is 0 without it. A column rests once its residual is at most ``tol`` ||b||, so that its
    solution does not depend on its companions; all stop after ``max_iter`` iterations.

    Reference: Hestenes and Stiefel, 1952.
    """
    x = np.zeros_like(b) if x0 is None else x0.astype(b.dtype)
    r = b.copy() if x0 is None else b - A @ x
    p = r.copy()
    squared, length = _dots(r, r), _dots(b, b)
    for _ in range(max_iter):
        active = squared > tol**2 * length
        if not active.any():
            break
        Ap = A @ p
        curvature = _dots(p, Ap)
        active &= curvature > 0
        step = np.divide(squared, curvature, out=np.zeros_like(squared), where=active).astype(b.dtype)
        x += step * p
        r -= step * Ap
        after = np.where(active, _dots(r, r), squared)
        p *= np.divide(after, squared, out=np.zeros_like(squared), where=squared > 0).astype(b.dtype)
        p += r
        squared = after
    return Solution(x, np.sqrt(np.divide(squared, length, out=squared.copy(), where=length > 0)))


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The inner products of the columns: f64[Q]."""
    products: np.ndarray = np.einsum("nq,nq->q", x, y, dtype=np.float64)
    return products


def centrality(W: sparse.csr_array, alpha: float, tol: float = 1e-6, max_iter: int = 1000) -> np.ndarray:
    """Katz centrality of each node.

    (I - alpha D^(-1/2) W D^(-1/2)) / (1 - alpha) g = 1

    W: f[n, n] as :func:`mutual_graph` makes it, 0 <= alpha < 1. Returns g f64[n]; a node without neighbours
    has 1 - alpha. Warns, with the residual, where conjugate gradients do not get to ``tol``.
    """
    b = np.full((W.shape[0], 1), 1.0 - alpha)  # pyright: ignore[reportOptionalSubscript]
    g, residuals = conjugate_gradient(Laplacian(W.astype(np.float64), alpha), b, tol=tol, max_iter=max_iter)
    if residuals[0] > tol:
        warnings.warn(
            f"centrality is approximate: after {max_iter} iterations the residual is {residuals[0]:.1e}, "
            f"above {tol:.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    return g[:, 0]
