"""Patches of a picture as pictures by themselves (Choi et al., "Patch-wise retrieval", WACV 2026, section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from instsearch_plugins.numeric.regions import patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from instsearch_cli.data import FeatureMap, Image

MOST = 10  #: levels, of 385 patches in all
Cut = tuple[int, int, int, int]


def tiles(x: Tensor, levels: int) -> Iterator[tuple[Tensor, Cut]]:
    """The patches of 1 x 1, 2 x 2, ... grids over pictures f32[B, 3, H, W], cut at whole pixels, and where.

    At least a pixel wide and high; x0, y0, x1, y1. See :func:`patches`.
    """
    H, W = x.shape[2:]
    for box in patches((W, H), levels).tolist():
        x0, y0 = min(round(box[0]), W - 1), min(round(box[1]), H - 1)
        x1, y1 = max(round(box[2]), x0 + 1), max(round(box[3]), y0 + 1)
        yield x[:, :, y0:y1, x0:x1], (x0, y0, x1, y1)


def tile_maps(
    x: Tensor, levels: int, images: Sequence[Image], describe: Callable[[Tensor], Sequence[FeatureMap]]
) -> list[list[FeatureMap]]:
    """What ``describe`` makes of each patch of some pictures, its cells where they lie in the originals.

    x: f32[B, 3, H, W]; images: those B. Returns one list a patch, of B maps.
    """
    found = []
    for part, cut in tiles(x, levels):
        maps = zip(describe(part), images, strict=True)
        found.append([_placed(one, cut, image.scale) for one, image in maps])
    return found


def _placed(features: FeatureMap, cut: Cut, scale: tuple[float, float]) -> FeatureMap:
    (x0, y0, x1, y1), (sx, sy), (h, w) = cut, scale, features.grid.shape
    transform = (sx * (x1 - x0) / w, sy * (y1 - y0) / h, sx * x0, sy * y0)
    return replace(features, grid=replace(features.grid, transform=transform))
