"""Boolean Map Saliency (Zhang & Sclaroff, "Saliency detection: a Boolean map approach", ICCV 2013, and
"Exploiting surroundedness for saliency detection: a Boolean map approach", PAMI 2016), as its authors run it.

A pixel is salient if, at many thresholds of many channels, it lies in a region that does not touch the
picture's border. The originals read pictures as BGR and convert them as if they were RGB, and so do we.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from instsearch_cli.components import Weighter
from instsearch_cli.data import WeightMap
from instsearch_plugins.numeric.blocks import block_max

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from instsearch_cli.data import Inputs

Colours = Literal["rgb", "lab", "luv"]

TALLEST = 4  #: times its width, for the working picture of "iccv": higher ones are squeezed, or would be huge
REGULARISER = 50.0  #: added to the variances in whitening, in squared grey levels
LARGEST_KERNEL = 51  #: pixels of the Gaussian, along each side


@dataclass(frozen=True)
class Parameters:
    """The options of :class:`BMS` with their values; see there."""

    variant: Literal["iccv", "journal"]
    width: int
    omega_o: int
    omega_d1: int
    omega_d2: int
    sigma: float
    whitening: bool
    delta: int = 8
    colours: tuple[Colours, ...] = ("lab",)


ICCV = Parameters("iccv", width=600, omega_o=5, omega_d1=7, omega_d2=23, sigma=20.0, whitening=False)
JOURNAL = Parameters("journal", width=400, omega_o=1, omega_d1=7, omega_d2=9, sigma=9.0, whitening=True)


def saliency(pixels: np.ndarray, p: Parameters = ICCV) -> np.ndarray:
    """How surrounded each pixel is, over all thresholds t of all channels F.

    S = sum_F sum_t attention(F > t),  t = min F, min F + delta, ... < max F

    stretched to 0..255, dilated by omega_d2 and blurred by sigma at the working size, then resized.
    "iccv" adds attention(F <= t); closing each map (omega_o) makes the two differ.
    pixels u8[H, W, 3], RGB -> u8[H, W]; a picture of one colour gives zeros.
    Reference: Zhang & Sclaroff 2013, section 3; 2016, sections 3 and 4.
    """
    small = working_picture(pixels, p)
    S = np.zeros(small.shape[:2], np.float32)
    for F in channels(small, p):
        low, high = int(F.min()), int(F.max())
        for G in _closed(F, p):
            for t in range(low, high, p.delta):
                add_attention(S, cv2.threshold(G, t, 255, cv2.THRESH_BINARY)[1], p)
    s = cv2.dilate(_stretched(S), _square(p.omega_d2))
    if p.sigma > 0:
        side = min(4 * math.floor(p.sigma) + 1, LARGEST_KERNEL)
        s = cv2.GaussianBlur(s, (side, side), p.sigma)
    resized: np.ndarray = cv2.resize(s, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_LINEAR)
    return resized


def add_attention(S: np.ndarray, B: np.ndarray, p: Parameters) -> None:
    """Add to S the surrounded part of a Boolean map, dilated and of unit norm.

    "iccv":    S += A' / ||A'||,  A' = A dilated by omega_d1
    "journal": S += (A and B)' / ||(A and B)'|| + (A and not B)' / ||(A and not B)'||

    where A is :func:`surrounded` and ||.|| the Euclidean norm; an empty map adds nothing.
    S f32[H, W], B u8[H, W] of 0 and 255
    """
    A = surrounded(B)
    for part in (cv2.bitwise_and(A, B), cv2.bitwise_and(A, ~B)) if p.variant == "journal" else (A,):
        dilated = cv2.dilate(part, _square(p.omega_d1))
        n = cv2.countNonZero(dilated)
        if n:
            cv2.addWeighted(S, 1, dilated, 1 / (255 * math.sqrt(n)), 0, dst=S, dtype=cv2.CV_32F)


def surrounded(B: np.ndarray) -> np.ndarray:
    """255 where a pixel's 8-connected region, of either value, does not touch the border, else 0.

    u8[H, W] of 0 and 255 -> u8[H, W]. A frame of one more pixel, first 0, then 255, reaches every region at
    the border, so that two floods from its corner do for all seeds.
    """
    h, w = B.shape
    reached = cv2.copyMakeBorder(B, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(reached, None, (0, 0), 1, flags=8)
    cv2.rectangle(reached, (0, 0), (w + 1, h + 1), 255)
    cv2.floodFill(reached, None, (0, 0), 1, flags=8)
    one: Any = 1
    inside: np.ndarray = cv2.compare(reached, one, cv2.CMP_NE)
    return inside[1:-1, 1:-1]


def working_picture(pixels: np.ndarray, p: Parameters) -> np.ndarray:
    """The picture at the size that is worked on, up or down: u8[H, W, 3] -> u8[H', W', 3].

    "iccv": ``width`` pixels across, smoothed (3 x 3, sigma 1); "journal": the longer side.
    """
    H, W = pixels.shape[:2]
    if p.variant == "journal":
        w, h = (int(p.width * side / max(H, W)) for side in (W, H))
    else:
        w, h = p.width, min(int(H * (p.width / W)), TALLEST * p.width)
    size = max(1, w), max(1, h)
    small: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small if p.variant == "journal" else cv2.GaussianBlur(small, (3, 3), 1)


def channels(pixels: np.ndarray, p: Parameters) -> list[np.ndarray]:
    """The channels to threshold, u8[H, W] each: three for each colour space.

    "journal" and whitening stretch each to 0..255 and take the median of 3 x 3.
    """
    # the code for BGR on RGB pixels is the originals' code for RGB on BGR pixels; theirs of rgb is BGR, too
    spaces = {"lab": cv2.COLOR_BGR2Lab, "luv": cv2.COLOR_BGR2Luv}
    found: list[np.ndarray] = []
    for name in p.colours:
        picture = cv2.cvtColor(pixels, spaces[name]) if name in spaces else pixels[..., ::-1]
        planes: Sequence[np.ndarray] = cv2.split(whitened(picture) if p.whitening else picture)
        if p.whitening or p.variant == "journal":
            planes = [_stretched(x) for x in planes]
            planes = [cv2.medianBlur(x, 3) for x in planes]
        found += planes
    return found


def _stretched(x: np.ndarray) -> np.ndarray:
    """From the smallest to the largest value over 0..255: f32 or u8[H, W] -> u8[H, W]."""
    new: Any = None  # where to put it
    y: np.ndarray = cv2.normalize(x, new, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    return y


def whitened(picture: np.ndarray) -> np.ndarray:
    """Colours turned to their principal axes and divided by the deviation there.

    y = x U diag(w)^(-1/2),  U diag(w) U^T = C + 50 I

    where C is the covariance of the pixels x. u8[H, W, 3] -> f32[H, W, 3]
    """
    x = picture.astype(np.float32)
    flags = cv2.COVAR_NORMAL | cv2.COVAR_ROWS | cv2.COVAR_SCALE
    none: Any = None  # the mean is not given
    C, _ = cv2.calcCovarMatrix(x.reshape(-1, 3), none, flags, ctype=cv2.CV_32F)
    w, U, _ = cv2.SVDecomp(C + REGULARISER * np.eye(3, dtype=np.float32))
    y: np.ndarray = cv2.transform(x, (U / np.sqrt(w.T)).T)
    return y


def _closed(F: np.ndarray, p: Parameters) -> list[np.ndarray]:
    """Channels whose thresholds are the closed Boolean maps of F.

    Flat morphology commutes with thresholds: closing F > t is thresholding the closed F, and closing F <= t
    gives the complement of thresholding the opened F, in which the same pixels are surrounded.
    """
    if p.omega_o == 1:  # a map and its complement are alike, and sums are stretched
        return [F]
    kinds = [cv2.MORPH_CLOSE] if p.variant == "journal" else [cv2.MORPH_CLOSE, cv2.MORPH_OPEN]
    return [cv2.morphologyEx(F, kind, _square(p.omega_o)) for kind in kinds]


def _square(side: int) -> np.ndarray:
    return np.ones((side, side), np.uint8)


class BMS(Weighter):
    """Saliency from the picture alone, without training."""

    concurrent: bool = True  #: OpenCV lets go of Python's lock

    @dataclass(frozen=True)
    class Config:
        """Options of ``bms``; None is the variant's value."""

        #: iccv: maps and complements, closed; journal: a map's objects and holes apart, whitened colours
        variant: Literal["iccv", "journal"] = "iccv"
        #: working size in pixels: the width (iccv) or the longer side (journal); none: its authors' (600, 400), whose
        #: kernels, of so many pixels, are finer parts of the picture
        width: int | None = 300
        delta: int = 8  #: step between thresholds, in grey levels
        omega_o: int | None = None  #: side of the closing's square, odd; 1 is none (iccv: 5, journal: 1)
        omega_d1: int | None = None  #: side of the square that dilates attention maps, odd (both: 7)
        omega_d2: int | None = None  #: side of the square that dilates the sum, odd (iccv: 23, journal: 9)
        sigma: float | None = None  #: last blur, in pixels of the working size (iccv: 20, journal: 9)
        colours: tuple[Colours, ...] = ("lab",)  #: colour spaces, several with commas: rgb, lab, luv
        whitening: bool | None = None  #: decorrelate the colours first (iccv: false, journal: true)

        def __post_init__(self) -> None:
            sides = (self.omega_o, self.omega_d1, self.omega_d2)
            if any(side is not None and (side < 1 or side % 2 == 0) for side in sides):
                raise ValueError("omega_o, omega_d1 and omega_d2 are odd and above 0")
            if self.delta < 1 or (self.width is not None and not 1 <= self.width <= 4096):
                raise ValueError("delta is at least 1, width 1 to 4096")
            if self.sigma is not None and not 0 <= self.sigma < math.inf:
                raise ValueError(f"sigma is at least 0, not {self.sigma}")
            if not self.colours or len(set(self.colours)) < len(self.colours):
                raise ValueError("colours names one or more colour spaces, each once")

    def __init__(self, config: Config, device: torch.device) -> None:
        given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
        self.parameters = dataclasses.replace(ICCV if config.variant == "iccv" else JOURNAL, **given)
        self.device = device

    def identity(self) -> dict[str, Any]:
        """The order of colours where it matters, which was another once."""
        turned = self.parameters.whitening and "rgb" in self.parameters.colours
        return {"order": "bgr"} if turned else {}

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """The map at pixel size: u8[H, W, 3] -> u8[H, W]."""
        return saliency(pixels, self.parameters)

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on ``inputs.grid``: the largest saliency of each cell."""
        assert inputs.image is not None
        assert inputs.grid is not None
        s = self.saliency(inputs.image.pixels)
        return WeightMap(block_max(s, *inputs.grid.shape)[None].to(self.device), inputs.grid)
