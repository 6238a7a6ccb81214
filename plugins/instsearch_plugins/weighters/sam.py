"""SAM-VGG and SAM-ResNet, LSTM-based saliency attentive models (Cornia et al., IEEE TIP 27(10), 2018)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from instsearch_cli.networks.weights import load_state_dict
from instsearch_plugins.numeric.checkpoints_keras import check_layers, fill, is_keras, open_layers
from instsearch_plugins.weighters.deep import DeepSaliency
from instsearch_plugins.weighters.sam_network import SAM, dilated_resnet, dilated_vgg

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

HEIGHT, WIDTH = 240, 320  #: of the network's input
MEAN = (103.939, 116.779, 123.68)  #: of blue, green and red, which is the network's order
SIGMA = 7  #: pixels of the picture, of the last smoothing
RADIUS = 4 * SIGMA  #: at which the smoothing ends


def padded(pixels: np.ndarray, h: int = HEIGHT, w: int = WIDTH) -> np.ndarray:
    """A picture reduced or enlarged to fit into h x w, with black on both sides of what it leaves over.

    u8[H, W, 3] -> u8[h, w, 3]; bilinear, the sides' ratio kept but for rounding down.
    """
    height, width = pixels.shape[:2]
    size = min(w, max(1, width * h // height)), min(h, max(1, height * w // width))
    left, top = (w - size[0]) // 2, (h - size[1]) // 2
    out = np.zeros((h, w, 3), np.uint8)
    out[top : top + size[1], left : left + size[0]] = cv2.resize(pixels, size)
    return out


def restored(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """The network's map over the picture: the padding cut away, smoothed, over its largest value.

    f32[h, w], non-negative -> u8[height, width], rounded down as the authors wrote it to their images.
    A map that is zero everywhere stays so.
    """
    h, w = saliency.shape
    size = max(width, w * height // h), max(height, h * width // w)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    s = cv2.resize(saliency / (saliency.max() or 1), size)[top : top + height, left : left + width]
    s = cv2.GaussianBlur(s, (2 * RADIUS + 1, 2 * RADIUS + 1), SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(s / (s.max() or 1) * 255, np.uint8)


def network_input(pixels: np.ndarray) -> Tensor:
    """BGR less its means, padded: u8[H, W, 3] in RGB -> f32[1, 3, 240, 320]."""
    bgr = torch.from_numpy(padded(pixels)[:, :, ::-1].copy())
    return (bgr - torch.tensor(MEAN)).permute(2, 0, 1)[None]


def keras_layers(state: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of a network by Keras' names of its layers, in Keras' order of each layer's arrays.

    A kernel that is one of four in its tensor is a view of that quarter, so that filling it fills the tensor.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        if name.startswith("features."):  # weight, bias; mean and variance, which Keras calls std
            layers.setdefault(keras_name(name.split(".")[1:-1]), []).append(tensor)

    def pair(module: str, gate: int = 0, gates: int = 1) -> list[Tensor]:
        return [state[f"convlstm.{module}.{part}"].chunk(gates)[gate] for part in ("weight", "bias")]

    last = "convolution2d_2" if "convolution2d_1" in layers else "convolution2d_1"
    return layers | {
        "attentiveconvlstm_1": [*pair("W_a"), *pair("U_a"), state["convlstm.V_a.weight"]]
        + [x for gate in range(4) for module in ("W", "U") for x in pair(module, gate, 4)],
        "learningprior_1": [state["prior1.gaussians"]],
        "atrousconvolution2d_1": [state[f"prior1.convolution.{part}"] for part in ("weight", "bias")],
        "learningprior_2": [state["prior2.gaussians"]],
        "atrousconvolution2d_2": [state[f"prior2.convolution.{part}"] for part in ("weight", "bias")],
        last: [state[f"output.{part}"] for part in ("weight", "bias")],
    }


def keras_name(module: list[str]) -> str:
    """Keras' name of a layer of the features: bn2a_branch2c of res2a.branch2c.1, conv1 of conv1.0."""
    if module == ["reduce"]:
        return "convolution2d_1"
    if module[-1] == "1":
        first = module[0]
        module = [f"bn{first.removeprefix('res')}" if first.startswith("res") else f"bn_{first}", *module[1:]]
    return "_".join(part for part in module if part not in ("0", "1"))


class Sam(DeepSaliency):
    """What the two have in common: all but the features."""

    @classmethod
    @abstractmethod
    def features(cls) -> nn.Module:
        """The dilated network in front."""

    @classmethod
    def build(cls) -> SAM:
        """The network without weights."""
        return SAM(cls.features())

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file (HDF5, though called .pkl), or a state dict of this network.

        Raises InstsearchError for a file that is damaged or another network's.
        """
        if not is_keras(path):
            return load_state_dict(path)
        with torch.device("meta"):
            network = cls.build()
        with open_layers(path) as layers:
            check_layers(layers, keras_layers(network.state_dict()), cls.architecture, path)
            state = {name: torch.empty(x.shape) for name, x in network.state_dict().items()}
            fill(layers, keras_layers(state), path)
        return state

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W, 3] in RGB -> u8[H, W], the largest value 255."""
        predicted = self.network(network_input(pixels).to(self.device))
        return restored(predicted[0, 0].cpu().numpy(), *pixels.shape[:2])


class SamVGG(Sam):
    """SAM over a dilated VGG-16."""

    architecture = "sam-vgg"
    published = "sam-vgg_salicon_weights.pkl of github.com/marcellacornia/sam, release 1.0 (MIT licence)"

    @classmethod
    def features(cls) -> nn.Module:
        """VGG-16 up to conv5_3, 512 channels at stride 8."""
        return dilated_vgg()


class SamResNet(Sam):
    """SAM over a dilated ResNet-50."""

    architecture = "sam-resnet"
    published = "sam-resnet_salicon_weights.pkl of github.com/marcellacornia/sam, release 1.0 (MIT licence)"

    @classmethod
    def features(cls) -> nn.Module:
        """ResNet-50's five stages, 2048 channels at stride 8, reduced to 512."""
        return dilated_resnet()
