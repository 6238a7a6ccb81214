"""Saliency after Itti, Koch and Niebur 1998, as in the SaliencyToolbox (Walther and Koch 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.blocks import block_max
from instsearch_plugins.numeric.itti import (
    CENTRES,
    DELTAS,
    SCALES,
    M,
    centre_surround,
    iterated,
    oriented,
    promoted,
    pyramid,
    stretched_to,
)

if TYPE_CHECKING:
    import torch

    from instsearch_cli.data import Inputs

Norm = Literal["iterative", "localmax"]
Form = Literal["toolbox", "itti98"]
Border = Literal["mirror", "toolbox"]

LUMINANCE = (0.298936, 0.587043, 0.114021)  #: of red, green and blue, as rgb2gray has it
ORIENTATIONS = (0, 45, 90, 135)  #: degrees


def saliency(
    pixels: np.ndarray,
    max_size: int = 340,
    norm: Norm = "iterative",
    form: Form = "toolbox",
    border: Border = "mirror",
) -> np.ndarray:
    """How much each place stands out in intensity, colour and orientation.

    C_f = 1/(F S) N(sum_S N(sum_n N(maps)))  and  saliency = N(sum_f C_f)

    over the F features of S sub-features with n centre-surround maps each (:func:`feature_maps`); N is
    :func:`normalised`. The sum over S is normalised only where S > 1. The map has 1/16 of the image's size
    and is brought to it bilinearly.

    pixels is u8[H, W, 3], RGB; the image is first reduced to a longer side of ``max_size``. Returns
    f32[H', W'] >= 0, at the reduced size; zeros for a flat image and for one too small for any
    centre-surround pair (a side of less than 32 pixels).
    """
    pixels = reduced(pixels, max_size)
    H, W = pixels.shape[:2]
    features = feature_maps(pixels, form, border)
    conspicuity = []
    for maps in features:
        subfeatures = normalised(normalised(maps, norm, form, M).sum(1), norm, form)
        S = len(subfeatures)
        feature = normalised(subfeatures.sum(0), norm, form) if S > 1 else subfeatures[0]
        conspicuity.append(feature / (S * len(features)))
    if not conspicuity:
        return np.zeros((H, W), np.float32)
    coarse = normalised(np.stack(conspicuity).sum(0), norm, form, 2)
    s: np.ndarray = cv2.resize(coarse, (W, H), interpolation=cv2.INTER_LINEAR)
    return s


def reduced(pixels: np.ndarray, max_size: int) -> np.ndarray:
    """The image with its longer side at most ``max_size``, by area averaging; never enlarged."""
    H, W = pixels.shape[:2]
    r = max_size / max(H, W)
    if r < 1:
        size = max(1, round(r * W)), max(1, round(r * H))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels


def normalised(x: np.ndarray, norm: Norm, form: Form, top: float | None = None) -> np.ndarray:
    """N: promotes maps f32[..., h, w] in which few places stand out, and those places in them.

    ``iterative`` stretches to [0, ``top``], if given, and lets the places compete (:func:`iterated`);
    ``localmax``, and ``itti98`` in its own way, always stretch to [0, M] (:func:`promoted`).
    """
    if form == "itti98" or norm == "localmax":
        return promoted(stretched_to(x, M), others=form == "itti98")
    return iterated(x if top is None else stretched_to(x, top))


def feature_maps(pixels: np.ndarray, form: Form = "toolbox", border: Border = "mirror") -> list[np.ndarray]:
    """Centre-surround maps of intensity, colour and orientation: f32[S, n, h, w] each, at 1/16 of the size.

    S = 1, 2 (red-green, blue-yellow) and 4 (ORIENTATIONS) sub-features; n <= 6 pairs of scales. A grey image
    has no colour; an image too small for any pair gives no features.
    """
    r, g, b = (channel.astype(np.float32) / 255 for channel in cv2.split(pixels))
    intensity = (
        (r + g + b) / 3 if form == "itti98" else LUMINANCE[0] * r + LUMINANCE[1] * g + LUMINANCE[2] * b
    )
    scales = _coarse(intensity)
    if CENTRES[0] + DELTAS[0] not in scales:
        return []
    features = [[centre_surround(scales)]]
    if not (np.array_equal(r, g) and np.array_equal(g, b)):
        opponents = opponents_1998(r, g, b) if form == "itti98" else opponents_toolbox(r, g, b)
        features.append([centre_surround(_coarse(x), double=form == "itti98") for x in opponents])
    features.append(
        [
            centre_surround({s: oriented(x, theta, border == "mirror") for s, x in scales.items()})
            for theta in ORIENTATIONS
        ]
    )
    return [np.stack(maps) for maps in features]


def _coarse(x: np.ndarray) -> dict[int, np.ndarray]:
    """The scales of the pyramid that centre-surround pairs use."""
    return {scale: x for scale, x in enumerate(pyramid(x)) if scale in SCALES}


def opponents_toolbox(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RG = (r - g) / max(r, g, b) and BY = (b - min(r, g)) / max(r, g, b); 0 where the maximum is below 0.1."""
    peak = np.maximum(np.maximum(r, g), b)
    peak[peak < 0.1] = np.inf
    return (r - g) / peak, (b - np.minimum(r, g)) / peak


def opponents_1998(r: np.ndarray, g: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R - G and B - Y of the four broadly tuned colours, negative responses of each being 0.

    R = r - (g + b)/2,  G = g - (r + b)/2,  B = b - (r + g)/2,  Y = (r + g)/2 - |r - g|/2 - b

    with r, g and b over the intensity (r + g + b)/3, and 0 where that is at most a tenth of its maximum.
    """
    intensity = (r + g + b) / 3
    intensity[intensity <= 0.1 * intensity.max()] = np.inf
    r, g, b = r / intensity, g / intensity, b / intensity
    colours = (r - (g + b) / 2, g - (r + b) / 2, b - (r + g) / 2, (r + g) / 2 - abs(r - g) / 2 - b)
    R, G, B, Y = (np.maximum(colour, 0) for colour in colours)
    return R - G, B - Y


class IttiKoch(Weighter):
    """Weights from what stands out in the image at several scales."""

    concurrent: bool = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``itti-koch``."""

        max_size: int = 340  #: the image is reduced to this longer side, never enlarged (paper: 340)
        #: how the maps of the toolbox form are weighed: by places that compete, or by their local maxima
        norm: Norm = "iterative"
        #: colours and combination of the SaliencyToolbox, or colours and local maxima as printed in 1998
        form: Form = "toolbox"
        #: how the picture goes on beyond its border for the orientations: as its mirror image, or as in the toolbox by
        #: zeros, with what lies within 4 pixels of its upper and lower border left out
        border: Border = "mirror"

        def __post_init__(self) -> None:
            if self.max_size < 1:
                raise ValueError(f"max_size is at least 1, not {self.max_size}")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """The map at the working image's size: u8[H, W, 3] -> f32[H', W']."""
        return saliency(pixels, self.config.max_size, self.config.norm, self.config.form, self.config.border)

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on ``inputs.grid``: each cell's largest saliency, over the largest of all."""
        assert inputs.grid is not None
        assert inputs.image is not None
        s = self.saliency(inputs.image.pixels)
        return WeightMap(block_max(s, *inputs.grid.shape)[None].to(self.device), inputs.grid)
