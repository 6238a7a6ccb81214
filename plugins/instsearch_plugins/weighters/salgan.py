"""SalGAN: saliency by an encoder and a decoder trained against a discriminator (Pan et al., 2017, arXiv:1701.01081).

The encoder is VGG-16 up to conv5_3, the decoder the same backwards with upsampling for pooling. The authors trained
it with Lasagne, whose decoder convolves with flipped kernels; here all kernels are as torch has them.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.checkpoints import load_checkpoint
from instsearch_cli.networks.weights import load_state_dict
from instsearch_plugins.numeric.checkpoints import read_lasagne, recognise, refused
from instsearch_plugins.weighters.deep import DeepSaliency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SIZE = (256, 192)  #: width and height of the network's input and output
MEAN = (103.939, 116.779, 123.68)  #: of ImageNet, blue, green, red
ENCODER = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  #: channels, convolutions
DECODER = ((512, 3), (512, 3), (256, 3), (128, 2), (64, 2))
FLAT = re.compile(r"\d+\.(weight|bias)")
PORTED = re.compile(r"(encoder\.|decoder\.|mymodules\.)?(\d+)\.(weight|bias)")
NOWHERE = (9, 0, False)


def normalise(pixels: Tensor) -> Tensor:
    """The network's input: blue, green, red, each less ImageNet's mean, in 0 to 255.

    x = u - mean

    u8 or f32[B, 3, H, W] in RGB -> f32[B, 3, H, W]
    """
    mean = torch.tensor(MEAN, device=pixels.device)[:, None, None]
    return pixels.flip(1).float() - mean


class SalGANGenerator(nn.Module):
    """SalGAN's generator (table 1): 27 convolutions, 31 787 009 parameters.

    ``encoder`` has torchvision's places of VGG-16's layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_blocks(3, ENCODER, lambda: nn.MaxPool2d(2)))
        self.decoder = nn.Sequential(
            *_blocks(ENCODER[-1][0], DECODER, lambda: nn.Upsample(scale_factor=2)),
            nn.Conv2d(DECODER[-1][0], 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """:func:`normalise`'s f32[B, 3, H, W] -> saliency in (0, 1), f32[B, 1, H, W]; H and W multiples of 16."""
        saliency: Tensor = self.decoder(self.encoder(x))
        return saliency


def _blocks(
    inputs: int, blocks: Sequence[tuple[int, int]], between: Callable[[], nn.Module]
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i, (outputs, count) in enumerate(blocks):
        if i:
            layers.append(between())
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
    return layers


@cache
def tensor_names() -> tuple[str, ...]:
    """The generator's 54 tensors in the network's order, each weight before its bias."""
    with torch.device("meta"):
        return tuple(SalGANGenerator().state_dict())


def from_lasagne(arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    """The authors' own arrays, by our names.

    Lasagne's convolution flips its kernels, y = sum_ij W_ij x_{p-i, q-j}, except where the authors turned that
    off, in the encoder; so the decoder's are turned by 180 degrees. 54 x f32[out, in, k, k] or f32[out].
    """
    state = dict(zip(tensor_names(), arrays, strict=True))
    for name, array in state.items():
        if name.startswith("decoder") and array.ndim == 4:
            state[name] = array.flip(2, 3)
    return state


def from_reversed(arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    """The authors' arrays as SalEMA's gen_model.pt has them, by our names.

    Its script meant to turn the kernels and reversed their channels, out and in, and the biases. That permutes
    the hidden channels and swaps red and blue, and leaves the decoder's kernels unturned; here it is undone.
    """
    return from_lasagne([array.flip(*range(min(array.ndim, 2))) for array in arrays])


def from_transposed(arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    """The arrays of batsa003/salgan, by our names: its decoder has transposed convolutions.

    A transposed convolution of stride 1 by f32[in, out, k, k] is a convolution by f32[out, in, k, k] turned
    by 180 degrees.
    """
    arrays = [
        array.transpose(0, 1) if name.startswith("decoder") and array.ndim == 4 else array
        for name, array in zip(tensor_names(), arrays, strict=True)
    ]
    return from_lasagne(arrays)


def from_pytorch(state: dict[str, Tensor], wrapped: bool) -> dict[str, Tensor]:
    """A checkpoint of any of the PyTorch ports, or of our own, by our names; one of another network as it is.

    SalEMA and SalBCE have one flat sequence of layers: in a training checkpoint (``wrapped``) the trained
    weights, bare the ported ones, :func:`from_reversed`.
    """
    ported = sorted(state, key=_place)
    if len(state) != len(tensor_names()) or _place(ported[-1]) == NOWHERE:
        return state
    arrays = [state[name] for name in ported]
    if all(FLAT.fullmatch(name) for name in state):
        return dict(zip(tensor_names(), arrays, strict=True)) if wrapped else from_reversed(arrays)
    if any(name.startswith("mymodules") for name in state):
        warnings.warn(
            "batsa003/salgan trains a decoder without ReLU on BGR / 255: its maps will differ from here.",
            stacklevel=2,
        )
        return from_transposed(arrays)
    return state


def _place(name: str) -> tuple[int, int, bool]:
    """Where a port's tensor stands in the network: its part, its layer, and whether it is the bias."""
    match = PORTED.fullmatch(name)
    if match is None:
        return NOWHERE
    return ("", "encoder.", "decoder.", "mymodules.").index(match[1] or ""), int(match[2]), match[3] == "bias"


class SalGAN(DeepSaliency):
    """Weights from SalGAN's saliency map."""

    @dataclass(frozen=True)
    class Config(DeepSaliency.Config):
        """Options of ``salgan``."""

        #: height and width of the network's input: what it was trained at, multiples of 16
        size: tuple[int, ...] = (SIZE[1], SIZE[0])

        def __post_init__(self) -> None:
            if len(self.size) != 2 or any(side < 16 or side % 16 for side in self.size):
                raise ValueError(f"size is a height and a width, multiples of 16, not {self.size}")

    config: Config
    architecture = "salgan"
    published = "gen_modelWeights0090.npz of github.com/imatge-upc/salgan (MIT licence)"

    @classmethod
    def build(cls) -> SalGANGenerator:
        """The generator without weights."""
        return SalGANGenerator()

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' .npz, or a PyTorch port of it: SalEMA's and SalBCE's, batsa003/salgan's, our own."""
        kind = recognise(path)
        if kind == "npz":
            arrays = read_lasagne(path)
            if len(arrays) != len(tensor_names()):
                raise InstsearchError(
                    f"{path}: {len(arrays)} arrays, and SalGAN's generator has {len(tensor_names())}.\n"
                    f"Take {cls.published}."
                )
            return from_lasagne([torch.from_numpy(array) for array in arrays])
        if kind == "torch":
            state = load_state_dict(path)
            return from_pytorch(state, wrapped="state_dict" in load_checkpoint(path, mapped=True))
        raise refused(path, cls.published)

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """u8[H, W, 3] in RGB -> u8[H, W]: the map of the picture pressed into ``size``, brought back, blurred."""
        height, width = self.config.size
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        small = torch.from_numpy(small).to(self.device)
        predicted = self.network(normalise(small.permute(2, 0, 1)[None]))[0, 0]
        saliency = (255 * predicted).to(torch.uint8).cpu().numpy()
        h, w = pixels.shape[:2]
        saliency = cv2.resize(saliency, (w, h), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.GaussianBlur(saliency, (5, 5), 0))
