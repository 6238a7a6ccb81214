"""NetVLAD against plain loops, its words, a published layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.data import FeatureMap, Grid, Inputs
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.progress import Quiet
from instsearch_plugins.encoders.netvlad import NetVLAD, published
from instsearch_plugins.numeric.netvlad import Vocabulary, netvlad, of_words, sharpness

CPU = torch.device("cpu")


class Collection:
    """Maps of some pictures."""

    encoder: Any = None
    weighter: Any = None

    def __init__(self, maps: list[torch.Tensor]) -> None:
        self.maps, self.images, self.span = maps, np.arange(len(maps)), range(len(maps))

    def inputs(self, kinds: Any, rows: Any = None) -> Any:
        for row in self.images if rows is None else rows:
            X = self.maps[int(row)]
            grid = Grid(X.shape[1], X.shape[2], (16, 16, 0, 0))
            yield Inputs(size=(64, 64), row=int(row), features=FeatureMap(X, grid), grid=grid)


@given(n=st.integers(1, 8), K=st.integers(1, 4), M=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_the_plain_loops(n: int, K: int, M: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, c, w, b = (rng.normal(size=shape) for shape in ((n, 3), (K, 3), (K, 3), (K,)))
    alpha = rng.random((M, n))
    wanted = []
    for m in range(M):
        parts = []
        for k in range(K):
            V = np.zeros(3)
            for i in range(n):
                e = [math.exp(w[j] @ x[i] + b[j]) for j in range(K)]
                V += alpha[m, i] * e[k] / sum(e) * (x[i] - c[k])
            parts.append(V / np.linalg.norm(V))
        wanted.append(np.concatenate(parts))
    words = Vocabulary(*(torch.from_numpy(part) for part in (c, w, b)))
    found = netvlad(torch.from_numpy(x), torch.from_numpy(alpha), words)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_thousands_of_regions_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, alpha, words = torch.randn(20, 3), torch.rand(9, 20), of_words(torch.randn(4, 3), 2.0)
    wanted, held = netvlad(x, alpha, words), []
    einsum = torch.einsum
    monkeypatch.setattr("instsearch_plugins.numeric.netvlad.HELD", 200)
    monkeypatch.setattr(
        torch, "einsum", lambda text, *parts: held.append(len(parts[0])) or einsum(text, *parts)
    )
    torch.testing.assert_close(netvlad(x, alpha, words), wanted)
    assert held == [2, 2, 2, 2, 1]


def test_the_nearest_word_gets_a_hundred_times_the_next() -> None:
    """Words at 0 and 1 on a line, a vector at .25: distances .0625 and .5625, alpha = log(100) / .5."""
    c, x = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.25]])
    alpha = sharpness(x, c)
    assert alpha == pytest.approx(math.log(100) / 0.5)
    words = of_words(c, alpha)
    a = torch.softmax(x @ words.w.T + words.b, 1)[0]
    assert float(a[0] / a[1]) == pytest.approx(100, rel=1e-3)
    assert sharpness(x, c[:1]) == 1


def maps(n: int, C: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(C, 3, 4, generator=generator) for _ in range(n)]


def test_words_are_learnt_and_a_picture_is_one_vector() -> None:
    data: Any = Collection(maps(12))
    encoder = NetVLAD(NetVLAD.Config(words=3, whiten=False), CPU)
    state = encoder.fit(data, Quiet())
    assert state["centroids"].shape == state["assigning"].shape == (3, 6)
    again = NetVLAD(NetVLAD.Config(words=3, whiten=False), CPU)
    again.load({k: np.asarray(v) for k, v in state.items()})
    features = next(data.inputs((), [0])).features
    (code,) = again.aggregate(features, None, None).vectors
    assert code.shape == (18,)
    assert float(code.norm()) == pytest.approx(1, abs=1e-5)
    whitened = NetVLAD(NetVLAD.Config(words=3, dims=4), CPU)
    whitened.load({k: np.asarray(v) for k, v in whitened.fit(data, Quiet()).items()})
    assert whitened.aggregate(features, None, None).vectors.shape == (1, 4)


def test_a_layer_of_the_common_port(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    c, w = torch.rand(3, 6, generator=generator), torch.rand(3, 6, 1, 1, generator=generator)
    state = {"pool.centroids": c, "pool.conv.weight": w, "encoder.0.weight": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "layer.pth")
    found = published(tmp_path / "layer.pth").words
    assert torch.equal(found.c, c)
    assert torch.equal(found.w, w[..., 0, 0])
    assert not found.b.any()
    data: Any = Collection(maps(3))
    encoder = NetVLAD(NetVLAD.Config(weights=str(tmp_path / "layer.pth"), whiten=False), CPU)
    learnt = encoder.fit(data, Quiet())
    assert torch.equal(learnt["centroids"], c)
    assert "weights" in encoder.identity()
    other = next(iter(Collection(maps(1, 5)).inputs(()))).features
    with pytest.raises(UsageError, match="local features of 6 values, these have 5"):
        encoder.pool(other.values, torch.ones(1, 3, 4))


def test_a_file_that_is_not_there_or_a_folder_is_said(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.pth", "does not exist"), (tmp_path, "is a folder")):
        encoder = NetVLAD(NetVLAD.Config(weights=str(path)), CPU)
        with pytest.raises(InstsearchError, match=said):
            encoder.identity()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"fc.weight": torch.ones(2, 3)}, "none is called centroids"),
        ({"pool.centroids": torch.ones(2, 3)}, r"pool.conv.weight none"),
        (
            {"pool.centroids": torch.ones(2, 3), "pool.conv.weight": torch.ones(3, 3, 1, 1)},
            r"of shape \[3, 3, 1, 1\]",
        ),
        ({"a.centroids": torch.ones(2, 3), "b.centroids": torch.ones(2, 3)}, "2 are called centroids"),
        ({"centroids": torch.ones(0, 3), "conv.weight": torch.ones(0, 3, 1, 1)}, r"of shape \[0, 3\]"),
        (
            {"centroids": torch.full((2, 3), torch.nan), "conv.weight": torch.ones(2, 3, 1, 1)},
            "6 values of tensor 'centroids' are not finite",
        ),
        (
            {"centroids": torch.ones(2, 3), "conv.weight": torch.full((2, 3, 1, 1), torch.inf)},
            "6 values of tensor 'conv.weight' are not finite",
        ),
    ],
)
def test_files_of_other_layouts_are_named(tmp_path: Path, state: dict[str, torch.Tensor], said: str) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InstsearchError, match=said):
        published(tmp_path / "x.pth")
