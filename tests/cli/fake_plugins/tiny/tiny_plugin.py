"""The smallest components of every kind: mean colours of cells, compared exactly."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from instsearch_cli import (
    DetectorSpec,
    EncoderSpec,
    ExtractorSpec,
    RerankerSpec,
    SearcherSpec,
    WeighterSpec,
    hookimpl,
)
from instsearch_cli.components import option
from instsearch_cli.data import FeatureMap, Grid, Hits, Regions, Vectors, WeightMap

CALLS: list[str] = []


@hookimpl
def instsearch_extractors():
    return [ExtractorSpec("cells", "tiny_plugin:Cells", "mean colours")]


@hookimpl
def instsearch_weighters():
    return [
        WeighterSpec("flat", "tiny_plugin:Flat", "ones"),
        WeighterSpec("bright", "tiny_plugin:Bright", "brightness", needs=("features",)),
        WeighterSpec("wrong", "tiny_plugin:Wrong", "negative"),
    ]


@hookimpl
def instsearch_detectors():
    return [DetectorSpec("halves", "tiny_plugin:Halves", "left and right")]


@hookimpl
def instsearch_encoders():
    return [EncoderSpec("centred", "tiny_plugin:Centred", "mean", needs=("features", "weights", "regions"))]


@hookimpl
def instsearch_searchers():
    return [SearcherSpec("scan", "tiny_plugin:Scan", "brute force", needs=("codes",))]


@hookimpl
def instsearch_rerankers():
    return [RerankerSpec("again", "tiny_plugin:Again", "search again with the best hit")]


class Component:
    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, config, device):
        self.config = config


class Cells(Component):
    encoding: ClassVar[str] = "dense-map"
    batch = 4

    @dataclass(frozen=True)
    class Config:
        side: int = 4
        weights: str = option("", touches="query")

    def fit_size(self, width, height):
        return min(width, 64), min(height, 48)

    def identity(self):
        return {"weights": self.config.weights or "0" * 64}

    def extract(self, images):
        CALLS.append(f"extract {len(images)}")
        out = []
        for image in images:
            x = torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255
            values = torch.nn.functional.adaptive_avg_pool2d(x, (self.config.side, self.config.side))
            out.append(FeatureMap(values, Grid.over(self.config.side, self.config.side, image.size)))
        return out


class Flat(Component):
    def weigh(self, inputs):
        return WeightMap(torch.ones(1, *inputs.grid.shape), inputs.grid)


class Bright(Component):
    def weigh(self, inputs):
        return WeightMap(inputs.features.values.mean(0, keepdim=True), inputs.grid)


class Wrong(Component):
    def weigh(self, inputs):
        return WeightMap(-torch.ones(1, *inputs.grid.shape), inputs.grid)


class Halves(Component):
    def detect(self, inputs):
        w, h = inputs.size
        return Regions(torch.tensor([[0.0, 0, w / 2, h], [w / 2, 0, w, h]]), torch.ones(2))


class Centred(Component):
    local = None
    codes = "vectors"
    fit_needs = ("features", "weights")

    @dataclass(frozen=True)
    class Config:
        power: float = option(1.0, touches="codes")

    def fit(self, data, progress):
        progress.start("fitting", len(data.images))
        means = [i.features.values.mean((1, 2)) for i in data.inputs(("features", "weights"))]
        return {"mean": torch.stack(means).mean(0)}

    def load(self, state):
        self.mean = torch.as_tensor(np.array(state["mean"]))

    def aggregate(self, local, weights, regions):
        alpha = torch.ones(1, *local.grid.shape) if weights is None else weights.over(local)
        boxes = torch.tensor(
            [[0.0, 0, local.grid.w * local.grid.transform[0], local.grid.h * local.grid.transform[1]]]
        )
        masks = [alpha[0]]
        if regions is not None:
            boxes = regions.boxes
            masks = [alpha[0] * torch.from_numpy(mask) for mask in local.grid.masks(boxes)]
        x = torch.stack([(local.values * m).sum((1, 2)) / m.sum().clamp(min=1e-6) for m in masks]) - self.mean
        return Vectors(torch.nn.functional.normalize(x**self.config.power, dim=1), boxes)


class Scan(Component):
    accepts = ("vectors",)

    def fit(self, data, progress):
        blocks = list(data.blocks("codes"))
        return {
            "vectors": np.concatenate([b["vectors"] for b in blocks]),
            "boxes": np.concatenate([b["boxes"] for b in blocks]),
            "rows": np.concatenate(
                [np.repeat(np.arange(b["start"], b["stop"]), np.diff(b["indptr"])) for b in blocks]
            ),
        }

    def load(self, state):
        self.state = state

    def search(self, queries, data, k):
        ranked = []
        live = set(data.images.tolist())
        for query in queries:
            scores = self.state["vectors"] @ query.codes.vectors[0].numpy()
            best = {}
            for i in np.argsort(-scores, kind="stable"):
                row = int(self.state["rows"][i])
                if row in live and row not in query.exclude and row not in best:
                    best[row] = i
            order = list(best.values())
            ranked.append((self.state["rows"][order], scores[order], self.state["boxes"][order]))
        return Hits.stack(ranked, k)


class Again(Component):
    def rerank(self, queries, hits, data, search):
        codes = [data.read("codes", int(row)) for row in hits.images[:, 0]]
        return search(codes, hits.images.shape[1])
