"""Weighted query expansion, and the same for every vector of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsearch_plugins.numeric.graph import knn

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 1 << 13  # vectors augmented at once


def augmented(V: np.ndarray, k: int, alpha: float, shown: np.ndarray) -> Iterator[np.ndarray]:
    """Database-side augmentation: each vector with its k nearest ones, itself not among them.

    v_i' = L2(v_i + sum_{j in N_k(i)} max(<v_i, v_j>, 0)^alpha v_j)

    V: f32[n, D], shown: bool[n]; alpha = 0 weighs alike, as the first publications do. Rows that are not shown
    are nobody's neighbours and stay as they are. All are made of the original rows. Yields v' f32[<= ROWS, D],
    block by block; a sum of zero stays zero.

    References: Arandjelović and Zisserman, CVPR 2012; Gordo et al., IJCV 2017; weights as Radenović et al., 2019.
    """
    place = np.flatnonzero(shown)
    U = V if len(place) == len(V) else V[place]
    products, rows = knn(U, k + 1)
    others = rows != np.arange(len(U))[:, None]
    others[others.all(axis=1), -1:] = False  # where equal vectors crowd a row itself out of its list
    shape = (len(U), max(rows.shape[1] - 1, 0))
    products, rows = products[others].reshape(shape), rows[others].reshape(shape)
    weights = np.ones_like(products) if alpha == 0 else np.maximum(products, 0) ** np.float32(alpha)
    for first in range(0, len(V), ROWS):
        block = V[first : first + ROWS].astype(np.float32)
        near = slice(*np.searchsorted(place, (first, first + len(block))))
        total = block[place[near] - first]
        for j in range(rows.shape[1]):
            total += weights[near, j, None] * U[rows[near, j]]
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        block[place[near] - first] = total / np.where(norm > 0, norm, 1)
        yield block
