"""What flows between the stages: pictures, features, weights, regions, codes, queries and hits.

Boxes are (x0, y0, x1, y1) in pixels of the upright original picture; pixel (0, 0) covers [0, 1) x [0, 1).
Maps, weights, regions and vectors are torch tensors. Keypoints, words and sparse codes are numpy arrays, so that a
pipeline of these alone imports no torch; tensors that are given to them are converted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_cli.boxes import MASK as MASK
from instsearch_cli.boxes import Box as Box  # noqa: TC001 - types of this module
from instsearch_cli.boxes import Regions as Regions  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture, upright, RGB, at the size that the extractor asked for.

    pixels  u8[H, W, 3]
    size    (width, height) of the upright original
    name    what to call it in messages
    """

    pixels: np.ndarray
    size: tuple[int, int]
    name: str = ""

    @property
    def scale(self) -> tuple[float, float]:
        """Original pixels per pixel, along x and y."""
        return self.size[0] / self.pixels.shape[1], self.size[1] / self.pixels.shape[0]

    def cropped(self, box: Box) -> Image:
        """What is in a box, at the size at which the whole was read, as a picture by itself."""
        sx, sy = self.scale
        height, width = self.pixels.shape[:2]
        x0, y0 = min(int(box[0] / sx), width - 1), min(int(box[1] / sy), height - 1)
        x1, y1 = max(ceil(box[2] / sx), x0 + 1), max(ceil(box[3] / sy), y0 + 1)
        pixels = np.ascontiguousarray(self.pixels[y0:y1, x0:x1])
        size = max(round(pixels.shape[1] * sx), 1), max(round(pixels.shape[0] * sy), 1)
        return Image(pixels, size, self.name)


@dataclass(frozen=True)
class Grid:
    """The cells of a map and where they lie in the original picture.

    The centre of cell (i, j) is (ox + sx (j + 1/2), oy + sy (i + 1/2)), with transform = (sx, sy, ox, oy).
    """

    h: int
    w: int
    transform: tuple[float, float, float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        return self.h, self.w

    @classmethod
    def over(cls, h: int, w: int, size: tuple[int, int]) -> Grid:
        """h x w equal cells that cover a picture of ``size`` = (width, height)."""
        return cls(h, w, (size[0] / w, size[1] / h, 0.0, 0.0))

    @classmethod
    def nominal(cls, size: tuple[int, int]) -> Grid:
        """Square cells, 32 along the longer side: the grid of what has none of its own, keypoints say."""
        cell = max(size) / 32
        return cls.over(max(1, round(size[1] / cell)), max(1, round(size[0] / cell)), size)

    def resized(self, h: int, w: int) -> Grid:
        """The same extent cut into h x w cells."""
        sx, sy, ox, oy = self.transform
        return Grid(h, w, (sx * self.w / w, sy * self.h / h, ox, oy))

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """x f32[w] and y f32[h] of the cell centres, in original pixels."""
        sx, sy, ox, oy = map(np.float32, self.transform)
        x = ox + sx * (np.arange(self.w, dtype=np.float32) + np.float32(0.5))
        y = oy + sy * (np.arange(self.h, dtype=np.float32) + np.float32(0.5))
        return x, y

    def masks(self, boxes: np.ndarray | Tensor) -> np.ndarray:
        """bool[M, h, w]: the cells whose centre is in the box; if none, the cell nearest to the box's centre.

        boxes: f32[M, 4]
        """
        x, y = self.centres()
        x0, y0, x1, y1 = np.asarray(boxes, np.float32).T[..., None]
        columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
        nearest_x = np.abs(x - (x0 + x1) / 2).argmin(axis=1)[:, None] == np.arange(self.w)
        nearest_y = np.abs(y - (y0 + y1) / 2).argmin(axis=1)[:, None] == np.arange(self.h)
        none = ~(columns.any(axis=1) & rows.any(axis=1))[:, None]
        columns, rows = np.where(none, nearest_x, columns), np.where(none, nearest_y, rows)
        inside: np.ndarray = rows[:, :, None] & columns[:, None, :]
        return inside

    def mask(self, box: Box) -> np.ndarray:
        """bool[h, w]: :meth:`masks` of one box."""
        inside: np.ndarray = self.masks(np.array([box]))[0]
        return inside


def is_tensor(value: Any) -> bool:
    """Whether something is a tensor of torch's, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class _Arrays:
    """A dataclass that holds numpy arrays: tensors are converted, wherever they are."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if is_tensor(value):
                object.__setattr__(self, name, value.detach().cpu().numpy())


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Local features on a grid.

    values  f32[D, h, w]
    logits  the network's class logits f32[C], where they were asked for
    cam     f32[K, h, w], what class activation maps are made of where that is another layer than ``values``
    levels  the same picture at other sizes, where they were asked for; ``values`` is its first
    """

    values: Tensor
    grid: Grid
    logits: Tensor | None = None
    cam: Tensor | None = None
    levels: tuple[FeatureMap, ...] = ()


@dataclass(frozen=True, eq=False)
class Keypoints(_Arrays):
    """Local features at points: values f32[N, D]; geometry f32[N, 4] = x, y, scale (pixels), angle (degrees).

    x and y are in original pixels. ``grid`` is a nominal grid over the picture, for weight maps.
    """

    values: np.ndarray
    geometry: np.ndarray
    grid: Grid

    def within(self, box: Box | None) -> int:
        """How many of them are in a box; all for None."""
        return len(self.geometry) if box is None else int(BoxWeight(box).over(self).sum())


@dataclass(frozen=True, eq=False)
class Words(_Arrays):
    """Visual words: i32[h, w] on a grid, or i32[N] at points with geometry f32[N, 4]. -1 is no word.

    size        the number of words in the vocabulary
    signatures  i64[N], the 64 bits of each one's Hamming signature, row by row on a grid, where they were asked for
    """

    words: np.ndarray
    grid: Grid
    geometry: np.ndarray | None = None
    size: int = 2**31 - 1
    signatures: np.ndarray | None = None


Features = FeatureMap | Keypoints
Local = FeatureMap | Keypoints | Words


@dataclass(frozen=True, eq=False)
class WeightMap:
    """Non-negative weights f32[Z, h, w] on a grid; classes i64[Z] where each map is of a class."""

    values: Tensor
    grid: Grid
    classes: Tensor | None = None

    def on(self, h: int, w: int) -> Tensor:
        """The weights resized bilinearly (no corner alignment) to h x w: f32[Z, h, w]."""
        if self.values.shape[1:] == (h, w):
            return self.values
        import torch.nn.functional as F

        return F.interpolate(self.values[None], size=(h, w), mode="bilinear", align_corners=False)[0]

    def at(self, geometry: np.ndarray) -> np.ndarray:
        """The weights read bilinearly at points: geometry f32[N, >=2] (x, y) -> f32[Z, N]."""
        import torch
        import torch.nn.functional as F

        sx, sy, ox, oy = self.grid.transform
        u = (geometry[:, 0] - ox) / (sx * self.grid.w) * 2 - 1
        v = (geometry[:, 1] - oy) / (sy * self.grid.h) * 2 - 1
        points = torch.from_numpy(np.stack([u, v], axis=-1).astype(np.float32))[None, None]
        sampled = F.grid_sample(
            self.values[None].cpu(), points, mode="bilinear", padding_mode="border", align_corners=False
        )
        return np.asarray(sampled[0, :, 0])

    def over(self, local: Local) -> Any:
        """The weights of each local feature, of its kind: f32[Z, h, w] over a map or words, f32[Z, N] over points."""
        if isinstance(local, FeatureMap):
            return self.on(*local.grid.shape)
        if local.geometry is None:
            return self.on(*local.grid.shape).cpu().numpy()
        return self.at(local.geometry)


@dataclass(frozen=True, eq=False)
class BoxWeight:
    """The query's box as a weight: 1 inside, 0 outside, on whatever the local features lie.

    With ``weights`` these count inside the box.
    """

    box: Box
    weights: WeightMap | None = None

    def over(self, local: Local) -> Any:
        """As :meth:`WeightMap.over`; points count when they are inside, cells when their centre is."""
        if isinstance(local, FeatureMap) or local.geometry is None:
            inside = local.grid.mask(self.box)
        else:
            (x, y), (x0, y0, x1, y1) = local.geometry[:, :2].T, self.box
            inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        alone = inside.astype(np.float32)[None]
        if not isinstance(local, FeatureMap):
            return alone if self.weights is None else alone * self.weights.over(local)
        import torch

        mask = torch.from_numpy(alone)
        return mask if self.weights is None else mask * self.weights.over(local).cpu()


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Ellipses in original pixels: centres f32[m, 2] = x, y, radii f32[m, 2], scores f32[m].

    The first radius of each lies along x, the second along y; with ``angles`` f32[m] they are turned by as many
    radians, from x towards y.
    """

    centres: Tensor
    radii: Tensor
    scores: Tensor
    angles: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a component has to show of its work on a picture: things laid over it, one on the other.

    caption  "iteration 3: 12 regions"; what comes before ": " is the title
    items    FeatureMap, WeightMap, Words, Keypoints, Regions and Ellipses; a map covers what is below it
    row      the picture of the collection that it is drawn over; -1: the very picture that was explained
    """

    caption: str
    items: tuple[FeatureMap | Keypoints | WeightMap | Words | Regions | Ellipses, ...] = ()
    row: int = -1


class Beside(NamedTuple):
    """A query's box and a hit, aligned: what a reranker compared.

    picture  u8[H, W, 3]: the box on the left, the hit on the right; what agrees is framed green, what does not red
    agreement, disagreement  the shares of the box that do, 0 to 1
    text     the same in words, a sentence
    """

    picture: np.ndarray
    agreement: float
    disagreement: float
    text: str


@dataclass(frozen=True, eq=False)
class Vectors:
    """Dense codes of one image: vectors f32[M, D], boxes f32[M, 4]; M = 1 for a global descriptor."""

    vectors: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False)
class SparseVectors(_Arrays):
    """Sparse codes of one image: M rows of a [M, K] matrix in CSR form, boxes f32[M, 4].

    indices i64[nnz] ascending in each row, data f32[nnz], indptr i64[M + 1], dim = K
    """

    indices: np.ndarray
    data: np.ndarray
    indptr: np.ndarray
    dim: int
    boxes: np.ndarray


Codes = Vectors | SparseVectors


@dataclass(frozen=True, eq=False)
class Inputs:
    """One image of the collection, or a query, with the layers that a component asked for in ``needs``."""

    size: tuple[int, int]
    row: int = -1
    name: str = ""
    grid: Grid | None = None
    image: Image | None = None
    features: Features | None = None
    regions: Regions | None = None
    weights: WeightMap | None = None
    local: Local | None = None
    codes: Codes | None = None


@dataclass(frozen=True, eq=False)
class Query:
    """One query: the picture, its box (None: the whole picture), and what the pipeline made of it.

    exclude: rows that are not in the collection at all as far as this query goes.
    per_image: hits that an image may give, each with a box of its own, 0 for as many as it has regions. Other
    than 1 only where the searcher ``lists_regions`` and nothing reranks.
    weights: the weights over the whole picture that its codes were made with; None: there were none.
    against: whether it shows what an object is not, so that its hits are compared with those of other queries.
    """

    id: str
    image: Image
    box: Box | None
    features: Features
    local: Local
    codes: Codes
    exclude: frozenset[int] = field(default_factory=frozenset)
    per_image: int = 1
    weights: WeightMap | None = None
    against: bool = False


@dataclass(frozen=True, eq=False)
class Hits:
    """Ranked results of Q queries, k each: best first, padded with image -1, score -inf and box NaN.

    An image is there once, unless the query asked for more of it (``Query.per_image``).

    images i64[Q, k] rows of the image table; scores f32[Q, k]; boxes f32[Q, k, 4], NaN where unknown.
    """

    images: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        if not self.images.shape == self.scores.shape == self.boxes.shape[:2] or self.boxes.shape[2:] != (4,):
            raise ValueError(
                f"hits disagree in shape: images {self.images.shape}, scores {self.scores.shape}, "
                f"boxes {self.boxes.shape}"
            )

    @classmethod
    def stack(cls, ranked: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], k: int) -> Hits:
        """Pad or cut one (images, scores, boxes or None) per query to k columns."""
        q = len(ranked)
        images = np.full((q, k), -1, np.int64)
        scores = np.full((q, k), -np.inf, np.float32)
        boxes = np.full((q, k, 4), np.nan, np.float32)
        for i, (image, score, box) in enumerate(ranked):
            n = min(k, len(image))
            images[i, :n], scores[i, :n] = image[:n], score[:n]
            if box is not None:
                boxes[i, :n] = box[:n]
        return cls(images, scores, boxes)

    def valid(self, q: int) -> int:
        """How many hits query ``q`` has before the padding."""
        return int((self.images[q] >= 0).sum())


def without_equals(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Scores ``own``, -inf where ``other`` is as high."""
    left: np.ndarray = np.where(other >= own, -np.inf, own)
    return left
