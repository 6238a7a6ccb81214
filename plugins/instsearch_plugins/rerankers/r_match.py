"""Matching regions with regions (Razavian, Sullivan, Carlsson and Maki, "Visual instance retrieval with deep
convolutional networks", 2016); R-match in Iscen et al., CVPR 2017."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsearch_plugins.rerankers.hit_by_hit import HitByHit, Look, likeness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query


class RMatch(HitByHit):
    """score = sum over the query's regions x of max_y <x, y> over the image's regions y, for the hits looked at.

    The others keep their order, after these; scores are counted from that of the first of them, so that they
    fall along the list. A hit's box becomes that of the region most like any of the query's; a hit without one,
    of codes that do not localise, stays without.
    """

    gives_boxes: ClassVar[bool] = False

    def look(self, query: Query, rows: np.ndarray, data: Data) -> Iterator[Look]:
        """The best matches of the query's regions in each hit that has any."""
        for inputs in data.inputs(("codes",), rows):
            assert inputs.codes is not None
            products = likeness(inputs.codes, query.codes).cpu()
            if products.numel():
                best, of = products.max(dim=0)
                box = np.asarray(inputs.codes.boxes[int(of[best.argmax()])])
                yield Look(inputs.row, float(best.sum()), box)
