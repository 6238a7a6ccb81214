"""A complete plugin for instsearch: one weighter, one reranker.

Try it:  pip install ./examples/instsearch-example-plugin
         instsearch index photos --index my-index --weighting edges
         instsearch query picture.jpg --index my-index --rerank geometric --rerank cut
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsearch_cli import RerankerSpec, WeighterSpec, hookimpl
from instsearch_cli.components import Reranker, Weighter

if TYPE_CHECKING:
    from instsearch_cli.data import Hits, Inputs, WeightMap


@hookimpl
def instsearch_weighters() -> list[WeighterSpec]:
    """Registering imports nothing heavy: the class is named, and imported when it is used."""
    return [
        WeighterSpec(
            "edges", f"{__name__}:Edges", "how much the picture changes in each cell", needs=("image",)
        )
    ]


@hookimpl
def instsearch_rerankers() -> list[RerankerSpec]:
    """A reranker is registered in the same way."""
    return [RerankerSpec("cut", f"{__name__}:Cut", "drop hits that score far less than the best")]


class Edges(Weighter):
    """Mean absolute gradient of the grey picture in each cell, divided by its maximum."""

    @dataclass(frozen=True)
    class Config:
        floor: float = 0.1  #: added before dividing, so that flat areas keep some weight

    def weigh(self, inputs: Inputs) -> WeightMap:
        """f32[1, h, w] on the cells of the local features."""
        import torch
        import torch.nn.functional as F

        from instsearch_cli.data import WeightMap

        assert inputs.image is not None
        assert inputs.grid is not None
        grey = torch.from_numpy(inputs.image.pixels).to(torch.float32).mean(dim=2) / 255
        change = torch.zeros_like(grey)
        change[:, 1:] += (grey[:, 1:] - grey[:, :-1]).abs()
        change[1:] += (grey[1:] - grey[:-1]).abs()
        cells = F.adaptive_avg_pool2d(change[None], inputs.grid.shape) + self.config.floor
        return WeightMap(cells / cells.max(), inputs.grid)


class Cut(Reranker):
    """Keep the hits that score at least ``share`` of the best one."""

    @dataclass(frozen=True)
    class Config:
        share: float = 0.5  #: of the best hit's score

    def rerank(self, queries: Any, hits: Hits, data: Any, search: Any) -> Hits:
        """Hits of the same shape; what is dropped becomes padding."""
        import numpy as np

        from instsearch_cli.data import Hits

        kept = hits.scores >= self.config.share * hits.scores[:, :1]
        return Hits(
            np.where(kept, hits.images, -1),
            np.where(kept, hits.scores, -np.inf).astype(np.float32),
            np.where(kept[..., None], hits.boxes, np.nan).astype(np.float32),
        )
