"""NetVLAD as its authors published it, in small MATLAB files of their layout, against plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
from torch import nn

from instsearch_cli.data import FeatureMap, Grid
from instsearch_cli.errors import InstsearchError
from instsearch_cli.measure.matfile import read_mat
from instsearch_cli.progress import Quiet
from instsearch_plugins.encoders.netvlad import NetVLAD, published
from instsearch_plugins.extractors.networks import MEAN, STD, VGG16
from instsearch_plugins.numeric import matconvnet
from instsearch_plugins.numeric.matconvnet import is_matlab, read_layer, read_vgg16

D, K, d = 5, 3, 4
CPU = torch.device("cpu")
NOTHING: Any = None


def cells(*items: Any) -> np.ndarray:
    """A cell array of one row."""
    found = np.empty((1, len(items)), object)
    found[0] = [*items, None][:-1]
    return found


def layer(kind: str, name: str, *weights: np.ndarray) -> dict[str, Any]:
    return {"type": kind, "name": name} | ({"weights": cells(*weights)} if weights else {})


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def head(version: int = 1, white: bool = True) -> list[dict[str, Any]]:
    """The layers behind the convolutions, as addLayers.m and addPCA.m make them."""
    w, c, b = draw(1, 1, D, K, seed=1), draw(1, 1, D, K, seed=2), draw(1, K, seed=3)
    U = np.linalg.qr(draw(K * D, d, seed=4))[0] / np.array([1, 2, 3, 4], np.float32)
    mu = draw(K * D, 1, seed=5)
    vlad = (w, -c) if version == 1 else (w, b, -c)
    layers = [
        layer("normalize", "preL2"),
        layer("custom", "vlad:core", *vlad),
        layer("normalize", "vlad:intranorm"),
        layer("custom", "postL2"),
    ]
    if white:
        layers += [layer("conv", "WPCA", U.reshape(1, 1, K * D, d), -U.T @ mu), layer("custom", "finalL2")]
    return layers


def write(path: Path, layers: list[Any], **meta: Any) -> Path:
    meta = {"normalization": {"averageImage": np.float32([[[120, 110, 100]]])}} | meta
    scipy.io.savemat(path, {"net": {"layers": cells(*layers), "meta": meta}}, do_compression=True)
    return path


def authors(x: np.ndarray, layers: list[dict[str, Any]]) -> np.ndarray:
    """What MATLAB computes of x [h, w, D], in loops: layerVLAD, intra-normalisation, postL2, WPCA, finalL2."""
    w, *b, offset = layers[1]["weights"][0]
    y = np.zeros((1, K, D))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            v = x[i, j] / np.linalg.norm(x[i, j])
            p = np.array([w[0, 0, :, k] @ v + (b[0][0, k] if b else 0) for k in range(K)])
            a = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
            for k in range(K):
                y[0, k] += a[k] * (v + offset[0, 0, :, k])
    for k in range(K):
        y[0, k] /= np.linalg.norm(y[0, k])
    flat = y.flatten(order="F")
    flat /= np.linalg.norm(flat)
    if len(layers) < 5:
        return flat
    U, bias = layers[4]["weights"][0]
    z = np.array([sum(U[0, 0, i, j] * flat[i] for i in range(K * D)) for j in range(d)]) + bias[:, 0]
    return np.asarray(z / np.linalg.norm(z))


def code(encoder: NetVLAD, x: np.ndarray) -> torch.Tensor:
    """The code of a map [h, w, D]."""
    state = encoder.fit(NOTHING, Quiet())
    encoder.load({name: np.asarray(value) for name, value in state.items()})
    X = torch.from_numpy(x).permute(2, 0, 1)
    features = FeatureMap(X, Grid(x.shape[0], x.shape[1], (16, 16, 0, 0)))
    return encoder.aggregate(features, None, None).vectors[0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_code_is_that_of_the_authors(tmp_path: Path, version: int) -> None:
    layers, x = head(version), draw(3, 4, D, seed=9)
    path = write(tmp_path / "net.mat", layers)
    found = code(NetVLAD(NetVLAD.Config(weights=str(path)), CPU), x)
    np.testing.assert_allclose(found, authors(x, layers), atol=2e-5)
    two = code(NetVLAD(NetVLAD.Config(weights=str(path), dims=2), CPU), x)
    np.testing.assert_allclose(two, found[:2] / found[:2].norm(), atol=2e-5)
    raw = code(NetVLAD(NetVLAD.Config(weights=str(path), whiten=False), CPU), x)
    plain = authors(x, layers[:4]).reshape(D, K).T.ravel()
    np.testing.assert_allclose(raw, plain, atol=2e-5)


def test_a_layer_without_whitening_and_other_things_in_the_file(tmp_path: Path) -> None:
    import scipy.sparse

    meta = {"odd": scipy.sparse.csc_matrix(np.eye(3)), "complex": np.array([1j])}
    path = write(tmp_path / "net.mat", head(white=False), **meta)
    found = published(path)
    assert found.whitening is None
    np.testing.assert_array_equal(found.words.c, draw(1, 1, D, K, seed=2)[0, 0].T)
    np.testing.assert_array_equal(found.words.w, draw(1, 1, D, K, seed=1)[0, 0].T)
    assert not found.words.b.any()
    with pytest.raises(ValueError, match=r"class 5|complex"):
        read_mat(path.read_bytes(), ["net"])
    lenient = read_mat(path.read_bytes(), ["net"], lenient=True)["net"][0]["meta"][0]
    assert lenient["odd"] is lenient["complex"] is None


def trunk(C: tuple[int, ...]) -> tuple[list[dict[str, Any]], nn.Sequential]:
    """The convolutions of a small VGG-16 as MatConvNet has them, and as torch."""
    torch.manual_seed(0)
    layers: list[dict[str, Any]] = []
    modules: list[nn.Module] = []
    for before, after in zip((3, *C), C, strict=False):
        conv = nn.Conv2d(before, after, 3, padding=1)
        assert conv.bias is not None
        w, b = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        layers += [layer("conv", "c", w.transpose(2, 3, 1, 0), b[:, None]), layer("relu", "r")]
        modules += [conv, nn.ReLU()]
    return layers[:-1], nn.Sequential(*modules[:-1])


def test_the_convolutions_see_what_they_saw(tmp_path: Path) -> None:
    layers, network = trunk((2,) * 12 + (D,))
    path = write(tmp_path / "net.mat", layers + head())
    state = read_vgg16(path, MEAN, STD)
    assert [name for name in state if name.endswith("weight")] == [
        name for name, p in VGG16.build().named_parameters() if "features" in name and p.ndim == 4
    ]
    assert VGG16.import_weights(path).keys() == state.keys()
    u = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 40, 40))).float()
    m, s = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    saw = u - torch.tensor([120.0, 110.0, 100.0])[:, None, None]
    wanted = F.conv2d(saw, network[0].weight, network[0].bias)  # no border
    found = F.conv2d((u / 255 - m) / s, state["features.0.weight"], state["features.0.bias"])
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
    for number, place in zip(matconvnet.VGG16[1:], range(2, 26, 2), strict=True):
        assert torch.equal(state[f"features.{number}.weight"], network[place].weight)
        assert torch.equal(state[f"features.{number}.bias"], network[place].bias)


def test_other_files_are_named(tmp_path: Path) -> None:
    layers, _ = trunk((2, D))
    vlad = head()[1]
    wrong = vlad | {"weights": cells(draw(1, 1, D, K), draw(1, 1, D, K + 1))}
    for other, said in (
        (layers, "no NetVLAD layer: of its 2 layers with weights 0 have"),
        ([*layers, wrong], r"made a struct|make it a struct"),
        ([vlad, vlad], "2 have words"),
        ([vlad, layer("conv", "W", draw(1, 1, 7, d), draw(d, 1))], r"no whitening \[1, 1, 15, d\]"),
        ([vlad, layer("conv", "W", draw(1, 1, K * D, d), draw(d + 1, 1))], "with 5 biases"),
        ([vlad, layer("conv", "W", np.ones((1, 1, K * D, d), "f4"), draw(d, 1))], "no PCA"),
    ):
        with pytest.raises(InstsearchError, match=said):
            read_layer(write(tmp_path / "net.mat", other))
    scipy.io.savemat(tmp_path / "x.mat", {"other": np.eye(2)})
    with pytest.raises(InstsearchError, match=r"no net\.layers"):
        read_layer(tmp_path / "x.mat")
    with pytest.raises(InstsearchError, match="not VGG-16: 2 convolutions"):
        read_vgg16(write(tmp_path / "net.mat", [*layers, vlad]), MEAN, STD)
    small, _ = trunk((2,) * 13)
    with pytest.raises(InstsearchError, match="averageImage"):
        read_vgg16(write(tmp_path / "net.mat", small, normalization=1), MEAN, STD)
    (tmp_path / "7.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform" + bytes(600))
    assert is_matlab(tmp_path / "7.mat")
    with pytest.raises(InstsearchError, match=r"a 7\.3 one\.\n.*-v7"):
        published(tmp_path / "7.mat")
    cut = write(tmp_path / "cut.mat", head()).read_bytes()
    (tmp_path / "cut.mat").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(InstsearchError, match="cannot be read"):
        published(tmp_path / "cut.mat")


def test_objects_are_said_to_be_made_structs(tmp_path: Path) -> None:
    """A layer of class 17, as MATLAB writes objects, in place of a struct."""
    path = write(tmp_path / "net.mat", head(), extra="x")
    scipy.io.savemat(path, {"net": {"layers": cells(*head()), "meta": {}}})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"vlad:core")
    flags = raw.rindex(b"\x06\x00\x00\x00\x08\x00\x00\x00\x02\x00\x00\x00", 0, at) + 8
    raw[flags] = 17
    path.write_bytes(raw)
    with pytest.raises(InstsearchError, match=r"struct\(net\.layers\{i\}\)"):
        published(path)
