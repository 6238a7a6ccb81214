"""SIFT keypoints (Lowe 2004) with RootSIFT descriptors (Arandjelovic & Zisserman, "Three things everyone
should know to improve object retrieval", CVPR 2012), by OpenCV. Needs no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np

from instsearch_cli.components import Extractor, option
from instsearch_cli.data import Grid, Keypoints
from instsearch_cli.images import shrink
from instsearch_plugins.numeric.ranking import occurrences

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


def taking_turns(points: np.ndarray, side: float) -> np.ndarray:
    """The order in which the cells of a grid take turns, each giving the first of its points that are left: i64[n].

    Its first N are spread over all that has points: each cell has an equal share, what it cannot fill goes to the
    others. points [n, 2], the strongest first; the cells are squares of this side.
    """
    cell = (points // side).astype(np.int64) @ np.array([1, 1 << 32])
    return np.argsort(occurrences(cell), kind="stable")


class Sift(Extractor):
    """RootSIFT at the extrema of the difference of Gaussians.

    geometry = x, y, scale, angle: scale is the blur sigma at which the point was found, in pixels of the
    original; angle is in degrees, clockwise from the x axis as seen on the screen. A point with several
    orientations counts several times. The strongest come first.
    """

    encoding: str = "keypoints"
    batch: int = 1
    concurrent: bool = True  #: OpenCV lets go of Python's lock
    on_device: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Config:
        keypoints: int = 1500  #: the strongest so many are kept
        contrast_threshold: float = (
            0.04  #: extrema fainter than this are dropped (OpenCV's count: 3 times Lowe's)
        )
        edge_threshold: float = 10.0  #: extrema on edges are dropped: a ratio of curvatures above this
        upright: bool = False  #: describe every point at angle 0: for collections where things stand upright
        max_size: int = 1024  #: larger pictures are reduced to this long side, in pixels
        #: pictures with fewer keypoints are filled up to so many from fainter extrema, the strongest first
        at_least: int = option(0, omitted_at_default=True)
        #: contrast_threshold of these
        faint_threshold: float = option(0.01, only_with="at_least")
        #: equal cells along the longer side that have equal shares of the keypoints; 0: the strongest anywhere
        spread: int = option(0, omitted_at_default=True)

        def __post_init__(self) -> None:
            if not 0 < min(self.keypoints, self.max_size) <= max(self.keypoints, self.max_size) < 2**31:
                raise ValueError("keypoints and max_size are at least 1, and numbers of 31 bits")
            if not 0 <= self.at_least <= self.keypoints or self.spread < 0:
                raise ValueError("at_least is 0 to keypoints, and spread at least 0")
            if self.faint_threshold <= 0:
                raise ValueError("faint_threshold is above 0")

    config: Config

    def fit_size(self, width: int, height: int) -> tuple[int, int]:
        """At most ``max_size`` along the longer side, never enlarged."""
        return shrink(width, height, self.config.max_size)

    def extract(self, images: Sequence[Image]) -> list[Keypoints]:
        """RootSIFT of each picture."""
        return [self._extract(image) for image in images]

    def _extract(self, image: Image) -> Keypoints:
        points, descriptors = self._detect(cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY))
        return Keypoints(rootsift(descriptors), to_original(points, image.scale), Grid.nominal(image.size))

    def _detect(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points f32[N, 4] (x, y, scale, angle) in OpenCV's pixels, and histograms f32[N, 128]."""
        c = self.config
        found = self._detect_above(c.contrast_threshold, grey, c.keypoints)
        if len(found[0]) < c.at_least and c.faint_threshold < c.contrast_threshold:
            found = self._detect_above(c.faint_threshold, grey, c.at_least)
        return found

    def _detect_above(self, threshold: float, grey: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        c = self.config
        points: Sequence[cv2.KeyPoint]
        first_all = c.upright or bool(c.spread)  # before it is known which are kept
        sift = cv2.SIFT.create(
            nfeatures=0 if first_all else n,
            contrastThreshold=threshold,
            edgeThreshold=c.edge_threshold,
            enable_precise_upscale=True,  # without it every point is off by a quarter of a pixel
        )
        if first_all:
            points = self._kept(sift.detect(grey, None), max(grey.shape), n)
            points, histograms = sift.compute(grey, points) if points else ((), None)
        else:
            points, histograms = sift.detectAndCompute(grey, None)
        if histograms is None:
            return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
        # OpenCV keeps all that are as strong as the last
        order = sorted(range(len(points)), key=lambda i: _strength(points[i]))[:n]
        geometry = [(*points[i].pt, points[i].size / 2, points[i].angle) for i in order]
        return np.array(geometry, np.float32), histograms[order]

    def _kept(self, points: Sequence[cv2.KeyPoint], longer: int, n: int) -> list[cv2.KeyPoint]:
        """The n points that are worth describing: the strongest, or those of each cell."""
        if self.config.upright:
            points = list({(point.pt, point.size): point for point in points}.values())
            for point in points:
                point.angle = 0.0
        points = sorted(points, key=_strength)
        if not self.config.spread or len(points) <= n:
            return points[:n]
        turns = taking_turns(np.array([point.pt for point in points]), longer / self.config.spread)
        return [points[i] for i in turns[:n]]


def _strength(point: cv2.KeyPoint) -> tuple[float, ...]:
    """Sorts the strongest first, and equals (one point with several angles, as a rule) always alike."""
    return -point.response, *point.pt, point.size, point.angle
