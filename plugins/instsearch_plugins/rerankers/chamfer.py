"""Re-ranking by the local features themselves: Chamfer similarity (Barrow, Tenenbaum, Bolles and Wolf, 1977).

By default features are decorrelated first, as Hariharan, Malik and Ramanan decorrelate exemplars in "Discriminative
decorrelation for clustering and classification", ECCV 2012, with the further hits for a background.

The option ``transport`` matches as Suma, Kordopatis-Zilos, Kalantidis and Tolias do in "ELViS: efficient visual
similarity from local descriptors that generalizes across domains", ICLR 2026, before what they learn: by entropic
optimal transport with SuperGlue's dustbins. The dustbins' value is learnt there, and set here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_cli.data import BoxWeight, Keypoints
from instsearch_plugins.numeric.chamfer import Background, chamfer, similarities
from instsearch_plugins.numeric.local_features import rows as rows_of
from instsearch_plugins.numeric.local_features import sizes
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.regions import cell_boxes
from instsearch_plugins.numeric.threads import one_thread
from instsearch_plugins.numeric.transport import transported
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look
from instsearch_plugins.rerankers.region_box import moments_box

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from instsearch_cli.components import Data
    from instsearch_cli.data import Features, Grid, Inputs, Query

BACKGROUND = 60  # hits that it is of
SAMPLE = 3000  # features of these, about
FEW, MANY = 1 << 17, 1 << 24  # pairs of local features compared at once: what a CPU's cache holds; on a GPU


class Chamfer(HitByHit):
    """score = mean over the query's features q_i in its box of max_j <q_i, x_j> over the image's features x_j.

    Features are brought to unit length: a map's cells, of all its sizes, or keypoints' descriptors. With
    ``decorrelated`` it is max_j <a_i, x_j - mu>,  a_i = S^-1 (q_i - mu) / (q_i - mu)^T S^-1 (q_i - mu), mu and S being
    the mean and the covariance of what is in the hits after the first quarter, where these are BACKGROUND or more:
    pictures much like the query that seldom show the object. With ``transport`` max_j P_ij, see :func:`transported`. A
    hit's box is :func:`moments_box` of the cells, or keypoints, that are somebody's best match. On a GPU several hits
    are compared at once.
    """

    @dataclass(frozen=True)
    class Config(HitByHit.Config):
        """Options of ``chamfer``."""

        depth: int = 400  #: how many of the best hits are looked at
        features: int = 100  #: of the query at most, those of the largest norm; 0: all in its box
        decorrelated: bool = True  #: features that many hits have count for less
        transport: bool = (
            False  #: features are matched by optimal transport: one of the image is not all the query's
        )
        dustbin: float = 0.5  #: a match less like than this counts for less than none
        temperature: float = 10.0  #: of the transport; a higher one leaves less between the best matches
        iterations: int = 10  #: of Sinkhorn
        power: float = 6.0  #: a match weighs its worth to this power in the box
        scale: float = 2.1  #: half an axis of the box's ellipse, in standard deviations

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.features < 0 or self.iterations < 1 or self.power < 0:
                raise ValueError("features and power are not negative, iterations at least 1")
            if not (-1 <= self.dustbin <= 1 and 0 < self.temperature <= 50 and self.scale > 0):
                raise ValueError("dustbin is -1 to 1, temperature above 0 and at most 50, scale above 0")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self.device = device

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The likeness of each hit, and the box of what matched."""
        c, Q, b = self.config, self._asked(query), None
        if not len(Q):
            return
        if c.decorrelated and (background := self._background(rows, data)):
            Q, b = background.detectors(Q)
        most = FEW if self.device.type == "cpu" else MANY
        for group in _groups(data.inputs(("features",), rows), most // len(Q)):
            with one_thread():
                S = similarities(Q, [x.to(self.device) for _, x, _ in group], b)
                alike, match = (each.cpu() for each in S.max(2))
                scores = alike.clamp_(min=-1).mean(1)
                if c.transport:
                    P = transported(S, (S > -1).any(1), c.dustbin, c.temperature, c.iterations)
                    scores = chamfer(P)
            every = zip(group, scores.tolist(), alike.numpy(), match.numpy(), strict=True)
            for (inputs, _, boxes), score, s, j in every:
                box = moments_box(boxes[j], s, inputs.size, c.power, c.scale) if (s > 0).any() else None
                if box is not None and (box[2:] <= box[:2]).any():  # of a single keypoint
                    box = None
                yield Look(inputs.row, score, box)

    def _background(self, rows: np.ndarray, data: Data) -> Background | None:
        """That of the hits after the first quarter; None where these are few."""
        further = rows[len(rows) // 4 :]
        some = further[:: max(1, len(further) // BACKGROUND)]
        if len(some) < BACKGROUND:
            return None
        found = []
        for inputs in data.inputs(("features",), some):
            assert inputs.features is not None
            x = rows_of(inputs.features)
            found.append(x[:: max(1, len(x) * len(some) // SAMPLE)])
        X = torch.cat(found).to(self.device)
        length = X.norm(dim=1)
        X = l2(X[length > 0])
        return Background.of(X) if len(X) > 1 else None

    def _asked(self, query: Query) -> Tensor:
        """Unit vectors f32[m, D] of the query's features in its box, those of zeros left out."""
        x = rows_of(query.features)
        if query.box is not None:
            inside = [BoxWeight(query.box).over(size)[0] for size in sizes(query.features)]
            x = x[torch.cat([torch.as_tensor(each).flatten() for each in inside]).to(x.device) > 0]
        length = x.norm(dim=1)
        largest = length.argsort(descending=True, stable=True)[: self.config.features or len(x)]
        return l2(x[largest[length[largest] > 0]]).to(self.device)


def _groups(images: Iterable[Inputs], features: int) -> Iterator[list[tuple[Inputs, Tensor, np.ndarray]]]:
    """Images that have features, with these, in groups of about so many if all have as many as the one with most."""
    group: list[tuple[Inputs, Tensor, np.ndarray]] = []
    most = 0
    for inputs in images:
        assert inputs.features is not None
        x, boxes = _local(inputs.features)
        if not len(x):
            continue
        if group and max(most, len(x)) * (len(group) + 1) > features:
            yield group
            group, most = [], 0
        group.append((inputs, x, boxes))
        most = max(most, len(x))
    if group:
        yield group


def _local(features: Features) -> tuple[Tensor, np.ndarray]:
    """Local features f32[n, D] and the boxes f32[n, 4] where they lie, of all the picture's sizes."""
    places = [
        size.geometry[:, [0, 1, 0, 1]] if isinstance(size, Keypoints) else _places(size.grid)
        for size in sizes(features)
    ]
    return rows_of(features), np.concatenate(places)


@functools.lru_cache(maxsize=64)
def _places(grid: Grid) -> np.ndarray:
    """The boxes of a map's cells, f32[n, 4]: many photographs are of one size."""
    y, x = np.indices(grid.shape).reshape(2, -1)
    return cell_boxes(np.stack([x, y, x + 1, y + 1], 1), grid).numpy()
