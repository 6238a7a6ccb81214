"""A hit's box from all of its regions, in place of the best one's (after Xiao et al., 2020, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_plugins.rerankers.hit_by_hit import QueryByQuery, Ranked, likeness

if TYPE_CHECKING:
    from instsearch_cli.components import Data
    from instsearch_cli.data import Query


def moments_box(
    boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int], power: float = 6.0, scale: float = 1.75
) -> np.ndarray:
    """The rectangle around the ellipse with the second moments of regions, weighed by their scores.

    w_i = max(s_i, 0)^power / sum_j max(s_j, 0)^power,  mu = sum w_i c_i
    sigma^2 = sum w_i ((c_i - mu)^2 + h_i^2 / 4),  mu -+ scale sigma

    where c and h are a box's centre and half its sides: an ellipse evenly filled that just fits into the box has
    the variance h^2 / 4. boxes f32[R, 4], scores f32[R] -> f32[4], cut to a picture of ``size`` = (width, height).
    Raises ValueError if no score is above 0.
    """
    w = scores.clip(0).astype(np.float64)
    if not w.any():
        raise ValueError("no region is like the query")
    w = (w / w.max()) ** power
    low, high = np.split(boxes.astype(np.float64), 2, axis=1)
    c, h = (low + high) / 2, (high - low) / 2
    w = w / w.sum()
    mu = w @ c
    sigma = np.sqrt(w @ ((c - mu) ** 2 + h**2 / 4))
    ends = np.maximum(mu - scale * sigma, 0), np.minimum(mu + scale * sigma, size)
    return np.concatenate(ends).astype(np.float32)


class RegionBox(QueryByQuery):
    """The box of every hit looked at from all the regions of its picture, see :func:`moments_box`.

    s_i is region i's largest product with a vector of the query. Ranks and scores stay as they are; so does the box
    of a hit that has one region, or none that is like the query. For an encoder over regions.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of ``region-box``, chosen over regions that the detector has merged."""

        depth: int = 100  #: how many of the best hits are looked at
        power: float = 6.0  #: a region weighs its score to this power
        scale: float = 1.75  #: half an ellipse's axis, in standard deviations

        def __post_init__(self) -> None:
            if self.depth < 1 or self.power < 0 or self.scale <= 0:
                raise ValueError("depth is at least 1, power not negative, scale above 0")

    config: Config

    def ranked(self, query: Query, hits: Ranked, data: Data) -> Ranked:
        """The hits as they were, the first ``depth`` of them with other boxes."""
        images, scores, boxes = hits[0], hits[1], hits[2].copy()
        rank = {int(row): r for r, row in enumerate(images[: self.config.depth])}
        for inputs in data.inputs(("codes",), np.array([*rank], np.int64)):
            codes, r = inputs.codes, rank[inputs.row]
            assert codes is not None
            if len(codes.boxes) < 2 or np.isnan(boxes[r]).any():
                continue
            s = likeness(codes, query.codes).amax(1).cpu().numpy()
            if (s > 0).any():
                regions = torch.as_tensor(codes.boxes).cpu().numpy()
                boxes[r] = moments_box(regions, s, inputs.size, self.config.power, self.config.scale)
        return images, scores, boxes
