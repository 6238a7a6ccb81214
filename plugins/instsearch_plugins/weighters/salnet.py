"""SalNet: saliency by a deep convolutional network (Pan et al., CVPR 2016, the deep one of the two)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from instsearch_cli.networks.weights import load_state_dict
from instsearch_plugins.numeric.checkpoints import read_caffe, recognise, refused
from instsearch_plugins.weighters.deep import DeepSaliency

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 320  #: pixels of either side of the network's input; larger pictures are reduced to it
SMALLEST = 4  #: pixels: a shorter side would be pooled to nothing
MEAN = (100.0, 110.0, 118.0)  #: blue, green, red
CENTRE, SPREAD = 127, 128  #: from the network's output to 0 to 255
CONVOLUTIONS = (
    ("conv1", 3, 96, 7),
    ("conv2", 96, 256, 5),
    ("conv3", 256, 512, 3),
    ("conv4", 512, 512, 5),
    ("conv5", 512, 512, 5),
    ("conv6", 512, 256, 7),
    ("conv7", 256, 128, 11),
    ("conv8", 128, 32, 11),
    ("conv9", 32, 1, 13),
)  #: name, channels in and out, side of the kernel


def normalise(pixels: Tensor) -> Tensor:
    """The network's input: blue, green, red, each less its mean, in about -1 to 1.

    x = (u - mean) / 127.5

    u8 or f32[B, 3, H, W] in RGB -> f32[B, 3, H, W]
    """
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    return (pixels.flip(1).float() - mean) / 127.5


class SalNetNetwork(nn.Sequential):
    """Nine convolutions and a deconvolution, 25 806 209 parameters, by Caffe's names of the layers.

    :func:`normalise`'s f32[B, 3, H, W] -> f32[B, 1, 4 floor(H/4), 4 floor(W/4)], (s - 127) / 128 for a map s in
    0 to 255; H and W at least 4.
    """

    def __init__(self) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for name, inputs, outputs, k in CONVOLUTIONS:
            layers[name] = nn.Conv2d(inputs, outputs, k, padding=k // 2)
            if name != "conv9":
                layers[name.replace("conv", "relu")] = nn.ReLU(inplace=True)
            if name == "conv1":
                layers["norm1"] = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
            if name in ("conv1", "conv2"):
                layers[name.replace("conv", "pool")] = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        layers["deconv1"] = nn.ConvTranspose2d(1, 1, 8, stride=4, padding=2, bias=False)
        super().__init__(layers)


def from_caffe(layers: dict[str, list[np.ndarray]], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's blobs by torch's names: a layer's first is its weight, the second its bias.

    Caffe's convolutions do not flip their kernels, and its deconvolution has torch's axes. Older models have
    four sides for every blob, a bias 1 x 1 x 1 x n; where ``wanted`` has the same without ones, so has this.
    """
    state = {}
    for name, blobs in layers.items():
        for kind, blob in zip(("weight", "bias", "third", "fourth"), blobs, strict=False):
            target = tuple(wanted[f"{name}.{kind}"].shape) if f"{name}.{kind}" in wanted else blob.shape
            same = [n for n in target if n != 1] == [n for n in blob.shape if n != 1]
            state[f"{name}.{kind}"] = torch.from_numpy(blob.reshape(target) if same else blob)
    return state


def input_size(width: int, height: int) -> tuple[int, int]:
    """The size of the network's input: at most 320 x 320, never enlarged but for strips under 4 pixels."""
    r = min(1.0, LARGEST / width, LARGEST / height)
    return max(round(r * width), SMALLEST), max(round(r * height), SMALLEST)


class SalNet(DeepSaliency):
    """Weights from SalNet's saliency map."""

    architecture = "salnet"
    published = "deep_net_model.caffemodel of github.com/imatge-upc/saliency-2016-cvpr (MIT licence)"

    @classmethod
    def build(cls) -> SalNetNetwork:
        """The network without weights."""
        return SalNetNetwork()

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' .caffemodel, or a PyTorch checkpoint of the same names."""
        kind = recognise(path)
        if kind == "caffe":
            with torch.device("meta"):
                wanted = cls.build().state_dict()
            return from_caffe(read_caffe(path), wanted)
        if kind == "torch":
            return load_state_dict(path)
        raise refused(path, cls.published)

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W, 3] in RGB -> u8[H, W] with its largest value at 255."""
        h, w = pixels.shape[:2]
        small = cv2.resize(pixels, input_size(w, h), interpolation=cv2.INTER_LINEAR)
        x = normalise(torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None])
        p = (SPREAD * self.network(x)[0, 0] + CENTRE).clamp(0, 255).cpu().numpy()
        p = cv2.resize(p, (w, h), interpolation=cv2.INTER_CUBIC)
        p = np.clip(cv2.GaussianBlur(p, (5, 5), 0), 0, 255)
        return np.asarray(p / max(p.max(), 1e-6) * 255, np.uint8)
