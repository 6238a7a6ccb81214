"""Local query expansion (Mohedano et al., ICMR 2016, section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.data import Regions
from instsearch_plugins.rerankers.aqe import AverageQueryExpansion

if TYPE_CHECKING:
    from instsearch_cli.components import Data
    from instsearch_cli.data import Codes, Query


class LocalQueryExpansion(AverageQueryExpansion):
    """As average query expansion, but each hit is described inside its box only.

    The boxes are those of the reranker before it, `spatial` say; a hit without one is described whole.
    """

    def _described(self, query: Query, row: int, box: np.ndarray, data: Data) -> tuple[Codes, Any]:
        if np.isnan(box).any():
            return super()._described(query, row, box, data)
        encoder = data.encoder
        local = data.read("features" if encoder.local is None else "local", row)
        regions = Regions(torch.from_numpy(box)[None].to(torch.float32), torch.ones(1))
        return encoder.aggregate(local, None, regions), 0
