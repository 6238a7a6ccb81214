"""DecomposeMe: its layers by plain loops, its table, its maps and its weights file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from instsearch_cli.errors import InstsearchError
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_plugins.extractors import decomposeme
from instsearch_plugins.extractors.decomposeme import DecomposeMe, DecomposeMeNetwork, decomposed
from instsearch_plugins.training.descent import he

CPU = torch.device("cpu")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DecomposeMeNetwork:
    """The network with a few channels; its file is the one that is found."""
    monkeypatch.setattr(decomposeme, "BLOCKS", ((4, 4), (4, 6), (6, 6), (8, 8), (8, 8)))
    monkeypatch.setattr(decomposeme, "CHANNELS", 10)
    torch.manual_seed(0)
    network = DecomposeMeNetwork()
    he(module for module in network.modules() if not any(module.children()))
    torch.save(network.state_dict(), tmp_path / "decomposeme.pth")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    return network.eval()


@pytest.mark.parametrize("d", [3, 5])
def test_a_decomposed_layer_by_plain_loops(d: int) -> None:
    C, F, h, w = 2, 3, 5, 4
    torch.manual_seed(0)
    layer = nn.Sequential(*decomposed(C, F, d))
    f = torch.randn(1, C, h, w)
    v, b, u, b2 = (p.detach().double().numpy() for p in layer.parameters())

    def at(maps: np.ndarray, c: int, y: int, x: int) -> float:
        return float(maps[c, y, x]) if 0 <= y < h and 0 <= x < w else 0.0

    a, g = np.zeros((F, h, w)), np.zeros((F, h, w))
    for maps, out, bias, vertical in ((f[0].double().numpy(), a, b, True), (a, g, b2, False)):
        for k in range(F):
            for y in range(h):
                for x in range(w):
                    total = bias[k]
                    for c in range(len(maps)):
                        for i in range(d):
                            weight = v[k, c, i, 0] if vertical else u[k, c, 0, i]
                            dy, dx = (i - d // 2, 0) if vertical else (0, i - d // 2)
                            total += weight * at(maps, c, y + dy, x + dx)
                    out[k, y, x] = max(0.0, total)
    assert np.allclose(layer(f)[0].detach().numpy(), g, atol=1e-6)
    assert sum(p.numel() for p in layer.parameters() if p.ndim > 1) == (C + F) * F * d


def test_the_table() -> None:
    with torch.device("meta"):
        network = DecomposeMeNetwork()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 1), (1, 3)] * 11
    widths = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512, 1024]
    assert [c.out_channels for c in convolutions] == [n for n in widths for _ in range(2)]
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 4
    parameters = sum(p.numel() for p in network.parameters())
    # (C + F) F 3 weights and 2 F biases a layer, and the linear one
    layers = sum((C + F) * F * 3 + 2 * F for C, F in zip([3, *widths], widths, strict=False))
    assert parameters == layers + 1025 * 1000 == 12_547_368
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_the_default_layer_is_conv5_1(narrow: DecomposeMeNetwork) -> None:
    convolutions = [(int(n), m) for n, m in narrow.features.named_children() if isinstance(m, nn.Conv2d)]
    at, horizontal = convolutions[2 * 9 - 1]  # the ninth layer's second
    assert horizontal.kernel_size == (1, 3)
    assert DecomposeMe.default == f"features.{at + 1}"
    assert isinstance(narrow.get_submodule(DecomposeMe.default), nn.ReLU)


def test_maps_logits_and_class_maps_of_one_pass(narrow: DecomposeMeNetwork) -> None:
    image = make_image(64, 48)
    extractor = DecomposeMe(DecomposeMe.Config(cam_layer=DecomposeMe.cam), CPU)
    (found,) = extractor.extract([image])
    with torch.inference_mode():
        x = extractor.prepare(torch.from_numpy(image.pixels)[None].permute(0, 3, 1, 2), torch.float32)
        maps = narrow.cam(narrow.features(x))
        expected = narrow.features[:40](x)
        logits = narrow(x)
    assert found.values.shape == (8, *(n // 16 for n in image.pixels.shape[:2]))
    assert torch.allclose(found.values, expected[0], atol=1e-5)
    assert found.cam is not None
    assert torch.allclose(found.cam, maps[0], atol=1e-5)
    assert found.logits is not None
    assert torch.allclose(found.logits, logits[0], atol=1e-4)
    w = narrow.state_dict()[DecomposeMe.head]  # the logits are the class maps' means, and the bias
    class_maps = torch.einsum("ck,khw->chw", w, found.cam)
    assert torch.allclose(class_maps.mean((1, 2)) + narrow.classifier.bias, found.logits, atol=1e-4)


def test_no_weights_and_another_networks(
    narrow: DecomposeMeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    extractor = DecomposeMe(DecomposeMe.Config(weights=str(tmp_path / "other.pth")), CPU)
    with pytest.raises(InstsearchError, match=r"other.pth: no tensor 'features.0.weight'"):
        extractor.extract([make_image(64, 48)])
    monkeypatch.delenv("INSTSEARCH_WEIGHTS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "empty"))
    with pytest.raises(InstsearchError, match="no weights for decomposeme"):
        DecomposeMe(DecomposeMe.Config(), CPU).identity()


class TestContract(ExtractorContract):
    component = DecomposeMe

    @pytest.fixture(autouse=True)
    def weights(self, narrow: DecomposeMeNetwork) -> None:
        """The file that is found."""
