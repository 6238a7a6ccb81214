"""Sum-pooled convolutional features (SPoC: Babenko and Lempitsky, ICCV 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from instsearch_plugins.encoders.pooled import PooledPicture
from instsearch_plugins.numeric.pooling import sum_pool
from instsearch_plugins.weighters.gaussian import spoc_prior

if TYPE_CHECKING:
    from torch import Tensor


def centred(mask: Tensor, sigma: float) -> Tensor:
    """The prior of :func:`spoc_prior` over the smallest box of cells that holds each mask, 0 around it.

    mask: bool[M, h, w]. Returns f32[M, h, w]; an empty mask gives zeros.
    """
    g = torch.zeros(mask.shape, device=mask.device)
    for prior, inside in zip(g, mask, strict=True):
        i, j = inside.nonzero(as_tuple=True)
        if len(i):
            box = slice(int(i.min()), int(i.max()) + 1), slice(int(j.min()), int(j.max()) + 1)
            h, w = prior[box].shape
            prior[box] = spoc_prior(h, w, sigma)
    return g


class SPoC(PooledPicture):
    """psi_c = sum_ij g_ij alpha_ij X_cij, then L2, PCA-whitening, L2.

    g is a centre prior and alpha any other weights. A query's box and a region are pooled as a picture of
    their own, as the paper crops its queries: g is centred on them.
    """

    name: ClassVar[str] = "spoc"

    @dataclass(frozen=True)
    class Config(PooledPicture.Config):
        """Options of ``spoc``."""

        #: standard deviation of the prior, as a share of the way from the centre to the nearest border
        sigma: float = 1 / 3

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.sigma > 0:
                raise ValueError(f"sigma is above 0, not {self.sigma}")

    config: Config

    def pool(self, X: Tensor, alpha: Tensor) -> Tensor:
        """See :func:`centred` and :func:`sum_pool`."""
        return sum_pool(X, alpha * centred(alpha > 0, self.config.sigma))
