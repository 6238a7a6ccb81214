"""Regional maximum activations of convolutions (R-MAC: Tolias, Sicre and Jégou, ICLR 2016), on any regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from instsearch_cli.components import option
from instsearch_cli.data import Vectors
from instsearch_formats import Array
from instsearch_plugins.encoders.pooled import by_pairs
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent
from instsearch_plugins.numeric.whitening import whiten

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import BoxWeight, Features, Inputs, Regions, WeightMap
    from instsearch_plugins.encoders.region_vectors import Whitening


class RegionsSum(RegionVectors):
    """v_R = w(psi_R) for each region R, then L2 of sum_R v_R: one vector for the picture.

    psi_R is pooled as in ``regions``; w is L2, PCA-whitening, L2, or L2 alone where only the sum is whitened.
    """

    name: ClassVar[str] = "regions-sum"
    pairs: ClassVar[str] = "pairs"
    learns: ClassVar[dict[str, Array]] = RegionVectors.learns | {
        "sum_mean": Array("f4", ("D",), group="sum"),
        "sum_projection": Array("f4", ("D", "e"), group="sum"),
    }
    localises: bool = False

    @dataclass(frozen=True)
    class Config(RegionVectors.Config):
        """Options of ``regions-sum``."""

        whiten: Literal["regions", "sum", "both"] = "regions"  #: what is whitened: each region, their sum
        #: CSV file of matching images, two names a line, that the whitening of the sum is learnt from;
        #: read when it is learnt (--refit does it again)
        pairs: str = ""
        #: how far what differs in pairs is taken to be alike in all directions, 0 to 1
        shrink: float = option(0.0, omitted_at_default=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.pairs and self.whiten == "regions":
                raise ValueError("pairs are of pictures and whiten the sum: set whiten to sum or both")
            if not 0 <= self.shrink <= 1:
                raise ValueError(f"shrink is 0 to 1, not {self.shrink}")

    config: Config
    whitening: Whitening | None
    of_sum: Whitening | None

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitenings that ``whiten`` asks for, each from vectors as they come to it.

        Returns mean f32[D] and projection f32[D, d] of the regions', sum_mean and sum_projection of the sum's;
        one that would be learnt from equal vectors is left out. Raises InstsearchError if the collection is
        empty, or for pairs that say too little.
        """
        state: State = {}
        self.whitening = self.of_sum = None
        if self.config.whiten != "sum":
            state |= super().fit(data, progress)
            self.whitening = (state["mean"], state["projection"]) if state else None
        if self.config.whiten != "regions":
            label = f"learning the whitening of the sum of '{self.name}'"
            learnt: Whitening | None
            if self.config.pairs:
                learnt = by_pairs(self, data, self._sampled(data), self._total, progress, label)
            else:
                totals = self._batches(data, progress, label, self._total)
                learnt = self._learnt(totals, len(self._sampled(data)))
            if learnt is not None:
                state |= {"sum_mean": learnt[0], "sum_projection": learnt[1]}
        return state

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        super().load(state)
        arrays = {k: torch.from_numpy(np.asarray(v)).to(self.device) for k, v in state.items()}
        self.of_sum = (arrays["sum_mean"], arrays["sum_projection"]) if "sum_mean" in arrays else None

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """A unit vector f32[1, d], zero without any activation. Keypoints raise UsageError."""
        psi = l2(super().aggregate(local, weights, regions).vectors.sum(0, keepdim=True))
        if self.of_sum is not None and psi.any():
            psi = l2(whiten(psi, *self.of_sum))
        elif self.of_sum is not None:
            psi = psi.new_zeros(1, self.of_sum[1].shape[1])
        return Vectors(psi, torch.tensor([extent(local.grid)]))

    def _total(self, inputs: Inputs) -> Tensor:
        """The sum f32[1, d] of a picture before it is whitened; f32[0, d] without any activation."""
        assert inputs.features is not None
        total = self.aggregate(inputs.features, inputs.weights, inputs.regions).vectors
        return total[total.any(1)]
