"""Products with a symmetric sparse matrix, however they are made, and its order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from instsearch_plugins.numeric import symmetric
from instsearch_plugins.numeric.symmetric import Symmetric, reordered


def made(n, density, seed):
    half = sparse.random_array((n, n), density=density, rng=np.random.default_rng(seed), format="csr")
    return sparse.csr_array(half + half.T).astype(np.float32)


@given(
    seed=st.integers(0, 99),
    n=st.integers(0, 60),
    Q=st.integers(0, 3),
    few=st.booleans(),
    mkl=st.booleans(),
    density=st.sampled_from([0, 0.05, 0.5]),
)
def test_product(seed, n, Q, few, mkl, density):
    W, rng = made(n, density, seed), np.random.default_rng(seed)
    x = rng.normal(size=(n, Q) if Q else n).astype(np.float32)
    if few:
        x[rng.permutation(n)[: n - n // 20]] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetric, "MKL", symmetric.MKL and mkl)
        product = Symmetric(W) @ x
    assert product.dtype == np.float32
    assert product.shape == x.shape
    np.testing.assert_allclose(product, W.toarray() @ x, atol=1e-4)


def test_memory_that_is_only_read():
    W = made(30, 0.3, 0)
    for array in (W.data, W.indices, W.indptr):
        array.flags.writeable = False
    np.testing.assert_allclose(Symmetric(W) @ np.ones(30, np.float32), W.toarray().sum(1), rtol=1e-5)


@pytest.mark.parametrize(("n", "density"), [(0, 0), (1, 0), (50, 0), (50, 0.02), (50, 0.3)])
def test_order(n, density):
    W = made(n, density, 3)
    moved, order = reordered(W)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(moved.toarray(), W.toarray()[np.ix_(order, order)])
    if n:
        label = connected_components(moved, directed=False)[1]
        assert (np.diff(label) != 0).sum() == label.max()
