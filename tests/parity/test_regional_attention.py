"""Regional attention as its authors' code has it: their file's layout, and every step of their test, spelt out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from instsearch_cli.engine import listing
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks import importing
from instsearch_cli.networks.weights import load_state_dict, sha256
from instsearch_plugins.encoders.regional_attention import RegionalAttention
from instsearch_plugins.encoders.regional_attention_network import ContextAttention
from region_collection import CELLS, GRIDDED, IMAGES, Collection, bare, fitted

C = len(IMAGES[0].values)


def published(C: int = C, D: int = 3) -> dict[str, Tensor]:
    """Two convolutions along one axis, of one place each, by the authors' names."""
    torch.manual_seed(4)
    layers = {"conv_att_1": nn.Conv1d(2 * C, D, 1), "conv_att_2": nn.Conv1d(D, 1, 1)}
    return {f"{name}.{k}": 4 * v for name, layer in layers.items() for k, v in layer.state_dict().items()}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The published network with as many channels as these maps."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
    monkeypatch.setattr(RegionalAttention, "build", classmethod(lambda cls: ContextAttention(C, 3)))


def step_by_step(
    x: np.ndarray, state: dict[str, Tensor], hidden: str, mean: Any, projection: Any
) -> np.ndarray:
    """The authors' test on a map f64[C, h, w], one region after the other.

    Its largest values, less the mean, turned, to unit length; the means of the region and of the map through two
    layers; the mean of all regions by what they count; unit length.
    """
    W1, b1, W2, b2 = (state[f"conv_att_{i}.{k}"].double().numpy() for i in (1, 2) for k in ("weight", "bias"))
    total = np.zeros(projection.shape[1])
    for x0, y0, x1, y1 in CELLS.tolist():
        part = x[:, y0:y1, x0:x1]
        both = np.concatenate([part.mean((1, 2)), x.mean((1, 2))])
        u = W1[..., 0] @ both + b1
        u = np.tanh(u) if hidden == "tanh" else np.log1p(np.exp(u))
        k = np.log1p(np.exp(W2[..., 0] @ u + b2))
        v = (part.max((1, 2)) - mean) @ projection
        total += k * v / np.linalg.norm(v)
    total /= len(CELLS)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("hidden", ["tanh", "softplus"])
def test_the_authors_steps(tmp_path: Path, hidden: str) -> None:
    torch.save(published(), tmp_path / "theirs.pth")
    options = {"weights": str(tmp_path / "theirs.pth"), "hidden": hidden, "raw": True, "dims": 5}
    encoder = fitted(RegionalAttention, Collection(IMAGES), **options)
    mean, projection = (x.double().numpy() for x in encoder.whitening)
    for image in IMAGES[:3]:
        wanted = step_by_step(image.values.double().numpy(), published(), hidden, mean, projection)
        (code,) = encoder.aggregate(image, None, GRIDDED).vectors
        np.testing.assert_allclose(code, wanted, atol=2e-5)


def test_the_published_file_is_imported(tmp_path: Path, narrow: None) -> None:
    theirs = tmp_path / "ContextAwareRegionalAttention_weights.pth"
    torch.save(published(), theirs)
    done = listing.import_weights("regional-attention", theirs)
    assert done.path == importing.default_folder() / "regional-attention.pth"
    assert done.parameters == 2 * C * 3 + 3 + 3 + 1
    state = load_state_dict(done.path)
    for ours, name in (("context", "conv_att_1"), ("score", "conv_att_2")):
        assert torch.equal(state[f"{ours}.weight"], published()[f"{name}.weight"][..., 0])
        assert torch.equal(state[f"{ours}.bias"], published()[f"{name}.bias"])
    imported = bare(RegionalAttention)  # found where it was put
    assert imported.identity() == {"weights": sha256(done.path)} == {"weights": done.sha256}
    direct = bare(RegionalAttention, weights=str(theirs))
    torch.testing.assert_close(
        imported.aggregate(IMAGES[0], None, GRIDDED).vectors,
        direct.aggregate(IMAGES[0], None, GRIDDED).vectors,
    )


def test_the_whole_of_their_network_has_it_too(tmp_path: Path, narrow: None) -> None:
    """As a part of a larger network, and under "state_dict"."""
    whole = {f"region_attention.{k}": v for k, v in published().items()}
    torch.save({"state_dict": whole}, tmp_path / "whole.pth")
    state = RegionalAttention.import_weights(tmp_path / "whole.pth")
    assert sorted(state) == ["context.bias", "context.weight", "score.bias", "score.weight"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (published(C + 1), "'context.weight' has shape"),
        ({k: v for k, v in published().items() if k != "conv_att_2.bias"}, "1 of 4 tensors are missing"),
        (published() | {"fc.weight": torch.zeros(2)}, "1 others are in it, 'fc.weight' first"),
        (published() | {"conv_att_2.bias": torch.tensor([torch.inf])}, "not finite"),
        (published() | {"conv_att_1.weight": torch.zeros(3, 2 * C, 2)}, "'context.weight' has shape"),
    ],
)
def test_what_is_not_the_published_file(
    tmp_path: Path, narrow: None, state: dict[str, Tensor], message: str
) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InstsearchError, match=message):
        listing.import_weights("regional-attention", tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InstsearchError, match=r"y\.pth"):
        listing.import_weights("regional-attention", tmp_path / "y.pth")


def test_the_published_network() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in RegionalAttention.build().state_dict().items()}
    assert shapes == {
        "context.weight": (64, 4096),
        "context.bias": (64,),
        "score.weight": (1, 64),
        "score.bias": (1,),
    }
