"""Approximate max-pooling localisation (Tolias, Sicre and Jégou, "Particular object retrieval with integral
max-pooling of CNN activations", ICLR 2016, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.data import FeatureMap, Regions
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.numeric.pooling import max_pool
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look, box_of, likeness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Box, Features, Grid, Inputs, Query

POWER = 10.0
ASPECT = 1.1  #: how far from the query's ratio of height to width a window of the search may be
STEP = 3  #: cells between the windows of the search, and of the refinement's first moves
SWEEPS = 5  #: over the sides, for each step of the refinement
WINDOWS = 2048  # windows scored at once
LOST = 1e-13  # of a channel's sum of powers: less than that is rounding


class Integral:
    """Maxima over windows, nearly, at the price of four look-ups: the integral image of each channel's power.

    psi_c = (sum_{ij in window} X_cij^p)^(1/p)

    X: f32[C, h, w]; negative values count 0, and so does a window whose maximum is below about 1/20 of the
    channel's: differences of sums cannot tell it from nothing.
    """

    def __init__(self, X: np.ndarray, p: float = POWER) -> None:
        X = np.maximum(X, 0).astype(np.float64)
        self.peak, self.p = X.max(axis=(1, 2), initial=0), p
        powers = (X / np.where(self.peak > 0, self.peak, 1)[:, None, None]) ** p
        self.sums = np.zeros((X.shape[1] + 1, X.shape[2] + 1, len(X)))
        self.sums[1:, 1:] = powers.transpose(1, 2, 0).cumsum(0).cumsum(1)

    def pooled(self, cells: np.ndarray) -> np.ndarray:
        """psi f64[M, C] of windows i64[M, 4] = x0, y0, x1, y1 in cells, ends excluded."""
        x0, y0, x1, y1 = cells.T
        total = self.sums[y1, x1] - self.sums[y0, x1] - self.sums[y1, x0] + self.sums[y0, x0]
        total[total < LOST * self.sums[-1, -1]] = 0
        psi: np.ndarray = self.peak * total ** (1 / self.p)
        return psi

    def cosines(self, cells: np.ndarray, a: np.ndarray) -> np.ndarray:
        """cos(psi, a) f64[M] with a f[C]; 0 where either is zero."""
        found = np.zeros(len(cells))
        for first in range(0, len(cells), WINDOWS):
            psi = self.pooled(cells[first : first + WINDOWS])
            length = np.linalg.norm(psi, axis=1) * np.linalg.norm(a)
            np.divide(psi @ a, length, out=found[first : first + WINDOWS], where=length > 0)
        return found


def coarse(h: int, w: int, step: int = STEP) -> np.ndarray:
    """Windows whose first row and column are multiples of ``step`` and whose sides are 1, 1 + step, ...: i64[M, 4]."""
    rows, columns = (
        np.array([(a, b) for a in range(0, n, step) for b in range(a + 1, n + 1, step)]) for n in (h, w)
    )
    i, j = np.indices((len(rows), len(columns))).reshape(2, -1)
    return np.stack([columns[j, 0], rows[i, 0], columns[j, 1], rows[i, 1]], axis=1)


def localised(integral: Integral, a: np.ndarray, ratio: float) -> np.ndarray:
    """The window most like the query: a coarse search, then each side moved while that gains.

    a: f[C], the query's maxima; ratio: its height by its width, in cells. Only windows of a like ratio are
    searched; the refinement is free of that. Where there are none it starts from the whole map. Returns i64[4].
    """
    h, w = integral.sums.shape[0] - 1, integral.sums.shape[1] - 1
    cells = coarse(h, w)
    shape = (cells[:, 3] - cells[:, 1]) / (cells[:, 2] - cells[:, 0])
    cells = cells[np.abs(np.log(shape / ratio)) <= np.log(ASPECT) + 1e-9]
    if not len(cells):
        cells = np.array([[0, 0, w, h]])
    scores = integral.cosines(cells, a)
    at = int(scores.argmax())
    best: np.ndarray = cells[at]
    score = float(scores[at])
    for step in range(STEP, 0, -1):
        for _ in range(SWEEPS):
            before = score
            for side in range(4):
                moved = best + np.array([[-step], [step]]) * (np.arange(4) == side)
                within = (moved[:, :2] >= 0).all(1) & (moved[:, 2:] <= (w, h)).all(1)
                moved = moved[within & (moved[:, 0] < moved[:, 2]) & (moved[:, 1] < moved[:, 3])]
                scores = integral.cosines(moved, a)
                if len(moved) and scores.max() > score:
                    best, score = moved[int(scores.argmax())], float(scores.max())
            if score == before:
                break
    return best


class AML(HitByHit):
    """Finds the query's maxima in the maps of the hits, then compares codes of what was found.

    The window of a hit is the one whose maxima are most like those of the query's box; the hit's score is the
    likeness of the pipeline's own code of that window to the query's. Hits that are not looked at keep their
    order, after these. Followed by `lqe` it is the publication's query expansion. Unlike there, activations
    are not rounded to nine levels.
    """

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The best window of each hit, and its codes' likeness to the query's."""
        X, grid = _map(query.features)
        box = box_of(query)
        a = max_pool(X, torch.from_numpy(grid.mask(box))[None].to(X.device))[0].clamp(min=0).cpu().numpy()
        kinds = ("features",) if data.encoder.local is None else ("features", "local")
        for inputs in data.inputs(kinds, rows):
            yield Look(inputs.row, *self._found(inputs, query, a, box, data))

    def _found(
        self, inputs: Inputs, query: Query, a: np.ndarray, box: Box, data: Data
    ) -> tuple[float, np.ndarray]:
        """The score and the box f32[4] of one hit."""
        assert inputs.features is not None
        X, grid = _map(inputs.features)
        sx, sy, _, _ = grid.transform
        ratio = (box[3] - box[1]) / (box[2] - box[0]) * sx / sy
        window = localised(Integral(X.cpu().numpy()), a.astype(np.float64), ratio)
        boxes = cell_boxes(window[None], grid)
        local = inputs.features if data.encoder.local is None else inputs.local
        assert local is not None
        codes = data.encoder.aggregate(local, None, Regions(boxes, torch.ones(1)))
        products = likeness(codes, query.codes)
        return float(products.max()) if products.numel() else 0.0, boxes[0].numpy()


def _map(features: Features) -> tuple[Tensor, Grid]:
    if not isinstance(features, FeatureMap):
        raise InstsearchError("aml looks for maxima in feature maps; for keypoints there is geometric")
    return features.values.to(torch.float32), features.grid
