"""PCL against plain loops: pooled proposals, refinements, what is kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from instsearch_cli.data import Image, Inputs
from instsearch_cli.errors import InstsearchError
from instsearch_cli.testing import DetectorContract
from instsearch_plugins.detectors.pcl import MEAN, PCL, PCLNetwork

CPU = torch.device("cpu")
SIZE = (96, 64)


@pytest.fixture(scope="module")
def network() -> PCLNetwork:
    torch.manual_seed(0)
    network = PCLNetwork(classes=3, hidden=8).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, (2 / parameter[0].numel()) ** 0.5)
    return network


@pytest.fixture(scope="module")
def weights(network: PCLNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the authors' code writes it."""
    path = tmp_path_factory.mktemp("pcl") / "model_step1.pth"
    torch.save({"step": 1, "model": network.state_dict(), "optimizer": {"state": {}}}, path)
    return path


def inputs(seed: int = 0) -> Inputs:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return Inputs(size=SIZE, image=Image(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), SIZE))


def pooled(X: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Maxima of 7 x 7 bins of whole cells, as Fast R-CNN's pooling takes them; an empty bin is 0."""
    C, h, w = X.shape
    x0, y0, x1, y1 = (math.floor(v / 8 + 0.5) for v in box)
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    out = np.zeros((C, 7, 7), np.float32)
    for i in range(7):
        for j in range(7):
            top, bottom = (min(max(v + y0, 0), h) for v in (i * height // 7, -(-(i + 1) * height // 7)))
            left, right = (min(max(v + x0, 0), w) for v in (j * width // 7, -(-(j + 1) * width // 7)))
            if top < bottom and left < right:
                out[:, i, j] = X[:, top:bottom, left:right].max((1, 2))
    return out


def test_scores_are_the_mean_of_three_refinements(network: PCLNetwork) -> None:
    X = torch.rand(1, 512, 8, 12)
    boxes = torch.tensor([[0.0, 0, 95, 63], [10, 5, 50, 40], [60, 33, 66, 39]])
    with torch.inference_mode():
        p = network(X, boxes)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    for r, box in enumerate(boxes.tolist()):
        f = pooled(X[0].numpy(), tuple(box)).reshape(-1)
        for layer in ("fc1", "fc2"):
            f = np.maximum(state[f"Box_Head.{layer}.weight"] @ f + state[f"Box_Head.{layer}.bias"], 0)
        mean = np.zeros(4)
        for k in range(3):
            name = f"Box_Refine_Outs.refine_score.{k}"
            z = state[f"{name}.weight"] @ f + state[f"{name}.bias"]
            mean += np.exp(z - z.max()) / np.exp(z - z.max()).sum() / 3
        np.testing.assert_allclose(p[r].numpy(), mean, atol=1e-5)


def test_the_body_is_a_vgg16_of_stride_8(network: PCLNetwork) -> None:
    x = torch.randn(1, 3, 32, 40)
    state = network.Conv_Body.state_dict()
    y = x
    for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        for k in range(convolutions):
            wide = 1 + (block == 5)
            weight, bias = (state[f"conv{block}.{2 * k}.{part}"] for part in ("weight", "bias"))
            y = F.relu(F.conv2d(y, weight, bias, padding=wide, dilation=wide))
        y = F.max_pool2d(y, 2) if block < 4 else y
    with torch.inference_mode():
        torch.testing.assert_close(network.Conv_Body(x), y)
    assert y.shape[2:] == (4, 5)


def test_regions_are_the_best_of_their_class(weights: Path) -> None:
    detector = PCL(PCL.Config(weights=str(weights), side=64, min_score=0.0), CPU)
    given = inputs()
    regions = detector.detect(given)
    assert regions.classes is not None
    assert (regions.scores[:-1] >= regions.scores[1:]).all()
    assert set(regions.classes.tolist()) <= {1, 2, 3}
    for i, a in enumerate(regions.boxes.tolist()):
        for j, b in enumerate(regions.boxes.tolist()[:i]):
            if regions.classes[i] == regions.classes[j]:
                both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                areas = ((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
                assert both / (sum(areas) - both) <= 0.3 + 1e-6
    [best] = (
        PCL(PCL.Config(weights=str(weights), side=64, min_score=0.999), CPU).detect(given).scores.tolist()
    )
    assert best == pytest.approx(float(regions.scores[0]))


def test_the_network_sees_bgr_less_its_means(weights: Path) -> None:
    detector = PCL(PCL.Config(weights=str(weights), side=64), CPU)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 0] = 200
    x = detector._input(pixels)
    assert x.shape == (1, 3, 64, 96)
    np.testing.assert_allclose(x[0, :, 5, 5].numpy(), [-MEAN[0], -MEAN[1], 200 - MEAN[2]], rtol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"features.0.weight": torch.zeros(64, 3, 3, 3)}}, tmp_path / "vgg.pth")
    with pytest.raises(InstsearchError, match=r"no tensor 'Conv_Body\.conv1"):
        PCL(PCL.Config(weights=str(tmp_path / "vgg.pth"), side=64), CPU).detect(inputs())


class TestPCL(DetectorContract):
    component = PCL

    @pytest.fixture(autouse=True)
    def _weights(self, weights: Path) -> None:
        self.options = {"weights": str(weights), "side": 64}


def test_a_long_picture_is_not_enlarged_without_bounds(weights: Path) -> None:
    detector = PCL(PCL.Config(weights=str(weights)), CPU)
    sizes = [(448, 1), (1, 448), (448, 299), (1, 1)]
    found = [tuple(detector._input(np.zeros((h, w, 3), np.uint8)).shape[2:]) for w, h in sizes]
    assert found == [(32, 1920), (1920, 32), (480, 719), (480, 480)]


def test_a_file_of_other_shapes_is_said(network: PCLNetwork, tmp_path: Path) -> None:
    state = network.state_dict() | {"Box_Refine_Outs.refine_score.0.weight": torch.tensor(1.0)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InstsearchError, match="has shape"):
        PCL(PCL.Config(weights=str(tmp_path / "x.pth")), CPU).detect(inputs())
