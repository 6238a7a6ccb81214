"""VGG-16-CAM: VGG-16 whose fully connected layers gave way to class activation maps (Zhou et al., CVPR 2016).

The network of Jimenez et al., Class-weighted convolutional features for visual instance search, BMVC 2017. Layers are
named as torchvision names VGG-16's, of which ``features.0`` to ``features.29`` are these; ``features.30`` is the
convolution to 1,024 channels, ``features.31`` its ReLU, ``classifier`` the linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError
from instsearch_plugins.extractors.networks import MEAN, STD, Network, normalise
from instsearch_plugins.numeric.checkpoints import read_caffe, recognise, refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

BLOCKS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)  #: channels of VGG-16's layers
CHANNELS = 1024  #: of the layer that is averaged
DROPOUT = 0.5  #: of the average, in training
BGR_MEAN = (103.939, 116.779, 123.68)  #: what the published weights' input is less, in grey levels


class VGG16CAMNetwork(nn.Module):
    """x f32[B, 3, H, W], torchvision's input -> logits f32[B, C]; the last maps have stride 16."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers, c = list[nn.Module](), 3
        for block in BLOCKS:
            for d in block:
                layers += [nn.Conv2d(c, d, 3, padding=1), nn.ReLU(inplace=True)]
                c = d
            layers.append(nn.MaxPool2d(2))
        layers[-1:] = [nn.Conv2d(c, CHANNELS, 3, padding=1), nn.ReLU(inplace=True)]  # in place of pool5
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)
        logits: Tensor = self.classifier(self.dropout(maps.mean((2, 3))))
        return logits


def ungrouped(weight: Tensor, channels: int) -> Tensor:
    """The kernel of a convolution in groups as one without, zero between the groups.

    w'(d, g C/G + c, y, x) = w(d, c, y, x) where output d is of group g, else 0

    f32[D, C/G, kh, kw] -> f32[D, C, kh, kw] with C = ``channels``.
    """
    D, width = weight.shape[:2]
    groups = channels // width
    whole = weight.new_zeros(D, channels, *weight.shape[2:])
    for g in range(groups):
        rows = slice(g * D // groups, (g + 1) * D // groups)
        whole[rows, g * width : (g + 1) * width] = weight[rows]
    return whole


def from_bgr(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution of blue, green, red less their means as one of torchvision's input, with the same output.

    y_c = u_c - mean_c and x_c = (u_c / 255 - m_c) / s_c of one pixel u in 0 to 255 give
    w' = 255 s w,  b' = b + sum w (255 m - mean),  channels reversed; equal where no padding is in reach.
    """
    m, s = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    mean = torch.tensor(BGR_MEAN[::-1])[:, None, None]
    w = weight.flip(1)
    return w * (255 * s), bias + (w * (255 * m - mean)).sum((1, 2, 3))


def caffe_names() -> dict[str, str]:
    """torch's names of the layers that have weights -> those of Zhou et al."""
    names, at = {}, 0
    for i, block in enumerate(BLOCKS):
        for j in range(len(block)):
            names[f"features.{at}"] = f"conv{i + 1}_{j + 1}"
            at += 2
        at += 1
    return {**names, f"features.{at - 1}": "CAM_conv", "classifier": "CAM_fc"}


class VGG16CAM(Network):
    """conv5_1 after ReLU: 512 channels, stride 16; class maps of 1,024 channels on the same grid."""

    architecture = "vgg16-cam"
    published = (
        "vgg16CAM_train_iter_90000.caffemodel of github.com/zhoubolei/CAM (unrestricted use), or "
        "vgg_cam_weights.h5 of github.com/imatge-upc/retrieval-2017-cam"
    )
    default = "features.25"
    cam = "features.31"
    head = "classifier.weight"

    @dataclass(frozen=True)
    class Config(Network.Config):
        swap_means: bool = False  #: as the retrieval authors' code: blue less red's mean, red less blue's

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """The network without weights."""
        return VGG16CAMNetwork()

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The caffemodel of Zhou et al., the Keras file of Jimenez et al., or a state dict of this network.

        The published networks' input, blue, green and red less their means, becomes torchvision's, and the last
        convolution's groups, of which only the caffemodel has two, one. Raises InstsearchError for a file that is
        damaged or another network's.
        """
        kind = recognise(path)
        if kind == "torch":
            return super().import_weights(path)
        if kind not in ("caffe", "hdf5"):
            raise refused(path, cls.published)
        with torch.device("meta"):
            wanted = cls.build().state_dict()
        state = _from_caffe(path, wanted) if kind == "caffe" else _from_keras(path, wanted)
        first = state["features.0.weight"], state["features.0.bias"]
        state["features.0.weight"], state["features.0.bias"] = from_bgr(*first)
        return state

    def prepare(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The network's input: torchvision's, with ``swap_means`` as if red and blue were the other's mean off."""
        x = normalise(pixels, dtype)
        if not self.config.swap_means:
            return x
        blue, _, red = BGR_MEAN
        off = torch.tensor([red - blue, 0.0, blue - red], device=x.device) / (
            255 * torch.tensor(STD).to(x.device)
        )
        return x + off[:, None, None].to(dtype)


def _from_caffe(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layers, names = read_caffe(path), caffe_names()
    if missing := [name for name in names.values() if len(layers.get(name, ())) != 2]:
        there = ", ".join(list(layers)[-3:])
        raise InstsearchError(
            f"{path}: not the weights of vgg16-cam: no layer {missing[0]} with a weight and a bias; "
            f"its last ones are {there}."
        )
    state: dict[str, Tensor] = {}
    for layer, name in names.items():
        for kind, blob in zip(("weight", "bias"), layers[name], strict=True):
            state[f"{layer}.{kind}"] = _shaped(blob, wanted[f"{layer}.{kind}"], f"{path}: {name}'s {kind}")
    return state


def _shaped(blob: np.ndarray, target: Tensor, where: str) -> Tensor:
    """A blob in the network's shape: older ones have four sides, and a kernel may be in groups."""
    shape, have = tuple(target.shape), blob.shape
    if have != shape and [n for n in have if n != 1] == [n for n in shape if n != 1]:
        have = shape
    tensor = torch.from_numpy(blob.reshape(have))
    grouped = len(have) == len(shape) == 4 and 0 < have[1] < shape[1] and shape[1] % have[1] == 0
    if grouped and (have[0], *have[2:]) == (shape[0], *shape[2:]) and not shape[0] % (shape[1] // have[1]):
        return ungrouped(tensor, shape[1])
    if have != shape:
        raise InstsearchError(f"{where} has shape {have}, vgg16-cam's has {shape}.")
    return tensor


def _from_keras(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layers in their order, since half of them have no names: fourteen convolutions, one dense layer."""
    from instsearch_plugins.numeric.checkpoints_keras import check_layers, fill, open_layers

    names = caffe_names()

    def by_layer(state: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        pairs = {name: [state[f"{layer}.weight"], state[f"{layer}.bias"]] for layer, name in names.items()}
        weight, bias = pairs["CAM_fc"]
        return pairs | {"CAM_fc": [weight.T, bias]}  # Keras has inputs x outputs

    state = {name: torch.empty(tensor.shape) for name, tensor in wanted.items()}
    with open_layers(path) as found:
        if len(found) != len(names):
            raise InstsearchError(
                f"{path}: not the weights of vgg16-cam: {len(found)} layers have weights, of its own {len(names)}."
            )
        layers = dict(zip(names.values(), found.values(), strict=True))
        check_layers(layers, by_layer(wanted), VGG16CAM.architecture, path)
        fill(layers, by_layer(state), path)
    return state
