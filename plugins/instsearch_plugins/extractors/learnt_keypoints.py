"""What extractors of learnt keypoints share: kornia's network, pictures read at several sizes, keypoints' frames."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from instsearch_cli.components import Extractor, option
from instsearch_cli.data import Grid, Keypoints
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import shrink
from instsearch_plugins.extractors.sift import to_original
from instsearch_plugins.published_network import PublishedNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from instsearch_cli.data import Image

SMALLEST = 32  # pixels: the networks' deepest layers need as many along either side
SUPPORT = 4.0  # pixels: scale of a keypoint at the size at which it was found, where its network gives none
REACH = 12.0  # pixels around a keypoint that its gradient orientation is of
FLAT = 9  # pixels: side of the square around a keypoint that must not be of one colour
PATCH = 32  # pixels that kornia turns such a square into


class Points(NamedTuple):
    """Keypoints of one picture at one size.

    scores f32[n]; geometry f32[n, 4] = x, y, scale, angle in pixels of that size, counted from the centre of the
    first; descriptors f32[n, D], of unit length
    """

    scores: Tensor
    geometry: Tensor
    descriptors: Tensor

    @classmethod
    def upright(cls, scores: Tensor, places: Tensor, scale: float, descriptors: Tensor) -> Points:
        """Keypoints at places f32[n, 2], all of one scale and at angle 0."""
        frames = torch.tensor([scale, 0.0], device=places.device).expand(len(places), 2)
        return cls(scores, torch.cat([places.float(), frames], dim=1), descriptors)

    def at(self, some: Tensor) -> Points:
        """Some of them."""
        return Points(*(column[some] for column in self))


def require_kornia(who: str) -> None:
    """Raises InstsearchError that says how to get kornia."""
    if importlib.util.find_spec("kornia") is None:
        raise InstsearchError(
            f"{who} needs kornia: run `pip install 'instsearch[kornia]'` (or in a clone: `pip install -e '.[kornia]'`)"
        )


def gradient_angles(grey: Tensor, places: Tensor) -> Tensor:
    """The direction of most gradients around each place, in degrees clockwise from the x axis: f32[n].

    The highest of 36 bins of a smoothed histogram of gradient directions, weighted by magnitude and a Gaussian
    window, its place refined by a parabola. grey f32[H, W]; places f32[n, 2].
    Reference: Lowe 2004, section 5, as kornia has it.
    """
    from kornia.feature import PatchDominantGradientOrientation, extract_patches_from_pyramid
    from kornia.feature.laf import laf_from_center_scale_ori

    if not len(places):
        return places.new_zeros(0)
    frames = laf_from_center_scale_ori(places[None], places.new_full((1, len(places), 1, 1), REACH))
    patches = extract_patches_from_pyramid(grey[None, None], frames, PATCH)[0]
    return -torch.rad2deg(PatchDominantGradientOrientation(PATCH)(patches).detach()) % 360


def squares(padded: Tensor, side: int, row: Tensor, column: Tensor) -> Tensor:
    """The side x side values around places of a map f32[C, H, W] that was padded by side // 2: f32[C, n, side^2]."""
    return padded.unfold(1, side, 1).unfold(2, side, 1)[:, row, column].flatten(2)


def textured(x: Tensor, places: Tensor) -> Tensor:
    """Which places of a picture f32[3, H, W] are not amid one colour: bool[n]; a network's maxima there say nothing.

    max_q x_q - min_q x_q >= 1 / 255 in some channel, q over the FLAT x FLAT pixels around the place, f32[n, 2].
    """
    h, w = x.shape[1:]
    column, row = places.round().long().T
    padded = F.pad(x[None], (FLAT // 2,) * 4, mode="replicate")[0]  # pixels that are in the square anyhow
    some = squares(padded, FLAT, row.clamp(0, h - 1), column.clamp(0, w - 1))
    return (some.amax(2) - some.amin(2)).amax(0) > 0.5 / 255


class LearntKeypoints(PublishedNetwork, Extractor):
    """Keypoints and unit descriptors of a network, of the picture read at several sizes; the strongest of all.

    geometry = x, y, scale, angle: scale grows as the size falls at which the point was found; it is in pixels of the
    original. angle is in degrees, clockwise from the x axis as seen on the screen.
    """

    encoding: str = "keypoints"
    multiple: ClassVar[int] = 1  #: sides at which the network reads are multiples of it

    @dataclass(frozen=True)
    class Config:
        """Options of every network."""

        keypoints: int = 1000  #: the strongest so many are kept
        threshold: float = 0.0  #: keypoints that score no more are dropped
        max_size: int = 1024  #: larger pictures are reduced to this long side, in pixels
        scales: tuple[float, ...] = (1.0, 0.5)  #: sizes at which it is read, as shares of that
        #: angles of keypoints: the network's own, 0 where it has none; 0; or that of most gradients around
        angle: Literal["own", "upright", "gradient"] = "own"
        weights: str = option(
            "", digested=True
        )  #: weights file; empty: INSTSEARCH_WEIGHTS, then imported ones
        batch: int = option(0, "query")  #: pictures at once; 0 is 8 on a GPU, 1 elsewhere

        def __post_init__(self) -> None:
            if not 0 < self.keypoints < 2**31 or self.max_size < SMALLEST or self.batch < 0:
                raise ValueError(f"keypoints is at least 1, max_size at least {SMALLEST}, batch at least 0")
            if not self.scales or not 0 < min(self.scales) <= max(self.scales) <= 1:
                raise ValueError("scales are above 0 and at most 1, one or more")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        gpu = device.type == "cuda"
        super().__init__(config, device)
        self.batch = config.batch or (8 if gpu else 1)
        self.concurrent = not gpu

    @abstractmethod
    def detect(self, x: Tensor) -> list[Points]:
        """Keypoints of each of some pictures of equal shape, f32[B, 3, H, W] in RGB, 0 to 1; as many as there are."""

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """At most ``max_size`` along the longer side, never enlarged."""
        return shrink(width, height, self.config.max_size)

    def extract(self, images: Sequence[Image]) -> list[Keypoints]:
        """The strongest keypoints of each of some pictures of equal shape."""
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(self.device)
        with torch.inference_mode():
            x = pixels.permute(0, 3, 1, 2).float() / 255
            levels = [self._level(x, scale, images) for scale in self.config.scales]
        return [self._strongest(found, image) for image, *found in zip(images, *levels, strict=True)]

    def _level(self, x: Tensor, scale: float, images: Sequence[Image]) -> list[tuple[np.ndarray, ...]]:
        """Each picture's :class:`Points` at one size, as arrays, their geometry in pixels of the original."""
        h, w = (self._side(side * scale) for side in x.shape[2:])
        if (h, w) != tuple(x.shape[2:]):
            x = F.interpolate(x, size=(h, w), mode="bilinear", antialias=True)
        found = list[tuple[np.ndarray, ...]]()
        for picture, points, image in zip(x, self.detect(x), images, strict=True):
            some = (points.scores > self.config.threshold) & textured(picture, points.geometry[:, :2])
            points = self._turned(points.at(some), picture)
            scores, geometry, descriptors = (column.cpu().numpy() for column in points)
            found.append((scores, to_original(geometry, (image.size[0] / w, image.size[1] / h)), descriptors))
        return found

    def _turned(self, points: Points, picture: Tensor) -> Points:
        """The points at the angles that are asked for."""
        if self.config.angle == "gradient":
            points.geometry[:, 3] = gradient_angles(picture.mean(0), points.geometry[:, :2])
        return points

    def _side(self, side: float) -> int:
        return max(SMALLEST, round(side / self.multiple) * self.multiple)

    def _strongest(self, levels: Sequence[tuple[np.ndarray, ...]], image: Image) -> Keypoints:
        scores, geometry, descriptors = (np.concatenate(column) for column in zip(*levels, strict=True))
        order = np.argsort(-scores, kind="stable")[: self.config.keypoints]
        return Keypoints(descriptors[order], geometry[order], Grid.nominal(image.size))
