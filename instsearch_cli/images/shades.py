"""Numbers of more than 8 bits as shades of 8."""

from __future__ import annotations

import numpy as np


def scale_of(dtype: np.dtype, peak: float) -> float:
    """The number that is white: 65535 of 16 bits, else the smallest of 1, 255 (floating point only) and 65535 that
    holds the largest number ``peak``, else that."""
    if dtype == np.uint16:
        return 65535.0
    if dtype == np.uint8 or dtype == np.int8:
        return 255.0
    scales = (1.0, 255.0, 65535.0) if dtype.kind == "f" else (65535.0,)
    return next((scale for scale in scales if peak <= scale), peak)


def eight_bits(values: np.ndarray, scale: float) -> np.ndarray:
    """round(255 v / scale) as u8, what is below 0 or no number as 0."""
    shades = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(shades.clip(0, scale) * (255 / scale)).astype(np.uint8)
