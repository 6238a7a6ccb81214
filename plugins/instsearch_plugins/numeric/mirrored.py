"""SIFT keypoints as they would be in the mirrored picture, without looking at it."""

from __future__ import annotations

import numpy as np

CELLS, ORIENTATIONS = 4, 8  # of a SIFT descriptor
SIFT = CELLS**2 * ORIENTATIONS  # its values


def mirrored(values: np.ndarray, geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of the picture mirrored left to right, about its left edge.

    x' = -x,  angle' = 180 - angle,  d'_(r, c, o) = d_(3 - r, c, -o mod 8)

    where d has 4 x 4 cells of 8 orientations in the keypoint's own frame, the mirror being along its direction.
    values f32[n, 128], geometry f32[n, 4] -> the same.
    """
    d = values.reshape(-1, CELLS, CELLS, ORIENTATIONS)
    backwards = -np.arange(ORIENTATIONS) % ORIENTATIONS
    turned = geometry.copy()
    turned[:, 0], turned[:, 3] = -geometry[:, 0], (180 - geometry[:, 3]) % 360
    return d[:, ::-1][..., backwards].reshape(len(values), -1), turned
