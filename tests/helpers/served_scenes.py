"""Scenes to be served, a thing in every third of them, and what one needs to ask for it."""

from __future__ import annotations

import cv2
import numpy as np

TOKEN = "a-token-of-sixteen-and-more"
BOX = (30, 20, 100, 100)


def texture(seed: int, size: tuple[int, int]) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX))


def scene(i: int, every: int = 3, query: int = 12) -> np.ndarray:
    """The thing is in every third scene, or so; it is asked for with scene ``query``, where it lies in BOX."""
    pixels = 90 + texture(i, (240, 180)) // 4
    seen = texture(100, (100, 100)) if i % every == 0 else texture(50 + i, (100, 100))
    at = BOX[:2] if i == query else (10 * i, 5 * i)
    pixels[at[1] : at[1] + 100, at[0] : at[0] + 100] = seen[: 180 - at[1], : 240 - at[0]]
    return pixels
