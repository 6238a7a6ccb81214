"""Feature maps with the same regions, collections of them, and encoders of regions fitted to one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from instsearch_cli.data import FeatureMap, Grid, Inputs, Regions
from instsearch_plugins.numeric.regions import cell_boxes, rmac_grid

CPU = torch.device("cpu")
QUIET = SimpleNamespace(start=lambda *a: None, advance=lambda n=1: None)
SIZE = (80, 60)
GRID = Grid.over(6, 8, SIZE)
CELLS = rmac_grid(6, 8, 2)


def image(seed, C=6, grid=GRID):
    values = torch.rand(C, *grid.shape, generator=torch.Generator().manual_seed(seed)).sub(0.3).clamp(min=0)
    return FeatureMap(values, grid)


def regions_of(cells, grid=GRID):
    return Regions(cell_boxes(cells, grid), torch.ones(len(cells)))


GRIDDED = regions_of(CELLS)


class Collection:
    """Images 10, 11, ..., each with the same regions (None: without)."""

    def __init__(self, features, regions=GRIDDED, weights=None):
        self.features, self.regions, self.weights = features, regions, weights
        self.images = np.arange(len(features)) + 10

    def named(self):
        return {f"{row}.jpg": int(row) for row in self.images}

    def inputs(self, kinds, rows=None):
        for row in self.images if rows is None else rows:
            known = {"features": self.features[row - 10], "regions": self.regions, "weights": self.weights}
            yield Inputs(size=SIZE, row=int(row), name=f"{row}.jpg", **{k: known[k] for k in kinds})


def fitted(cls, collection, **options):
    encoder = cls(cls.Config(**options), CPU)
    state = encoder.fit(collection, QUIET)
    encoder.load({k: np.asarray(v) for k, v in state.items()})
    return encoder


def bare(cls, **options):
    """Without any whitening."""
    encoder = cls(cls.Config(**options), CPU)
    encoder.load({})
    return encoder


def pooled(X, cells, mode="max"):
    """Unit vectors of regions, by plain loops."""
    rows = []
    for x0, y0, x1, y1 in cells.tolist():
        inside = [X[:, i, j].tolist() for i in range(y0, y1) for j in range(x0, x1)]
        columns = list(zip(*inside, strict=True))
        row = [max(c) if mode == "max" else sum(c) / len(c) for c in columns]
        length = sum(v * v for v in row) ** 0.5 or 1.0
        rows.append([v / length for v in row])
    return torch.tensor(rows)


def angles(x):
    """What the open signs of the axes leave."""
    return x @ x.T


IMAGES = [image(i) for i in range(12)]
