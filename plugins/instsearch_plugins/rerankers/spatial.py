"""Spatial re-ranking and localisation by sliding windows (Mohedano et al., ICMR 2016, section 3.3).

Every window of a hit is described as the query is, by the pipeline's own encoder: words or vectors. The window
most like the query's box is where the object is, and its likeness is the hit's score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.data import Regions
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look, box_of, likeness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from instsearch_cli.components import Data, Encoder
    from instsearch_cli.data import Box, Codes, Local, Query

SHARES = (1, 2, 4)  #: a window's side is that of the map, its half or its quarter
FULL, QUADRANT = 1 / 2, 1.0  #: weights of the pyramid's two levels, 1 / 2^(L - l) with L = 2


def windows(h: int, w: int) -> np.ndarray:
    """Windows of an h x w map that overlap by half.

    Sides floor(h / f) and floor(w / f) for f in 1, 2, 4, taken in all nine combinations; the step is half a
    side, at least a cell. Returns i64[M, 4] of cells x0, y0, x1, y1 (ends excluded): 121 of a 16 x 24 map.
    """
    across, down = ({s for f in SHARES if (s := n // f)} for n in (w, h))
    found = [
        (x, y, x + ww, y + hh)
        for hh in sorted(down, reverse=True)
        for ww in sorted(across, reverse=True)
        for y in range(0, h - hh + 1, max(1, hh // 2))
        for x in range(0, w - ww + 1, max(1, ww // 2))
    ]
    return np.array(found, np.int64)


def aspect_likeness(boxes: Tensor, ratio: float) -> Tensor:
    """How alike the shapes are: s = min(AR_w, AR_q) / max(AR_w, AR_q), AR = width / height.

    boxes: f32[M, 4], ratio: AR_q. Returns f32[M] in (0, 1].
    """
    AR = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
    return torch.minimum(AR, AR.new_tensor(ratio)) / torch.maximum(AR, AR.new_tensor(ratio))


def pyramid(cells: np.ndarray) -> np.ndarray:
    """Each window and its four quadrants: i64[M, 4] -> i64[M, 5, 4]; those of a side of one cell are that side."""
    x0, y0, x1, y1 = cells.T
    xm, ym = x0 + (x1 - x0) // 2, y0 + (y1 - y0) // 2
    left, right = (x0, np.maximum(xm, x0 + 1)), (xm, x1)
    top, bottom = (y0, np.maximum(ym, y0 + 1)), (ym, y1)
    quadrants = [(a[0], b[0], a[1], b[1]) for b in (top, bottom) for a in (left, right)]
    return np.stack([cells, *(np.stack(q, 1) for q in quadrants)], 1)


def quarters(box: Box) -> list[Box]:
    """A box and its four quadrants, in the order of :func:`pyramid`."""
    x0, y0, x1, y1 = box
    xm, ym = (x0 + x1) / 2, (y0 + y1) / 2
    return [box, (x0, y0, xm, ym), (xm, y0, x1, ym), (x0, ym, xm, y1), (xm, ym, x1, y1)]


def hull(best: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The smallest window around one window and those of the others that overlap it: i64[4], i64[M, 4] -> i64[4]."""
    overlapping = (np.maximum(best[:2], others[:, :2]) < np.minimum(best[2:], others[:, 2:])).all(1)
    around = np.vstack([best, others[overlapping]])
    return np.concatenate([around[:, :2].min(0), around[:, 2:].max(0)])


def pyramid_score(likeness: Tensor) -> Tensor:
    """sum_r w_r cos(r, r of the query) / sum_r w_r: f32[M, 5] -> f32[M], the window first, then its quadrants."""
    w = likeness.new_tensor([FULL, *(4 * [QUADRANT])])
    return likeness @ (w / w.sum())


class Spatial(HitByHit):
    """score = the best window's likeness, times the score before, for the hits looked at; the others come after.

    A score before that is below 0, as whitened codes have it, is taken 1 - likeness times.

    A hit's score is counted from the score of the first hit that was not looked at, so that scores fall
    along the list.
    """

    @dataclass(frozen=True)
    class Config(HitByHit.Config):
        #: windows less alike in shape to the query's box than this are left out; 0 keeps all
        aspect: float = 0.4
        #: a hit's box holds all windows that reach this share of the best one's score and overlap it; 1 is the
        #: best window alone, as in the paper, which tends to be a part of the object
        within: float = 0.75
        #: the likeness is multiplied by the hit's score before, without which weighted codes lose by re-ranking;
        #: the paper's is not
        times_before: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (0 <= self.aspect <= 1 and 0 < self.within <= 1):
                raise ValueError("aspect is between 0 and 1, within above 0 and at most 1")

    config: Config

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The best window of each hit. Raises InstsearchError for an encoder that sums regions up."""
        encoder, box = data.encoder, box_of(query)
        asked = encoder.aggregate(query.local, None, _regions(torch.tensor(quarters(box))))
        if len(asked.boxes) != 5:
            raise InstsearchError(
                "the spatial reranker compares single regions, and the pipeline's encoder has one code for all "
                "of them: use an encoder that describes each by itself (mac, regions, blcf), or another reranker"
            )
        ratio = (box[2] - box[0]) / (box[3] - box[1])
        for inputs in data.inputs(("features" if encoder.local is None else "local",), rows):
            local = inputs.local or inputs.features
            assert local is not None
            yield Look(inputs.row, *self._best(encoder, local, asked, ratio))

    def counted(self, score: float, before: float) -> float:
        """The likeness, times the score before if so asked: the more of either, the more it is."""
        if not self.config.times_before:
            return score
        return before * (score if before >= 0 else 1 - score)

    def _best(self, encoder: Encoder, local: Local, asked: Codes, ratio: float) -> tuple[float, np.ndarray]:
        """The score and the box of the best window of one image."""
        cells = windows(local.grid.h, local.grid.w)
        alike = aspect_likeness(cell_boxes(cells, local.grid), ratio)
        kept = alike >= min(self.config.aspect, float(alike.max()))
        parts = pyramid(cells[kept.numpy()])
        distinct, place = np.unique(parts.reshape(-1, 4), axis=0, return_inverse=True)
        codes = encoder.aggregate(local, None, _regions(cell_boxes(distinct, local.grid)))
        cosines = likeness(codes, asked).cpu()[torch.from_numpy(place.reshape(parts.shape[:2]))]
        score = pyramid_score(cosines.diagonal(dim1=1, dim2=2))
        best = int(score.argmax())
        near = parts[(score >= self.config.within * score[best]).numpy(), 0]
        return float(score[best]), cell_boxes(hull(parts[best, 0], near)[None], local.grid)[0].numpy()


def _regions(boxes: Tensor) -> Regions:
    return Regions(boxes.to(torch.float32), torch.ones(len(boxes)))
