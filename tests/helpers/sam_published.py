"""SAM's checkpoints as the authors' Keras 1 program saves them, of full size and of few channels."""

from __future__ import annotations

import math

import h5py
import numpy as np

from instsearch_plugins.weighters.sam import SamVGG

VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
RESNET = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4))
SMALL_VGG = ((2, 2), (2, 2), (3, 3), (3, 3), (4, 3))
SMALL_RESNET = ((1, 3, 1, 1), (2, 4, 2, 1), (3, 6, 1, 2), (4, 3, 1, 4))
GATES = "ifco"


# Layers in the order of their depth, (out, in, kh, kw) kernels.


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
