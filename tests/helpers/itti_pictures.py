"""Noise and coloured pictures for Itti-Koch saliency, and the variants of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

VARIANTS = [("iterative", "toolbox"), ("localmax", "toolbox"), ("iterative", "itti98")]
variants = pytest.mark.parametrize(("norm", "form"), VARIANTS)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def picture(height, width, seed=0):
    """A coloured picture with structure at many scales."""
    total = sum(cv2.resize(noise(n, n, 3, seed=seed + n), (width, height)) for n in (3, 7, 17, 41))
    return (255 * total / total.max()).astype(np.uint8)
