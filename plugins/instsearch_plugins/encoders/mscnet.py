"""MSCNet: masks, channel weights, projection (Xiang, Wang, Zhao and Su, "Multiple saliency and channel sensitivity
network for aggregated convolutional feature", AAAI 2019)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from instsearch_cli.components import option
from instsearch_cli.data import BoxWeight, FeatureMap, Regions
from instsearch_cli.networks.weights import find_weights, sha256
from instsearch_plugins.encoders.mscnet_network import check_channels, drawn, trained
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.mscnet import gram_channel_weights, weighted_sum
from instsearch_plugins.numeric.regions import cell_boxes, touched_cells
from instsearch_plugins.weighters.maps_only import feature_map
from instsearch_plugins.weighters.msb import mask_drawings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.data import Drawing, Features, Grid, Inputs, WeightMap
    from instsearch_plugins.encoders.mscnet_network import MSCNet


class MSCNetCodes(PooledPicture):
    """z = L2(FC(L2([psi^(1); ...; psi^(n)]))), psi^(k) = W * sum_p alpha_p M_kp X_p; then PCA-whitening, L2.

    M are the masks of the whole picture, W the channel weights of the cells where alpha > 0, and alpha other
    weights, 1 without. A region or a query's box is described by all the cells that it touches.

    The network is one that `instsearch train mscnet` wrote, on features of the same extractor and layer. Without
    a file it is an untrained one of ``masks`` x ``projection``, drawn from ``seed``: what a trained one is to be
    compared with.
    """

    name: ClassVar[str] = "mscnet"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``mscnet``."""

        #: dimensions kept by the whitening, fewer than the images learnt from; 0: one for every 8 of them, at most D
        dims: int = 0
        seed: int = 0  #: of the choice of the images learnt from, and of an untrained network
        #: how channels are weighed, before the projection: by the Gram matrix, as the network is trained
        channels: Literal["gram-cs"] = option("gram-cs", omitted_at_default=True)
        weights: str = option("", digested=True)  #: file of a trained network; empty: an untrained one
        masks: int = 5  #: n, of an untrained network; a trained one has its own
        projection: int = (
            512  #: D, values of a descriptor before it is whitened; of an untrained network, too
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.masks, self.projection) < 1:
                raise ValueError("masks and projection are at least 1")

    config: Config

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__(config, device)
        self._building = threading.Lock()
        self._network: MSCNet | None = None

    def identity(self) -> dict[str, str]:
        """The weights' sha256, if they are from a file."""
        return {"weights": sha256(path)} if (path := self._file()) else {}

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """z f32[M, D] of each region, before the whitening; zero where there is no activation."""
        network = self._network_for(X)
        M = network.msb(X[None])[0]
        psi = weighted_sum(X, M * alpha[:, None], gram_channel_weights(X, mask=alpha > 0))
        return network.project(psi) * psi.any(2).any(1, keepdim=True)

    def describe(self, X: Tensor, alpha: Tensor) -> Tensor:
        """:meth:`pool`, whose channels are weighed before they are projected."""
        return self.pool(X, alpha)

    def explain(self, inputs: Inputs) -> list[Drawing]:
        """The masks, one by one (figure 3)."""
        features = feature_map(inputs.features, self.name)
        X = features.values.to(self.device)
        return mask_drawings(self._network_for(X).msb(X[None])[0], features.grid)

    def _network_for(self, X: Tensor) -> MSCNet:
        """The network for maps X f32[C, h, w]. Raises InstsearchError for a file that is not for such maps."""
        with self._building:  # images are worked on side by side
            path = self._file()
            if self._network is None and path:
                self._network = trained(path, self.device)
            elif self._network is None:
                c = self.config
                network = drawn(len(X), c.masks, c.projection, c.seed)
                self._network = network.to(self.device).requires_grad_(False)
            check_channels(self._network, X, str(path or "the untrained network"))
            return self._network

    def _file(self) -> Path | None:
        return find_weights("mscnet", self.config.weights) if self.config.weights else None

    def _cells(
        self, local: Features, weights: WeightMap | BoxWeight | None, regions: Regions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(local, FeatureMap):
            return super()._cells(local, weights, regions)
        if isinstance(weights, BoxWeight):
            x0, y0, x1, y1 = _grown(torch.tensor([weights.box]), local.grid)[0].tolist()
            weights = BoxWeight((x0, y0, x1, y1), weights.weights)
        grown = None if regions is None else Regions(_grown(regions.boxes, local.grid), regions.scores)
        X, alpha, boxes = super()._cells(local, weights, grown)
        return X, alpha, boxes if regions is None else regions.boxes


def _grown(boxes: Tensor, grid: Grid) -> Tensor:
    """Boxes f32[R, 4] around all the cells that each touches."""
    return cell_boxes(touched_cells(boxes, grid), grid)
