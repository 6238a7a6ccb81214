"""SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic & Zisserman, "Three things everyone
should know to improve object retrieval", CVPR 2012), by OpenCV. Needs no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import torch

from instsearch_cli.data import Grid, Keypoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.data import Image


def rootsift(d: np.ndarray) -> np.ndarray:
    """Rows whose dot products are Hellinger's kernel of the histograms d.

    r = sqrt(d / sum(d))

    d >= 0, [N, 128], of any type -> f32[N, 128] of unit length; a row of zeros stays so.
    Reference: Arandjelovic & Zisserman 2012, section 2.
    """
    d = np.asarray(d, np.float32)
    sums = d.sum(axis=1, keepdims=True)
    unit: np.ndarray = np.sqrt(np.divide(d, sums, out=np.zeros_like(d), where=sums > 0))
    return unit


def to_original(points: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Carry keypoints from the picture that was read to the original.

    x' = sx (x + 1/2),  y' = sy (y + 1/2),  s' = sqrt(sx sy) s

    OpenCV counts from the centre of the first pixel, here from its corner.
    points [N, 4] = x, y, scale, angle; scale = (sx, sy), original pixels per pixel -> f32[N, 4]
    """
    sx, sy = scale
    x, y, s, angle = points.T
    return np.stack([sx * (x + 0.5), sy * (y + 0.5), np.sqrt(sx * sy) * s, angle], axis=1).astype(np.float32)


class Sift:
    """RootSIFT at the extrema of the difference of Gaussians.

    geometry = x, y, scale, angle: scale is the blur sigma at which the point was found, in pixels of the
    original; angle is in degrees, clockwise from the x axis as seen on the screen. A point with several
    orientations counts several times. The strongest come first.
    """

    encoding: ClassVar[str] = "keypoints"
    batch: ClassVar[int] = 1
    concurrent: ClassVar[bool] = True  #: OpenCV lets go of Python's lock

    @dataclass(frozen=True)
    class Config:
        keypoints: int = 1500  #: the strongest so many are kept
        contrast_threshold: float = (
            0.04  #: extrema fainter than this are dropped (OpenCV's count: 3 times Lowe's)
        )
        edge_threshold: float = 10.0  #: extrema on edges are dropped: a ratio of curvatures above this
        upright: bool = False  #: describe every point at angle 0: for collections where things stand upright
        max_size: int = 1024  #: larger pictures are reduced to this long side, in pixels

        def __post_init__(self) -> None:
            if self.keypoints < 1 or self.max_size < 1:
                raise ValueError("keypoints and max_size are at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """At most ``max_size`` along the longer side, never enlarged."""
        r = min(1.0, self.config.max_size / max(width, height))
        return max(1, round(width * r)), max(1, round(height * r))

    def extract(self, images: Sequence[Image]) -> list[Keypoints]:
        """RootSIFT of each picture."""
        return [self._extract(image) for image in images]

    def _extract(self, image: Image) -> Keypoints:
        points, descriptors = self._detect(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY))
        return Keypoints(
            torch.from_numpy(rootsift(descriptors)).to(self.device),
            torch.from_numpy(to_original(points, image.scale)).to(self.device),
            Grid.nominal(image.size),
        )

    def _detect(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points f32[N, 4] (x, y, scale, angle) in OpenCV's pixels, and histograms f32[N, 128]."""
        c = self.config
        points: Sequence[cv2.KeyPoint]
        sift = cv2.SIFT.create(
            nfeatures=0 if c.upright else c.keypoints,
            contrastThreshold=c.contrast_threshold,
            edgeThreshold=c.edge_threshold,
            enable_precise_upscale=True,  # without it every point is off by a quarter of a pixel
        )
        if c.upright:
            unique = {(point.pt, point.size): point for point in sift.detect(grey, None)}
            for point in unique.values():
                point.angle = 0.0
            points = sorted(unique.values(), key=_strength)[: c.keypoints]
            points, histograms = sift.compute(grey, points) if points else ((), None)
        else:
            points, histograms = sift.detectAndCompute(grey, None)
        if histograms is None:
            return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
        # OpenCV keeps all that are as strong as the last
        order = sorted(range(len(points)), key=lambda i: _strength(points[i]))[: c.keypoints]
        geometry = [(*points[i].pt, points[i].size / 2, points[i].angle) for i in order]
        return np.array(geometry, np.float32), histograms[order]


def _strength(point: cv2.KeyPoint) -> tuple[float, ...]:
    """Sorts the strongest first, and equals (one point with several angles, as a rule) always alike."""
    return -point.response, *point.pt, point.size, point.angle
