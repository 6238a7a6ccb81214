"""From a saliency map at pixel size to one weight a cell (Mohedano et al. 2018, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from instsearch_plugins.numeric.normalise import unit_peak

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 16  #: pixels of the resized map that make one cell, along each side


def block_max(saliency: np.ndarray, h: int, w: int) -> Tensor:
    """The largest saliency in each cell, over the largest of all.

    alpha_ij = max_{block ij} s,  then  alpha / max alpha

    where s is the map u8 or f32[H, W] resized bilinearly to 16 h x 16 w and cut into blocks of 16 x 16; its
    minimum is not subtracted. Returns f32[h, w]; a map that is zero everywhere gives ones.
    """
    s = np.asarray(saliency)
    if s.dtype != np.uint8:
        s = s.astype(np.float32, copy=False)
    s = cv2.resize(s, (BLOCK * w, BLOCK * h), interpolation=cv2.INTER_LINEAR)
    blocks = s.reshape(h, BLOCK, w, BLOCK).max((1, 3))
    return unit_peak(torch.from_numpy(blocks.astype(np.float32)))
