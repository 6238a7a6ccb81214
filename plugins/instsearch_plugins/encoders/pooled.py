"""What pooling encoders share: raw vectors, L2, PCA-whitening, L2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from instsearch_cli.data import FeatureMap, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import region_masks, weights_over
from instsearch_plugins.numeric.whitening import pca_whitening, pca_whitening_of_few, whiten

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import BoxWeight, Features, Regions, WeightMap


PER_DIMENSION = 8  #: images that a whitened dimension is learnt from; with fewer, whitening blows up noise
FEW = 16  #: dimensions kept however few the images, as far as they go


class Pooled(ABC):
    """One vector for the picture, or for each region. The whitening is learnt from whole pictures."""

    local: ClassVar[None] = None
    codes: ClassVar[str] = "vectors"
    fit_needs: ClassVar[tuple[str, ...]] = ("features", "weights")
    concurrent: ClassVar[bool] = True
    name: ClassVar[str]

    @dataclass(frozen=True)
    class Config:
        """Options of the pooling encoders."""

        #: dimensions kept by the whitening, fewer than the images learnt from; 0: one for every 8 of them
        dims: int = 0
        fit_images: int = 10_000  #: images that the whitening is learnt from, at most
        seed: int = 0  #: of the choice of these images

        def __post_init__(self) -> None:
            if self.dims < 0 or self.fit_images < 1:
                raise ValueError("dims is 0 (automatic) or more, and fit_images at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    @abstractmethod
    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """X: f32[C, h, w], alpha: f32[M, h, w], which is 0 outside the region -> f32[M, C]."""

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening from unit vectors of whole pictures.

        Returns mean f32[D] and projection f32[D, d], unless all the vectors are equal, and images, the number
        learnt from. Raises InstsearchError if the collection is empty.
        """
        label = f"learning the whitening of '{self.name}'"
        x = l2(self._sample(data, progress, label, self.config.fit_images, self.pool))
        state: State = {"images": len(x)}
        if (x != x[0]).any():
            dims = self.config.dims or max(len(x) // PER_DIMENSION, FEW)
            few = len(x) < x.shape[1]
            learnt = pca_whitening_of_few(x, dims) if few else pca_whitening([x], dims)
            state["mean"], state["projection"] = learnt
        return state

    def _sample(
        self,
        data: Data,
        progress: Progress,
        label: str,
        limit: int,
        pool: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Pooled vectors f32[n, D] of at most ``limit`` whole pictures, chosen at random."""
        rows = np.random.default_rng(self.config.seed).permutation(data.images)[:limit]
        progress.start(label, len(rows))
        found = []
        for inputs in data.inputs(self.fit_needs, np.sort(rows)):
            assert inputs.features is not None
            X, alpha, _ = self._cells(inputs.features, inputs.weights, None)
            found.append(pool(X, alpha))
            progress.advance()
        if not found:
            raise InstsearchError(f"there is no image to learn the whitening of '{self.name}' from")
        return torch.cat(found)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        arrays = {k: torch.from_numpy(np.asarray(v)).to(self.device) for k, v in state.items()}
        self.whitening = (arrays["mean"], arrays["projection"]) if "mean" in arrays else None

    def embed(self, features: Features) -> Features:
        """The features as they are."""
        return features

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """Unit vectors f32[M, d]; a region without any activation stays zero. Keypoints raise UsageError."""
        X, alpha, boxes = self._cells(local, weights, regions)
        psi = self.pool(X, alpha)
        some = (psi != 0).any(1, keepdim=True)
        psi = l2(psi)
        if self.whitening is not None:
            psi = l2(whiten(psi, *self.whitening)) * some
        return Vectors(psi, boxes)

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """X and alpha as :meth:`pool` takes them, and the boxes f32[M, 4]."""
        if not isinstance(local, FeatureMap):
            raise UsageError(
                f"the {self.name} encoder needs a feature map, and this extractor gives keypoints: "
                "use the blcf encoder or another extractor"
            )
        masks, boxes = region_masks(local, regions)
        alpha = masks.to(self.device, torch.float32)
        over = weights_over(local, weights)
        if over is not None:
            alpha = alpha * over.to(self.device)
        return local.values.to(self.device), alpha, boxes
