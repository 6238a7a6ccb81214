"""Part-based weighting aggregation (PWA: Xu, Shi, Qi, Wang and Xiao, AAAI 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from instsearch_formats import Array
from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.pooling import power_normalised, sum_pool

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State


def varied_channels(psi: Tensor, N: int) -> Tensor:
    """The N channels (all, if there are fewer) whose values vary most, in ascending order.

    psi: f32[n, C], one row an image. Returns i64[min(N, C)].
    """
    return psi.double().var(0, correction=0).topk(min(N, psi.shape[1])).indices.sort().values


def part_pool(X: Tensor, alpha: Tensor, channels: Tensor, a: float = 2, b: float = 2) -> Tensor:
    """Sums over the cells, weighted by one part detector (a channel) after the other.

    psi^(n)_c = sum_ij alpha_ij s^(n)_ij X_cij,  s^(n)_ij = (X_nij / z_n)^(1/b),  z_n = (sum_ij X_nij^a)^(1/a)

    where n runs over the channels and z_n sums over the cells where alpha > 0. X: f32[C, h, w],
    alpha: f32[M, h, w], channels: i64[N]. Returns f32[M, N C]; a channel that is all zero gives zeros.
    """
    parts = X[channels] * (alpha > 0)[:, None]
    s = power_normalised(parts, a, b) * alpha[:, None]
    return sum_pool(X, s.flatten(0, 1)).view(len(alpha), len(channels) * len(X))


class PWA(PooledPicture):
    """psi = [psi^(1), ..., psi^(N)], then L2, PCA-whitening, L2.

    The parts are the channels whose sums vary most between images. A region or a query's box is pooled as a
    picture of its own.
    """

    name: ClassVar[str] = "pwa"
    learns: ClassVar[dict[str, Array]] = PooledPicture.learns | {"channels": Array("i8", ("N",), below=2**31)}

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``pwa``."""

        #: dimensions kept by the whitening (paper: 4096); 0: one for every 8 images that it is learnt from
        dims: int = 0
        fit_images: int = 5000  #: images that the whitening is learnt from, at most
        parts: int = 25  #: channels taken as part detectors
        part_images: int = 1000  #: images that they are chosen from, at most
        a: float = 2  #: the norm that a part's weights are divided by
        b: float = 2  #: a part's weights are taken to the power 1/b

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.parts < 1 or self.part_images < 1:
                raise ValueError("parts and part_images are at least 1")
            if not (self.a > 0 and self.b > 0):
                raise ValueError(f"a and b are above 0, not {self.a} and {self.b}")

    config: Config

    def fit(self, data: Data, progress: Progress) -> State:
        """Choose the parts, then learn the whitening: as :meth:`Pooled.fit`, and channels i64[N]."""
        label = f"choosing the parts of '{self.name}'"
        psi = self._sample(data, progress, label, self.config.part_images, sum_pool)
        self.channels = varied_channels(psi, self.config.parts)
        return {**super().fit(data, progress), "channels": self.channels}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Take over what ``fit`` returned."""
        super().load(state)
        self.channels = torch.from_numpy(np.asarray(state["channels"])).to(self.device)

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`part_pool`."""
        return part_pool(X, alpha, self.channels, self.config.a, self.config.b)
