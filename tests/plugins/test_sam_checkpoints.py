"""SAM's checkpoints: files of the authors' layout, whose networks scipy computes with Theano's convolutions."""

from __future__ import annotations

import math
import pickle  # noqa: TID251  (to write what others hand out)

import cv2
import h5py
import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from instsearch_cli.data import Grid, Image, Inputs
from instsearch_cli.errors import InstsearchError
from instsearch_cli.importing import import_weights
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.numeric.checkpoints_keras import turned
from instsearch_plugins.weighters import sam_network
from instsearch_plugins.weighters.sam import SamResNet, SamVGG, keras_layers, network_input, restored
from instsearch_plugins.weighters.sam_network import gaussian_priors, upsample

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("component", [SamVGG, SamResNet])
VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
RESNET = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4))
SMALL_VGG = ((2, 2), (2, 2), (3, 3), (3, 3), (4, 3))
SMALL_RESNET = ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4))
GATES = "ifco"


@pytest.fixture
def small(monkeypatch):
    """The same networks with few channels."""
    monkeypatch.setattr(sam_network, "CHANNELS", 4)
    monkeypatch.setattr(sam_network, "BLOCKS", SMALL_VGG)
    monkeypatch.setattr(sam_network, "STAGES", SMALL_RESNET)


# What the authors' Keras 1 program saves: layers in the order of their depth, (out, in, kh, kw) kernels.


def convolution(name, inputs, outputs, k):
    return name, [(f"{name}_W", (outputs, inputs, k, k)), (f"{name}_b", (outputs,))]


def normalisation(name, channels):
    return name, [
        (f"{name}_{part}", (channels,)) for part in ("gamma", "beta", "running_mean", "running_std")
    ]


def vgg_layers(blocks):
    layers, inputs = [("input_1", [])], 3
    for b, (outputs, count) in enumerate(blocks, 1):
        for i in range(1, count + 1):
            layers.append(convolution(f"block{b}_conv{i}", inputs, outputs, 3))
            inputs = outputs
        if b < 5:
            layers.append((f"block{b}_pool", []))
    return layers


def resnet_layers(stages, channels):
    layers = [("input_1", []), ("zeropadding2d_1", []), convolution("conv1", 3, 64, 7)]
    layers += [normalisation("bn_conv1", 64), ("activation_1", []), ("maxpooling2d_1", [])]
    inputs = 64
    for stage, (width, count, _, _) in enumerate(stages, 2):
        for block in "abcdef"[:count]:
            name, outputs = f"{stage}{block}_branch", 4 * width
            layers += [convolution(f"res{name}2a", inputs, width, 1), normalisation(f"bn{name}2a", width)]
            layers += [convolution(f"res{name}2b", width, width, 3), normalisation(f"bn{name}2b", width)]
            layers += [convolution(f"res{name}2c", width, outputs, 1)]
            if block == "a":
                layers += [convolution(f"res{name}1", inputs, outputs, 1)]
            layers += [normalisation(f"bn{name}2c", outputs)]
            if block == "a":
                layers += [normalisation(f"bn{name}1", outputs)]
            inputs = outputs
    return [*layers, convolution("convolution2d_1", inputs, channels, 3)]


def head_layers(channels, first):
    """Everything behind the features; the LSTM's eleven convolutions count as ``first`` and following."""
    arrays = []
    for i, module in enumerate(["W_a", "U_a", "V_a", *(f"{m}_{g}" for g in GATES for m in "WU")]):
        outputs = {"V_a": 1}.get(module, channels)
        arrays.append((f"convolution2d_{first + i}_W", (outputs, channels, 3, 3)))
        if module != "V_a":
            arrays.append((f"convolution2d_{first + i}_b", (outputs,)))
    layers = [("lambda_1", []), ("input_2", []), ("attentiveconvlstm_1", arrays)]
    for n in (1, 2):
        layers.append((f"learningprior_{n}", [(f"learningprior_{n}_W", (64,))]))
        layers.append((f"merge_{n}", []))
        layers.append(convolution(f"atrousconvolution2d_{n}", channels + 16, channels, 5))
    return [*layers, convolution(f"convolution2d_{first + 11}", channels, 1, 1), ("lambda_2", [])]


def published(component, small=True):
    channels = 4 if small else 512
    if component is SamVGG:
        return vgg_layers(SMALL_VGG if small else VGG) + head_layers(channels, 1)
    return resnet_layers(SMALL_RESNET if small else RESNET, channels) + head_layers(channels, 2)


def draw(layers, seed=0):
    """Random arrays by layer and name, such that something gets through to the end."""
    rng, drawn = np.random.default_rng(seed), {}
    for layer, arrays in layers:
        drawn[layer] = {}
        for name, shape in arrays:
            size = 1.5 / math.sqrt(math.prod(shape[1:])) if len(shape) == 4 else 0.3
            values = size * rng.standard_normal(shape)
            if name.endswith("_std"):
                values = rng.uniform(0.01, 2, shape)
            if name.endswith(("_b", "_gamma")):
                values = values + 0.3
            if layer.startswith("learningprior"):  # some of each beyond where they are clipped
                values = rng.uniform(-0.1, 1.1, shape)
            drawn[layer][name] = values.astype(np.float32)
    return drawn


def save(path, drawn, inside=None):
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        root.attrs["layer_names"] = np.array([*drawn], "S")
        for layer, arrays in drawn.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = np.array([*arrays], "S" if arrays else None)
            for name, values in arrays.items():
                group[name] = values
    return path


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


def spoiled(tmp_path, change, component=SamVGG):
    """The error for a checkpoint after ``change`` of its arrays."""
    p = draw(published(component))
    change(p)
    with pytest.raises(InstsearchError) as caught:
        component.import_weights(save(tmp_path / "weights.pkl", p))
    text = str(caught.value)
    assert "weights.pkl: " in text
    return text


def test_another_networks_checkpoint(small, tmp_path):
    path = save(tmp_path / "resnet.pkl", draw(published(SamResNet)))
    with pytest.raises(
        InstsearchError, match=r"not the weights of sam-vgg: 13 of its 19 .*block1_conv1 first"
    ):
        SamVGG.import_weights(path)
    path = save(tmp_path / "vgg.pkl", draw(published(SamVGG)))
    with pytest.raises(InstsearchError, match=r"not the weights of sam-resnet: .* missing, conv1 first"):
        SamResNet.import_weights(path)


def test_missing_and_surplus_layers_are_named_with_the_nearest(small, tmp_path):
    text = spoiled(tmp_path, lambda p: p.update(block3_convx=p.pop("block3_conv2")))
    assert "1 of its 19 layers are missing, block3_conv2 first; the nearest is block3_convx." in text
    text = spoiled(tmp_path, lambda p: p.update(block5_conv4=p["block5_conv3"]))
    assert "layer block5_conv4 is not one of its layers; the nearest is block5_conv" in text


def test_wrong_shapes_and_values(small, tmp_path):
    def change(layer, name, values):
        return lambda p: p[layer].update({name: values})

    text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_W", np.zeros((2, 3, 3, 3), "f4")))
    assert "block1_conv2_W has shape (2, 3, 3, 3), sam-vgg's block1_conv2 has (2, 2, 3, 3)" in text
    text = spoiled(tmp_path, lambda p: p["attentiveconvlstm_1"].pop("convolution2d_3_W"))
    assert "layer attentiveconvlstm_1 has 20 arrays, sam-vgg's has 21" in text
    for bad in (np.full(2, np.nan, "f4"), np.full(2, 1e300)):  # the second too large for a float
        text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_b", bad))
        assert "/block1_conv2/block1_conv2_b has values that are not finite" in text
    text = spoiled(tmp_path, change("block1_conv2", "block1_conv2_b", np.zeros(2, "i4")))
    assert "block1_conv2_b is not all there" in text


def test_damaged_files(small, tmp_path):
    whole = save(tmp_path / "whole.pkl", draw(published(SamVGG))).read_bytes()
    for n in (9, 100, 2000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part.pkl").write_bytes(whole[:n])
        with pytest.raises(InstsearchError, match=r"part\.pkl: .*damaged"):
            SamVGG.import_weights(tmp_path / "part.pkl")
    rng = np.random.default_rng(0)
    for _ in range(40):  # whatever becomes of it, nothing but tensors or an error
        bad = np.frombuffer(whole, np.uint8).copy()
        bad[rng.integers(8, len(bad), 200)] = 0xFF
        (tmp_path / "bad.pkl").write_bytes(bad)
        try:
            state = SamVGG.import_weights(tmp_path / "bad.pkl")
        except InstsearchError:
            continue
        assert all(x.isfinite().all() for x in state.values())


def test_files_that_are_no_weights(small, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InstsearchError, match=r"evil\.pkl"):
        SamVGG.import_weights(tmp_path / "evil.pkl")
    assert not (tmp_path / "made").exists()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(InstsearchError, match="not the weights of a Keras network"):
        SamVGG.import_weights(tmp_path / "other.h5")
    torch.save({"features.block1_conv0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        InstsearchError, match=r"other\.pth: not the weights of sam-vgg: .* tensors are missing"
    ):
        import_weights(SamVGG, tmp_path / "other.pth", tmp_path)


def test_nothing_outside_the_file_is_read(small, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    with h5py.File(tmp_path / "away.h5", "w") as file:
        file["block1_conv1_b"] = np.zeros(2, "f4")
    layers = draw(published(SamVGG))

    def external(group):
        group.create_dataset("block1_conv1_b", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])

    def virtual(group):
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "away.h5", "block1_conv1_b", (2,))
        group.create_virtual_dataset("block1_conv1_b", layout)

    def linked(group):
        group["block1_conv1_b"] = h5py.ExternalLink(tmp_path / "away.h5", "block1_conv1_b")

    def soft(group):
        group["block1_conv1_b"] = h5py.SoftLink("/block1_conv2/block1_conv2_b")

    def unwritten(group):
        group.create_dataset("block1_conv1_b", (2,), "f4")

    for change in (external, virtual, linked, soft, unwritten):
        path = save(tmp_path / "weights.pkl", layers)
        with h5py.File(path, "r+") as file:
            del file["block1_conv1/block1_conv1_b"]
            change(file["block1_conv1"])
        with pytest.raises(InstsearchError, match="block1_conv1_b"):
            SamVGG.import_weights(path)


def test_huge_claims_are_not_believed(small, tmp_path):
    path = save(tmp_path / "weights.pkl", draw(published(SamVGG)))
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/block1_conv1_W"]
        file["block1_conv1"].create_dataset("block1_conv1_W", (1 << 20, 1 << 20), "f4", chunks=(64, 64))[
            0, 0
        ] = 1
    with pytest.raises(InstsearchError, match=r"block1_conv1_W has shape \(1048576, 1048576\)"):
        SamVGG.import_weights(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.zeros(5000, "S8")
    with pytest.raises(InstsearchError, match="layer_names is no list of names"):
        SamVGG.import_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = ["of", "variable", "length"]
    with pytest.raises(InstsearchError, match="layer_names is no list of names"):
        SamVGG.import_weights(path)


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
