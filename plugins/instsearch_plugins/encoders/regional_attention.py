"""R-MAC with attention on its regions (Kim and Yoon, "Regional attention based deep feature for image retrieval",
BMVC 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from instsearch_cli.components import option
from instsearch_cli.data import Drawing, Regions, Vectors, WeightMap
from instsearch_plugins.encoders.region_vectors import RegionVectors
from instsearch_plugins.encoders.regional_attention_network import (
    CHANNELS,
    ContextAttention,
    by_own_names,
    check_channels,
    shaped,
)
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import extent
from instsearch_plugins.numeric.regional_attention import Hidden, attended, mean_pool
from instsearch_plugins.published_network import PublishedNetwork

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from instsearch_cli.data import Box, BoxWeight, Features, Inputs


class RegionalAttention(PublishedNetwork, RegionVectors):
    """L2(sum_R phi_R v_R): R-MAC whose regions count as much as a network says.

    v_R are the unit vectors of :class:`RegionVectors`, and phi_R = softplus(W_r tanh(W_c [r_R; g] + b_c) + b_r) by the
    mean r_R of the region and the mean g of the picture, under the weights where there are any. In a query the picture
    is what is in its box. Of a picture at several sizes, the first says what regions count.
    """

    name: ClassVar[str] = "regional-attention"
    architecture: ClassVar[str] = "regional-attention"
    published: ClassVar[str] = (
        "ContextAwareRegionalAttention_weights.pth in weights.tar of sglab.kaist.ac.kr/RegionalAttention, for 2,048 "
        "channels of the Caffe ResNet-101 (no licence given); or `instsearch train regional-attention`"
    )
    localises: bool = False

    @dataclass(frozen=True)
    class Config(RegionVectors.Config):
        """Options of ``regional-attention``."""

        #: the attention's weights file; empty: INSTSEARCH_WEIGHTS, then imported ones
        weights: str = option("", digested=True)
        hidden: Hidden = (
            "tanh"  #: between the two layers; the authors' training has softplus, their test tanh
        )
        #: regions' vectors are whitened as they are pooled, as the authors' code does it, not their L2
        raw: bool = False

    config: Config

    @classmethod
    def build(cls) -> nn.Module:
        """The published network, of 2,048 channels; what was trained has the shapes of its file."""
        return ContextAttention(CHANNELS)

    @classmethod
    def import_weights(cls, path: Path) -> dict[str, Tensor]:
        """The authors' file, or one of this program's, by this network's names. Raises InstsearchError."""
        return by_own_names(super().import_weights(path))

    def _built(self) -> nn.Module:
        return shaped(self._state(), self.config.hidden, self.weights)

    def aggregate(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> Vectors:
        """A unit vector f32[1, d], zero without any activation.

        Raises UsageError for keypoints, InstsearchError for a network of other features.
        """
        return self._described(local, weights, regions, extent(local.grid))

    def aggregate_query(self, local: Features, weights: WeightMap | BoxWeight | None) -> Vectors:
        """A unit vector f32[1, d] of the box of a BoxWeight, which is its regions' context, or of the picture."""
        box, weights, regions = self._asked(local, weights)
        return self._described(local, weights, regions, box)

    def _attention(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None, box: Box
    ) -> Tensor:
        """phi f32[R] of the regions, in the context of a box."""
        X, alpha, _ = self._cells(local, weights, _in_context(local, regions, box))
        return self._phi(X, alpha)

    def _phi(self, X: Tensor, alpha: Tensor) -> Tensor:
        """phi f32[R] of the regions, all of alpha f32[R + 1, h, w] but the last, which is their context."""
        network: Any = self.network
        check_channels(network, len(X), self.weights)
        means = mean_pool(X, alpha)
        phi: Tensor = network(means[:-1], means[-1])
        return phi

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """What the regions count: at each cell the mean over those that it is in."""
        local = inputs.features
        assert local is not None
        phi = self._attention(local, inputs.weights, inputs.regions, extent(local.grid)).cpu()
        boxes = None if inputs.regions is None else inputs.regions.boxes.cpu()
        inside = torch.ones(1, *local.grid.shape)
        if boxes is not None and len(boxes):
            inside = torch.from_numpy(local.grid.masks(boxes)).float()
        over = torch.einsum("r,rhw->hw", phi, inside) / inside.sum(0).clamp(min=1)
        caption = f"attention of {len(phi)} regions: {float(phi.min()):.3g} to {float(phi.max()):.3g}"
        return [Drawing(caption, (WeightMap(over[None], local.grid),))]

    def scaled(self, psi: Tensor) -> Tensor:
        """Regions' vectors as they are whitened."""
        return psi if self.config.raw else super().scaled(psi)

    def _described(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None, box: Box
    ) -> Vectors:
        phi: list[Tensor] = []

        def describe(X: Tensor, alpha: Tensor) -> Tensor:
            if not phi:  # of the first size
                phi.append(self._phi(X, alpha))
            return self.describe(X, alpha[:-1])

        psi, _ = self._over_sizes(describe, local, weights, _in_context(local, regions, box))
        return Vectors(attended(phi[0], l2(self._finished(psi))), torch.tensor([box]))


def _in_context(local: Features, regions: Regions | None, box: Box) -> Regions:
    """The regions, or the whole picture where there are none, and last the box that is their context."""
    if regions is None or not len(regions.boxes):
        regions = Regions(torch.tensor([extent(local.grid)]), torch.ones(1))
    boxes, masks = torch.cat([regions.boxes.cpu(), torch.tensor([box])]), regions.masks
    if masks is not None:
        masks = torch.cat([masks, masks.new_ones(1, *masks.shape[1:])])
    return Regions(boxes, torch.ones(len(boxes)), masks)
