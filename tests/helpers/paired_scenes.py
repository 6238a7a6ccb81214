"""Pictures of one object each, turned, on backgrounds of their own: those of one object match."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image

SIFT = (
    "--preset",
    "sift",
    "--set",
    "encoder.vocabulary=own",
    "--set",
    "encoder.words=32",
    "--keep-features",
    "--quiet",
)


def texture(seed: int, width: int, height: int) -> np.ndarray:
    """Blobs of colour, no two textures alike."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
    pixels: np.ndarray = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    return pixels


def scene(path: Path, seed: int, shows: str) -> None:
    """An object, turned by as many right angles as the seed says, on a background of its own."""
    pixels, thing = texture(seed, 240, 200), np.rot90(texture(ord(shows), 110, 110), seed)
    x, y = np.random.default_rng(seed).integers(0, (130, 90))
    pixels[y : y + 110, x : x + 110] = thing
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
