"""Bringing vectors to unit length and weight maps to a peak of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def l2(x: Tensor, dim: int = -1) -> Tensor:
    """x / ||x||_2 along ``dim``; a zero vector stays zero."""
    norm = x.norm(dim=dim, keepdim=True)
    return x / torch.where(norm > 0, norm, 1)


def unit_peak(alpha: Tensor) -> Tensor:
    """alpha / max alpha for a non-negative map; an all-zero one gives ones."""
    peak = alpha.max()
    return alpha / peak if peak > 0 else torch.ones_like(alpha)


def stretched(alpha: Tensor) -> Tensor:
    """(alpha - min alpha) / (max alpha - min alpha); a flat map gives ones."""
    return unit_peak(alpha - alpha.min())
