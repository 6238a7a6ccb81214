"""Quick products with one symmetric sparse matrix: rows in an order that suits the cache, products by MKL."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse

MKL = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
SHARE = 16  # few are fewer than one value of x for so many rows


def reordered(W: sparse.csr_array) -> tuple[sparse.csr_array, np.ndarray]:
    """The matrix with neighbours near each other, one connected component after the other.

    Returns W[order][:, order] and order i64[n], the reverse Cuthill-McKee one.

    Reference: Cuthill and McKee, "Reducing the bandwidth of sparse symmetric matrices", 1969.
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    if not W.shape[0]:  # pyright: ignore[reportOptionalSubscript]
        return W, np.empty(0, np.int64)
    order: np.ndarray = reverse_cuthill_mckee(sparse.csr_matrix(W), symmetric_mode=True).astype(np.int64)
    moved = W[order][:, order]
    moved.sort_indices()
    return moved, order


class Symmetric:
    """W f[n, n], symmetric and in CSR form, for ``W @ x`` with x f[n] or f[n, Q].

    Where few values of x are not zero, as while a diffusion sets out, only their rows of W are multiplied. W is neither
    copied nor changed.
    """

    def __init__(self, W: sparse.csr_array) -> None:
        self.W, self.shape, self.dtype = W, W.shape, W.dtype
        self._tensor = _tensor(W) if MKL and W.nnz else None

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        product: np.ndarray
        if SHARE * np.count_nonzero(x) < len(x):
            rows = np.flatnonzero(x if x.ndim == 1 else x.any(axis=1))
            product = self.W[rows].T @ x[rows]
        elif self._tensor is None:
            product = self.W @ x
        else:
            product = (self._tensor @ torch.from_numpy(x)).numpy()
        return product


def _tensor(W: sparse.csr_array) -> Any:
    """W as a tensor over the same memory."""
    with warnings.catch_warnings():  # of memory that is not to be written to, and that the type is young
        warnings.simplefilter("ignore", UserWarning)
        pointers, ends, edges = (torch.from_numpy(array) for array in (W.indptr, W.indices, W.data))
        return torch.sparse_csr_tensor(pointers, ends, edges, size=W.shape, check_invariants=False)
