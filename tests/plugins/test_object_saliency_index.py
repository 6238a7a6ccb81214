"""Object saliency with approximate neighbours: an index that finds all, one that ends early, and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric import approximate
from instsearch_plugins.numeric.graph import knn, mutual_graph
from instsearch_plugins.weighters.object_saliency import ObjectSaliency
from saliency_scenes import CPU, SCENES, fitted, inputs_of, learnt, scene


@pytest.mark.parametrize("index", ["Flat", "IVF1,Flat", "HNSW16"])
def test_an_index_that_finds_all_changes_nothing(index, tmp_path):
    exact = fitted(SCENES, tmp_path)
    component, state = learnt(SCENES, tmp_path, index=index)
    component.load(state)
    assert (
        ("index" in state) == ("vectors" not in state) == (index != "IVF1,Flat" or len(state["images"]) >= 39)
    )
    for row, A in ((10, SCENES[0]), (-1, scene(99))):
        one, two = (c.weigh(inputs_of(A, row)).values for c in (exact, component))
        torch.testing.assert_close(one, two, atol=2e-3, rtol=0)


def test_own_regions_are_left_out_of_an_index_too(tmp_path):
    options = {"exclude_self": True, "patch_k": 3}
    one, two = fitted(SCENES, tmp_path, **options), fitted(SCENES, tmp_path, index="HNSW16", **options)
    for row in (10, 15):
        a, b = (c.weigh(inputs_of(SCENES[row - 10], row)).values for c in (one, two))
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_an_index_that_ends_early(tmp_path):
    """Of two lists it looks into one, so that it finds fewer than k."""
    rng = np.random.default_rng(0)
    centres = np.array([[4, 0, 0, 0], [-4, 0, 0, 0]], np.float32)
    V = (centres.repeat(60, 0) + rng.normal(size=(120, 4))).astype(np.float32)
    V /= np.linalg.norm(V, axis=1, keepdims=True)
    index = approximate.tuned(approximate.built(V, "IVF2,Flat"), "nprobe=1")
    _, rows = knn(V, 100, index=index)
    assert (rows < 0).any()
    W = mutual_graph(V, 100, 3, index=index)
    exact = mutual_graph(V, 100, 3).toarray()
    assert 0 < W.nnz < np.count_nonzero(exact)
    found = W.toarray() > 0
    np.testing.assert_allclose(W.toarray()[found], exact[found], rtol=1e-5)
    assert not W.toarray().diagonal().any()
    component = ObjectSaliency(ObjectSaliency.Config(search="nprobe=1", patch_k=50), CPU)
    component.load(
        {
            "mean": np.zeros(4, np.float32),
            "projection": np.eye(4, dtype=np.float32),
            "index": approximate.stored(index),
            "saliency": np.ones(120, np.float32),
            "centrality": np.ones(120, np.float32),
            "images": np.arange(120),
            "boxes": np.zeros((120, 4), np.float32),
        }
    )
    products, rows = component._nearest(torch.from_numpy(V[:3]), torch.tensor([7]))
    assert products.shape == rows.shape == (3, 50)
    assert 7 not in rows[products > -torch.inf]
    assert (rows >= 0).all()


@pytest.mark.parametrize("index", ["", "HNSW16"])
def test_pictures_side_by_side(index, tmp_path):
    component = fitted(SCENES, tmp_path, index=index)

    def weigh(i):
        return component.weigh(inputs_of(SCENES[i], 10 + i)).values

    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        together = list(pool.map(weigh, range(12)))
    for i, S in enumerate(together):
        torch.testing.assert_close(S, weigh(i), atol=1e-5, rtol=0)


def test_indexes_that_faiss_does_not_know(tmp_path):
    with pytest.raises(UsageError, match="faiss cannot build the index 'Nonsense'"):
        learnt(SCENES, tmp_path, index="Nonsense")
    with pytest.raises(UsageError, match="does not take 'nprobe=3'"):
        learnt(SCENES, tmp_path, index="HNSW16", search="nprobe=3")
    with pytest.raises(InstsearchError, match="damaged"):
        approximate.loaded(np.zeros(64, np.uint8), 64)
