"""Local-aware re-ranking by class activation maps (Jiménez, Álvarez and Giró-i-Nieto, "Class-weighted convolutional
features for visual instance search", BMVC 2017; thesis, section 6.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.data import BoxWeight, FeatureMap, Hits, Vectors, WeightMap
from instsearch_cli.errors import UsageError
from instsearch_plugins.abilities import ClassEncoder, ClassWeighter
from instsearch_plugins.numeric.cam_boxes import Area, threshold_boxes
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look, box_of, hits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Codes, Query
    from instsearch_plugins.rerankers.hit_by_hit import Ranked

NO_BOX = -1.0  #: the score of a hit whose boxes are all too small: no cosine is below


class CAMBoxes(HitByHit):
    """score = max_t <q, D(box_t)>: the hit's likeness to the query in the best of a few boxes.

    Each box lies around the largest part of the hit's heat above a threshold (:func:`threshold_boxes`); heat is the
    mean of the maps of the query's first classes, and D the code of encoder `cam` of what is in the box, from the
    query's first ``classes`` classes, as is q. The best box is the hit's.
    """

    @dataclass(frozen=True)
    class Config(HitByHit.Config):
        classes: int = 6  #: of the query's classes, how many of the first describe it and the boxes
        heat_classes: int = 2  #: of these, how many of the first make the heat
        #: shares of the heat's maximum; the authors' code makes do with the first four
        thresholds: tuple[float, ...] = (0.01, 0.1, 0.2, 0.3, 0.4)
        min_side: int = 0  #: boxes with a side of fewer cells are left out; 5 in the authors' code
        #: the largest part above a threshold has the most cells, or the contour around it that encloses most
        area: Area = "cells"
        #: false: each hit is taken whole; with ``expand`` that is query expansion among the query's own classes
        boxes: bool = True
        #: search again with the sum of the best so many of these boxes' codes, the query not among them; 0: do not
        expand: int = 0

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.heat_classes <= self.classes:
                raise ValueError("heat-classes is at least 1, and classes not fewer")
            if not self.thresholds or not all(0 <= t < 1 for t in self.thresholds):
                raise ValueError("thresholds are shares of the maximum, from 0 to below 1")
            if self.min_side < 0 or not 0 <= self.expand <= self.depth:
                raise ValueError("min-side is at least 0, and expand from 0 to depth")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.device = device

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes], int], Hits],
    ) -> Hits:
        """New scores for the first ``depth`` hits of each query; with ``expand`` all are searched again.

        q' = L2 of the sum of the best ``expand`` boxes' codes; hits that were looked at are then compared as they
        are in their boxes, all others as they are in the collection.
        """
        if not self.config.expand:
            return super().rerank(queries, hits, data, search)
        looks, codes = [], []
        for i, query in enumerate(queries):
            top = hits_of(hits, i)[0][: self.config.depth]
            looks.append([look for look in self.look(query, top, data) if look.code is not None])
            codes.append(expanded(query.codes, looks[-1], self.config.expand))
        k = hits.images.shape[1]
        again = search(codes, k + self.config.depth)
        ranked = [replaced(hits_of(again, i), codes[i], looks[i]) for i in range(len(queries))]
        return Hits.stack(ranked, k)

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The best box of each hit. Raises UsageError unless the pipeline is one of class maps."""
        encoder, weighter, asked = _of_classes(query, data)
        classes = asked.classes[: self.config.classes]
        first = WeightMap(asked.values[: len(classes)], asked.grid, classes)
        q = _vectors(encoder.aggregate(query.local, BoxWeight(box_of(query), first), None))[0]
        for inputs in data.inputs(("features",), rows):
            assert isinstance(inputs.features, FeatureMap)
            features = on(inputs.features, self.device)
            maps = weighter.class_maps(features, classes)
            boxes = self._boxes(maps)
            if not len(boxes):
                yield Look(inputs.row, NO_BOX, None)
                continue
            codes = [encoder.aggregate(features, BoxWeight(tuple(box), maps), None) for box in boxes.tolist()]
            D = torch.cat([_vectors(code) for code in codes])
            cosines = (D @ q).cpu()
            best = int(cosines.argmax())
            yield Look(inputs.row, float(cosines[best]), boxes[best].numpy(), D[best].cpu())

    def _boxes(self, maps: WeightMap) -> Tensor:
        """The distinct boxes f32[B, 4] of the maps, from the lowest threshold on."""
        if not self.config.boxes:
            return torch.tensor([extent(maps.grid)])
        heat = maps.values[: self.config.heat_classes].mean(0).cpu().numpy()
        cells = threshold_boxes(heat, self.config.thresholds, self.config.area)
        _, first = np.unique(cells, axis=0, return_index=True)
        cells = cells[np.sort(first)]
        large = (cells[:, 2:] - cells[:, :2] >= self.config.min_side).all(1)
        return cell_boxes(cells[large], maps.grid)


def _of_classes(query: Query, data: Data) -> tuple[ClassEncoder, ClassWeighter, Any]:
    """The encoder, the weighter and the query's class maps. Raises UsageError if they are not of classes."""
    encoder, weighter, asked = data.encoder, data.weighter, query.weights
    known = asked is not None and asked.classes is not None
    if not known or not isinstance(encoder, ClassEncoder) or not isinstance(weighter, ClassWeighter):
        raise UsageError(
            "reranker 'cam-boxes' finds boxes on the maps of the query's classes: it takes an index made with "
            "--weighting cam and --encoder cam"
        )
    return encoder, weighter, asked


def on(features: FeatureMap, device: torch.device) -> FeatureMap:
    """The same features on a device."""
    cam = None if features.cam is None else features.cam.to(device)
    return replace(features, values=features.values.to(device), cam=cam)


def expanded(query: Codes, looks: Iterable[Look], n: int) -> Codes:
    """q' = L2 sum_j D_j over the n best of what was found; the query where nothing was.

    Unlike in average query expansion the query's own vector is not added.
    """
    best = sorted(looks, key=lambda look: -look.score)[:n]
    if not best:
        return query
    total = torch.stack([look.code for look in best if look.code is not None]).sum(0, keepdim=True)
    return Vectors(l2(total).to(_vectors(query).device), torch.as_tensor(query.boxes))


def replaced(hits: Ranked, query: Codes, looks: Sequence[Look]) -> Ranked:
    """Hits of a collection in which the images looked at are as they are in their boxes.

    hits: of the collection as it is, best first; those of other images keep their scores. Returns the hits by
    falling score, ties by row.
    """
    images, scores, boxes = hits
    others = ~np.isin(images, [look.row for look in looks])
    q = _vectors(query)[0].cpu()
    rows = np.array([look.row for look in looks], np.int64)
    products = np.array([float(look.code @ q) for look in looks if look.code is not None], np.float32)
    places = np.array([look.box for look in looks], np.float32).reshape(-1, 4)
    images = np.concatenate([images[others], rows])
    scores = np.concatenate([scores[others], products])
    boxes = np.concatenate([boxes[others], places])
    order = np.lexsort((images, -scores))
    return images[order], scores[order], boxes[order]


def _vectors(codes: Codes) -> Tensor:
    assert isinstance(codes, Vectors)
    return codes.vectors
