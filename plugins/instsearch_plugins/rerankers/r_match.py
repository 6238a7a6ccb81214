"""Matching regions with regions (Razavian, Sullivan, Carlsson and Maki, "Visual instance retrieval with deep
convolutional networks", 2016); R-match in Iscen et al., CVPR 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.data import Hits
from instsearch_plugins.rerankers.spatial import likeness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from instsearch_cli.components import Data
    from instsearch_cli.data import Codes, Query


def placed(
    images: np.ndarray, scores: np.ndarray, boxes: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits in the order of new scores f32[t] of the first t of them; the others keep theirs, after these.

    Where there are others, the new scores are counted from that of the first of them, so that scores fall along
    the list.
    """
    t, n = len(found), len(images)
    if t < n:
        found = found - min(0.0, float(found.min(initial=0))) + scores[t]
    order = np.concatenate([np.lexsort((np.arange(t), -found)), np.arange(t, n)])
    return images[order], np.concatenate([found, scores[t:]])[order], boxes[order]


class RMatch:
    """score = sum over the query's regions x of max_y <x, y> over the image's regions y, for the hits looked at.

    The others keep their order, after these; scores are counted from that of the first of them, so that they
    fall along the list. A hit's box becomes that of the region most like any of the query's; a hit without one,
    of codes that do not localise, stays without.
    """

    @dataclass(frozen=True)
    class Config:
        depth: int = 100  #: how many of the best hits are looked at

        def __post_init__(self) -> None:
            if self.depth < 1:
                raise ValueError("depth is at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config

    def rerank(
        self,
        queries: Sequence[Query],
        hits: Hits,
        data: Data,
        search: Callable[[Sequence[Codes], int], Hits],
    ) -> Hits:
        """Look at the first ``depth`` hits of each query."""
        ranked = [self._ranked(query, hits, i, data) for i, query in enumerate(queries)]
        return Hits.stack(ranked, hits.images.shape[1])

    def _ranked(
        self, query: Query, hits: Hits, i: int, data: Data
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = hits.valid(i)
        images, scores, boxes = hits.images[i, :n], hits.scores[i, :n], hits.boxes[i, :n].copy()
        top = min(self.config.depth, n)
        found = np.zeros(top, np.float32)
        rank = {int(row): r for r, row in enumerate(images[:top])}
        for inputs in data.inputs(("codes",), images[:top]):
            assert inputs.codes is not None
            products = likeness(inputs.codes, query.codes).cpu()
            if products.numel():
                r, (best, of) = rank[inputs.row], products.max(dim=0)
                found[r] = float(best.sum())
                if not np.isnan(boxes[r]).any():
                    boxes[r] = inputs.codes.boxes[int(of[best.argmax()])].cpu().numpy()
        return placed(images, scores, boxes, found)
