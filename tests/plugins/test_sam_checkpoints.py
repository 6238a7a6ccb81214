"""SAM's checkpoints: files of the authors' layout, whose networks scipy computes with Theano's convolutions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.networks.importing import import_weights
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.numeric.checkpoints_keras import turned
from instsearch_plugins.weighters import sam_network
from instsearch_plugins.weighters.sam import SamResNet, SamVGG, keras_layers, network_input, restored
from instsearch_plugins.weighters.sam_network import gaussian_priors, upsample
from sam_published import GATES, SMALL_RESNET, SMALL_VGG, draw, published, save

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("component", [SamVGG, SamResNet])


@pytest.fixture
def small(monkeypatch):
    """The same networks with few channels."""
    monkeypatch.setattr(sam_network, "CHANNELS", 4)
    monkeypatch.setattr(sam_network, "BLOCKS", SMALL_VGG)
    monkeypatch.setattr(sam_network, "STAGES", SMALL_RESNET)


# Theano's arithmetic, by scipy.


def theano(x, arrays, dilation=1, stride=1):
    """True convolution, border mode "same"."""
    w, *b = arrays.values() if isinstance(arrays, dict) else arrays
    spread = np.zeros((*w.shape[:2], *(dilation * (k - 1) + 1 for k in w.shape[2:])))
    spread[:, :, ::dilation, ::dilation] = w
    out = [sum(convolve2d(c, k, "same") for c, k in zip(x, kernels, strict=True)) for kernels in spread]
    return (np.stack(out) + (b[0][:, None, None] if b else 0))[:, ::stride, ::stride]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normalised(x, arrays):
    gamma, beta, mean, variance = (v[:, None, None] for v in arrays.values())
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def vgg(x, p):
    for b, (_, count) in enumerate(SMALL_VGG, 1):
        for i in range(1, count + 1):
            x = relu(theano(x, p[f"block{b}_conv{i}"], 2 if b == 5 else 1))
        if b < 5:
            x = pool(x, 2, 1 if b == 4 else 2, 0 if b < 3 else 1)
    return x


def resnet(x, p):
    x = pool(relu(normalised(theano(x, p["conv1"], stride=2), p["bn_conv1"])), 3, 2, 1)
    for stage, (_, count, stride, dilation) in enumerate(SMALL_RESNET, 2):
        for block in "abcdef"[:count]:
            name, s = f"{stage}{block}_branch", stride if block == "a" else 1
            y = relu(normalised(theano(x, p[f"res{name}2a"], stride=s), p[f"bn{name}2a"]))
            y = relu(normalised(theano(y, p[f"res{name}2b"], dilation), p[f"bn{name}2b"]))
            y = normalised(theano(y, p[f"res{name}2c"]), p[f"bn{name}2c"])
            if block == "a":
                x = normalised(theano(x, p[f"res{name}1"], stride=s), p[f"bn{name}1"])
            x = relu(y + x)
    return relu(theano(x, p["convolution2d_1"]))


def convlstm(x, arrays):
    names = [f"{m}_a{x}" for m in "WU" for x in ("", "b")] + ["V_a"]
    names += [f"{m}_{g}{x}" for g in GATES for m in "WU" for x in ("", "b")]
    p = dict(zip(names, arrays, strict=True))

    def conv(name, y):
        return theano(y, [p[name], p[f"{name}b"]])

    h = c = np.zeros_like(x)
    for _ in range(4):
        z = theano(np.tanh(conv("W_a", h) + conv("U_a", x)), [p["V_a"]])
        seen = x * np.exp(z) / np.exp(z).sum()
        i, f, g, o = (conv(f"W_{q}", seen) + conv(f"U_{q}", h) for q in GATES)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def predicted(component, x, p):
    x = (vgg if component is SamVGG else resnet)(x, p)
    x = convlstm(x, p["attentiveconvlstm_1"].values())
    for n in (1, 2):
        gaussians = torch.from_numpy(p[f"learningprior_{n}"][f"learningprior_{n}_W"])
        maps = gaussian_priors(gaussians, *x.shape[1:]).numpy()
        x = relu(theano(np.concatenate([x, maps]), p[f"atrousconvolution2d_{n}"], 4))
    last = "convolution2d_12" if component is SamVGG else "convolution2d_13"
    return upsample(torch.from_numpy(relu(theano(x, p[last])))[None])[0, 0].numpy()


def pool(x, k, stride, before):
    """Maxima of windows k x k that begin ``before`` the first value."""
    h, w = (-(-n // stride) for n in x.shape[1:])
    x = np.pad(x, ((0, 0), (before, k), (before, k)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))[:, ::stride, ::stride]
    return windows.max((3, 4))[:, :h, :w]


def on_meta(component):
    with torch.device("meta"):
        return component.build()


@BOTH
def test_layers_of_the_real_networks_are_the_published_ones(component):
    mine = keras_layers(on_meta(component).state_dict())
    theirs = {
        layer: [shape for _, shape in arrays] for layer, arrays in published(component, False) if arrays
    }
    last = list(theirs)[-1]
    theirs["convolution2d_1" if component is SamVGG else "convolution2d_2"] = theirs.pop(last)
    assert {layer: [tuple(x.shape) for x in arrays] for layer, arrays in mine.items()} == theirs


@pytest.mark.parametrize("k", [1, 3, 5])
def test_turned_kernels_convolve(k):
    rng = np.random.default_rng(k)
    x, w = rng.random((6, 7)), rng.random((1, 1, k, k))
    y = torch.nn.functional.conv2d(
        torch.from_numpy(x)[None, None], turned(torch.from_numpy(w)), padding=k // 2
    )
    np.testing.assert_allclose(y[0, 0].numpy(), convolve2d(x, w[0, 0], "same"))


@BOTH
@pytest.mark.parametrize("seed", [1, 2])
def test_published_layout_computes_what_theano_does(small, tmp_path, component, seed):
    p = draw(published(component), seed)
    state = component.import_weights(save(tmp_path / "salicon_weights.pkl", p))
    network = component.build()
    network.load_state_dict(state)
    x = np.random.default_rng(seed).uniform(-2, 2, (3, 24, 40)).astype(np.float32)
    with torch.inference_mode():
        features = network.eval().features(torch.from_numpy(x)[None])[0].numpy()
        y = network(torch.from_numpy(x)[None])[0, 0].numpy()
    expected = (vgg if component is SamVGG else resnet)(x.astype(np.float64), p)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features, expected, atol=1e-5 * expected.max())
    expected = predicted(component, x.astype(np.float64), p)
    assert y.shape == (48, 80)
    assert expected.max() - expected.min() > 0.05  # something got through
    np.testing.assert_allclose(y, expected, atol=1e-4 * expected.max())


@BOTH
def test_other_layouts_of_the_same_weights(small, tmp_path, component):
    """A whole saved model; one saved late in a session; doubles; our own state dict."""
    p = draw(published(component))
    state = component.import_weights(save(tmp_path / "a.pkl", p))

    def later(name):
        kind, _, n = name.rpartition("_")
        known = ("convolution2d", "atrousconvolution2d", "attentiveconvlstm", "learningprior")
        return f"{kind}_{int(n) + 24}" if kind in known else name

    save(tmp_path / "b.h5", p, "model_weights")
    save(tmp_path / "c.hdf5", {later(layer): arrays for layer, arrays in p.items()})
    save(tmp_path / "d", {k: {n: x.astype(">f8") for n, x in v.items()} for k, v in p.items()})
    torch.save(state, tmp_path / "e.pth")
    assert set(state) == set(component.build().state_dict())
    for name in ("b.h5", "c.hdf5", "d", "e.pth"):
        other = component.import_weights(tmp_path / name)
        assert set(other) == set(state)
        assert all(torch.equal(other[key], state[key]) for key in state), name


@BOTH
def test_weighter_end_to_end(small, tmp_path, component):
    p = draw(published(component), 1)
    done = import_weights(component, save(tmp_path / "w.pkl", p), tmp_path / "imported")
    rng = np.random.default_rng(3)
    pixels = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (60, 45))
    weighter = component(component.Config(weights=str(done.path)), CPU)
    grid = Grid.over(3, 4, (120, 90))
    weights = weighter.weigh(Inputs(size=(120, 90), grid=grid, image=Image(pixels, (120, 90))))
    saliency = weighter.saliency(pixels)
    assert saliency.shape == (45, 60)
    assert saliency.dtype == np.uint8
    with torch.inference_mode():
        raw = weighter.network(network_input(pixels))[0, 0].numpy()
    assert raw.shape == (480, 640)
    assert raw.max() > raw.min()
    np.testing.assert_array_equal(saliency, restored(raw, 45, 60))
    torch.testing.assert_close(weights.values, block_max(saliency, 3, 4)[None])
    assert weights.grid is grid
