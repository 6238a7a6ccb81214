"""Feature maps with an object in them, collections of these, and object saliency that is learnt from them."""

from __future__ import annotations

import numpy as np
import torch

from instsearch_cli.data import FeatureMap, Grid, Inputs
from instsearch_cli.engine.assembly import pick_device
from instsearch_cli.options import make_config
from instsearch_cli.storage import to_state
from instsearch_plugins.weighters.object_saliency import ObjectSaliency

CPU = pick_device("cpu")
SIZE = (160, 96)


def feature_map(values):
    h, w = values.shape[1:]
    return FeatureMap(values, Grid.over(h, w, SIZE))


def inputs_of(values, row=-1):
    features = feature_map(values)
    return Inputs(size=SIZE, row=row, grid=features.grid, features=features)


def scene(seed, C=8, h=6, w=10):
    """Faint noise, and a bright object of two channels in it."""
    g = torch.Generator().manual_seed(seed)
    A = (torch.rand(C, h, w, generator=g) - 0.4).clamp(min=0)
    y, x = (int(torch.randint(0, max(1, n), (1,), generator=g)) for n in (h - 2, w - 3))
    A[:2, y : y + 3, x : x + 4] += 3 * torch.rand(2, min(h, 3), 4, generator=g)
    return A


class Collection:
    """Images 10, 11, ... with these feature maps."""

    def __init__(self, maps, folder):
        self.maps, self.folder, self.seen = maps, folder, []
        self.images = np.arange(len(maps)) + 10

    def inputs(self, kinds, rows=None):
        assert kinds == ("features",)
        for row in self.images if rows is None else rows:
            self.seen.append(int(row))
            yield inputs_of(self.maps[row - 10], int(row))

    def scratch(self):
        return self.folder


class Recorder:
    """Notes how far each piece of work said it was."""

    def __init__(self):
        self.said = []

    def start(self, label, total=None, unit="images"):
        self.said.append([label, total, 0])

    def advance(self, n=1):
        self.said[-1][2] += n


def learnt(maps, folder, **options):
    """A component and what it learnt, as the index gives it back."""
    component = ObjectSaliency(make_config(ObjectSaliency, options, "weighting"), CPU)
    with torch.inference_mode():
        state = component.fit(Collection(maps, folder), Recorder())
    return component, to_state(state)


def fitted(maps, folder, **options):
    component, state = learnt(maps, folder, **options)
    component.load(state)
    return component


SCENES = [scene(seed) for seed in range(12)]


def plain_feature_saliency(A, epsilon):
    C, h, w = A.shape
    cells = [(i, j) for i in range(h) for j in range(w)]
    a = [sum(float(A[c, i, j]) != 0 for i, j in cells) / len(cells) for c in range(C)]
    b = [np.log(sum(x + epsilon for x in a) / (x + epsilon)) for x in a]
    F = {(i, j): sum(b[c] * float(A[c, i, j]) for c in range(C)) for i, j in cells}
    length = sum(v * v for v in F.values()) ** 0.5
    rows = [[(F[i, j] / length) ** 0.5 if length else 0.0 for j in range(w)] for i in range(h)]
    return torch.tensor(rows, dtype=torch.float32)
