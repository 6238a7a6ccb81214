"""Class-agnostic spatial re-ranking (Salvador et al., "Faster R-CNN features for instance search", CVPR workshops 2016,
section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instsearch_cli.data import Regions
from instsearch_cli.errors import InstsearchError
from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look, box_of, likeness

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query


class DeepVision(HitByHit):
    """score = max_r cos(r, the query's box) over the regions of each hit that the pipeline's detector found in it.

    Regions and box are described by the pipeline's encoder; a hit's box becomes its best region's. A hit without
    regions is one itself. Followed by `aqe` it is the publication's query expansion.
    """

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The best region of each hit. Raises InstsearchError for an encoder that sums regions up."""
        encoder = data.encoder
        box = torch.tensor([box_of(query)], dtype=torch.float32)
        wanted = encoder.aggregate(query.local, None, Regions(box, torch.ones(1)))
        for inputs in data.inputs(("features" if encoder.local is None else "local", "regions"), rows):
            regions = inputs.regions
            if regions is None or not len(regions.boxes):
                regions = Regions(torch.tensor([[0.0, 0.0, *inputs.size]]), torch.ones(1))
            codes = encoder.aggregate(inputs.local or inputs.features, None, regions)
            if len(codes.boxes) != len(regions.boxes):
                raise InstsearchError(
                    "the deepvision reranker compares single regions, and the pipeline's encoder has one code for all "
                    "of them: use an encoder that describes each by itself (deepvision, sum, mac), or another reranker"
                )
            cosines = likeness(codes, wanted).cpu()[:, 0]
            best = int(cosines.argmax())
            yield Look(inputs.row, float(cosines[best]), regions.boxes[best].cpu().numpy())
