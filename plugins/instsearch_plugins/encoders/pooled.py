"""What pooling encoders share: raw vectors, L2, PCA-whitening, L2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from instsearch_cli.components import Encoder, option
from instsearch_cli.data import FeatureMap, Vectors
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_plugins.numeric.channels import channel_weights
from instsearch_plugins.numeric.mscnet import gram_channel_weights
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pairs import read_pairs
from instsearch_plugins.numeric.pooling import region_masks, weights_over
from instsearch_plugins.numeric.whitening import (
    LEARNT,
    pca_whitening,
    pca_whitening_of_few,
    supervised_whitening,
    turned_if_few,
    whiten,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import BoxWeight, Features, Inputs, Regions, WeightMap
    from instsearch_formats import Array

PER_DIMENSION = 8  #: images that a whitened dimension is learnt from; with fewer, whitening blows up noise
FEW = 16  #: dimensions kept however few the images, as far as they go


class Pooled(Encoder, ABC):
    """One vector for the picture, or for each region. The whitening is learnt from whole pictures.

    Of a picture at several sizes the unit vectors of all sizes are added up (:meth:`_joined`) before they are whitened.
    """

    local: ClassVar[None] = None
    codes: ClassVar[str] = "vectors"
    fit_needs: ClassVar[tuple[str, ...]] = ("features", "weights")
    learns: ClassVar[dict[str, Array]] = LEARNT
    concurrent: bool = True
    name: ClassVar[str] = ""

    @dataclass(frozen=True)
    class Config:
        """Options of the pooling encoders."""

        #: dimensions kept by the whitening, fewer than the images learnt from; 0: one for every 8 of them
        dims: int = 0
        fit_images: int = 10_000  #: images that the whitening is learnt from, at most
        seed: int = 0  #: of the choice of these images
        #: how channels are weighed: by CroW's sparsity, by MSCNet's Gram matrix, or not; over each region's cells
        channels: Literal["none", "ssw", "gram-cs"] = option("none", omitted_at_default=True)

        def __post_init__(self) -> None:
            if self.dims < 0 or self.fit_images < 1:
                raise ValueError("dims is 0 (automatic) or more, and fit_images at least 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device

    @abstractmethod
    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """X: f32[C, h, w], alpha: f32[M, h, w], which is 0 outside the region -> f32[M, C], or f32[M, n C]."""

    def describe(self, X: Tensor, alpha: Tensor) -> Tensor:
        """:meth:`pool` with each channel by its weight among the cells where alpha > 0."""
        psi = self.pool(X, alpha)
        if self.config.channels == "none":
            return psi
        return psi * self._channels(X, alpha > 0).repeat(1, psi.shape[1] // len(X))

    def scaled(self, psi: Tensor) -> Tensor:
        """Pooled vectors f32[M, D] as the whitening takes them: their L2."""
        return l2(psi)

    def _channels(self, X: Tensor, mask: Tensor) -> Tensor:
        """The channels' weights f32[M, C] over the cells of each mask bool[M, h, w]."""
        return (
            channel_weights(X, mask) if self.config.channels == "ssw" else gram_channel_weights(X, mask=mask)
        )

    def fit(self, data: Data, progress: Progress) -> State:
        """Learn the whitening from unit vectors of whole pictures.

        Returns mean f32[D] and projection f32[D, d], unless all the vectors are equal, and images, the number
        learnt from. Of few images the axes are learnt alone, not what to scale them by. Raises InstsearchError if the
        collection is empty.
        """
        label = f"learning the whitening of '{self.name}'"
        x = l2(self._sample(data, progress, label, self.config.fit_images, self.describe))
        state: State = {"images": len(x)}
        if (x != x[0]).any():
            dims = self.config.dims or max(len(x) // PER_DIMENSION, FEW)
            few = len(x) < x.shape[1]
            learnt = pca_whitening_of_few(x, dims) if few else pca_whitening([x], dims)
            state["mean"] = learnt[0]
            state["projection"] = turned_if_few(learnt[1], len(x), len(x))
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
            found.append(self._over_sizes(pool, inputs.features, inputs.weights, None)[0])
            progress.advance()
        if not found:
            raise InstsearchError(f"there is no image to learn the whitening of '{self.name}' from")
        return torch.cat(found)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        arrays = {k: torch.from_numpy(np.asarray(v)).to(self.device) for k, v in state.items()}
        self.whitening = (arrays["mean"], arrays["projection"]) if "mean" in arrays else None

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """Unit vectors f32[M, d]; a region without any activation stays zero. Keypoints raise UsageError."""
        psi, boxes = self._over_sizes(self.describe, local, weights, regions)
        return Vectors(self._finished(psi), boxes)

    def _finished(self, psi: Tensor) -> Tensor:
        some = (psi != 0).any(1, keepdim=True)
        psi = self.scaled(psi)
        return psi if self.whitening is None else l2(whiten(psi, *self.whitening)) * some

    def _over_sizes(
        self,
        pool: Callable[[Tensor, Tensor], Tensor],
        local: Features,
        weights: WeightMap | BoxWeight | None,
        regions: Regions | None,
        /,
    ) -> tuple[Tensor, Tensor]:
        """What ``pool`` gives, or its unit vectors at a picture's sizes joined, f32[M, D]; boxes f32[M, 4]."""
        sizes = getattr(local, "levels", ())
        X, alpha, boxes = self._cells(local, weights, regions)
        psi = pool(X, alpha)
        if sizes:
            others = [l2(pool(*self._cells(size, weights, regions)[:2])) for size in sizes]
            psi = self._joined([l2(psi), *others])
        return psi, boxes

    def _joined(self, units: list[Tensor]) -> Tensor:
        """The unit vectors f32[M, D] of each of a picture's sizes as one: f32[M, D]."""
        return units[0] + sum(units[1:])

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


class PooledPicture(Pooled):
    """A :class:`Pooled` whose whitening is learnt from pictures, of what varies or of what differs in matching ones."""

    pairs: ClassVar[str] = "pairs"

    @dataclass(frozen=True)
    class Config(Pooled.Config):
        """Options of encoders that pool the whole picture."""

        #: CSV file of matching images, two names a line, that the whitening is learnt from in place of PCA; read when
        #: it is learnt (--refit does it again)
        pairs: str = option("", omitted_at_default=True)
        #: how far what differs in pairs is taken to be alike in all directions, 0 to 1
        shrink: float = option(0.3, only_with="pairs")
        whiten: bool = option(True, omitted_at_default=True)  #: PCA-whiten the vectors, or by ``pairs``

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.shrink <= 1:
                raise ValueError(f"shrink is 0 to 1, not {self.shrink}")
            if self.pairs and not self.whiten:
                raise ValueError("pairs are what the whitening is learnt from: leave whiten on")

    config: Config

    def fit(self, data: Data, progress: Progress) -> State:
        """As :meth:`Pooled.fit`, or by :func:`by_pairs`; nothing with ``whiten`` off."""
        if not self.config.whiten:
            return {}
        if not self.config.pairs:
            return super().fit(data, progress)
        rows = np.random.default_rng(self.config.seed).permutation(data.images)[: self.config.fit_images]
        label = f"learning the whitening of '{self.name}' from pairs"
        mean, projection = by_pairs(self, data, rows, self._whole, progress, label)
        return {"images": len(rows), "mean": mean, "projection": projection}

    def _whole(self, inputs: Inputs) -> Tensor:
        """A picture's unit vector before it is whitened: f32[1, D]."""
        assert inputs.features is not None
        return l2(self._over_sizes(self.describe, inputs.features, inputs.weights, None)[0])


def by_pairs(
    encoder: Any,
    data: Data,
    sampled: np.ndarray,
    whole: Callable[[Inputs], Tensor],
    progress: Progress,
    label: str,
) -> tuple[Tensor, Tensor]:
    """:func:`supervised_whitening` by an encoder's ``pairs``: mean f32[D], projection f32[D, d].

    Its X are the vectors that ``whole`` gives, f32[1, D] each or f32[0, D] for zeros, of the pictures of the pairs and
    of the ``sampled`` ones. Raises InstsearchError for fewer pairs than dimensions that vary.
    """
    config = encoder.config
    pairs = read_pairs(config.pairs, data.named())
    rows = np.union1d(sampled, pairs)
    progress.start(label, len(rows))
    found = []
    for inputs in data.inputs(encoder.fit_needs, rows):
        x = whole(inputs)
        found.append(x if len(x) else x.new_zeros(1, x.shape[1]))
        progress.advance()
    x = torch.cat(found)
    q, p = torch.from_numpy(np.searchsorted(rows, pairs)).to(x.device).unbind(1)
    varied = int((x != x[0]).any(0).sum())
    if len(q) < varied:
        raise InstsearchError(
            f"{config.pairs} has {len(q):,} pairs, too few to whiten {varied:,} dimensions by: give at "
            "least as many, or let the whitening be learnt without (leave encoder.pairs out)"
        )
    return supervised_whitening(x, q, p, config.dims or max(len(q) // PER_DIMENSION, FEW), config.shrink)
