"""A label, one that differs from it in one part, and photographs of them."""

from __future__ import annotations

import cv2
import numpy as np

from instsearch_plugins.numeric.appearance import onto_box
from small_pictures import noise

BOX = (40.0, 30.0, 232.0, 222.0)
LABEL = noise(260, 280)
PART = (slice(100, 160), slice(110, 170))  # rows and columns of the label that its twin has otherwise


def photograph(label: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The label turned, smaller, darker, warmer and blurred, and roughly how the unit square of BOX gets there."""
    H = np.array([[0.8, -0.2, 90], [0.2, 0.8, 30], [2e-4, 0, 1]])
    seen = cv2.warpPerspective(label, H, (400, 340), borderValue=(90, 90, 90)).astype(np.float32)
    seen = cv2.GaussianBlur(seen * [0.75, 0.68, 0.6] + 12, (0, 0), 0.8)
    seen += np.random.default_rng(seed).normal(0, 3, seen.shape)
    rough = H @ np.array([[1.01, 0, 2], [0, 0.99, -2], [0, 0, 1]]) @ onto_box(np.eye(2), np.zeros(2), BOX)
    return seen.clip(0, 255).astype(np.uint8), rough


def twin() -> np.ndarray:
    other = LABEL.copy()
    other[PART] = LABEL[:60, 180:240]
    return other
