"""What an approximate index of faiss finds, scored by what it knows, and again by the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dense_codes import Codes, clustered, fitted, found, query
from instsearch_cli.progress import Quiet
from instsearch_formats.declared import check
from instsearch_plugins.searchers.faiss_index import Faiss


def test_a_vector_that_did_not_come_upon_an_image_counts_its_least(tmp_path):
    """Two rows are asked for: the first vector finds 1 and 0.9, the second 0.8 and 0.7."""
    codes = Codes(clustered(700, 16), [1] * 700, folder=tmp_path)
    searcher = fitted(codes, "IVF16,Flat", "nprobe=16")
    rows, scores = np.array([[3, 5], [5, 9]]), np.array([[1, 0.9], [0.8, 0.7]], np.float32)
    images, best = searcher._gathered(codes.rows[:2], scores, rows, rows >= 0)
    assert images.tolist() == [3, 5, 9]
    np.testing.assert_allclose(best, [1.7, 1.7, 1.6], rtol=1e-6)
    images, best = searcher._gathered(codes.rows[:2], scores, rows, np.array([[True, False], [False, False]]))
    assert images.tolist() == [3]
    assert best.tolist() == [1]


@pytest.mark.parametrize("several", [1, 3])
def test_what_is_found_is_scored_again_by_its_own_vectors(tmp_path, several):
    """All rows again: as exact search has it. Some: exact scores of what there is, better than without."""
    codes = Codes(clustered(900, 16), [3] * 300, folder=tmp_path)
    q = codes.rows[[5, 77, 400][:several]] + 0.1
    expected = codes.best(q, 20)
    ranks = []
    for refine in (0, 100, 900):
        searcher = Faiss(Faiss.Config("IVF8,PQ4x4", "nprobe=8", refine=refine), torch.device("cpu"))
        state = searcher.fit(codes, Quiet())
        check(state, Faiss.learns, n=300, start=0)
        assert ("kept" in state) == bool(refine)
        searcher.load(state)
        got = found(searcher, codes, query(q), 20)
        exact = {i: s for i, s, _ in codes.best(q, 300)}
        if refine == 900:
            assert [(i, box) for i, _, box in got] == [(i, box) for i, _, box in expected]
            np.testing.assert_allclose([s for _, s, _ in got], [s for _, s, _ in expected], rtol=2e-3)
        if refine and several == 1:
            np.testing.assert_allclose([s for _, s, _ in got], [exact[i] for i, *_ in got], rtol=2e-3)
        ranks.append(len({i for i, *_ in got} & {i for i, *_ in expected}))
    assert ranks[0] < ranks[1] <= ranks[2] == 20
