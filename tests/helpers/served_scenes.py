"""Scenes to be served, a thing in every third of them, what one needs to ask for it, and what a refusal says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import httpx

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


def refused(answer: httpx.Response, *statuses: int) -> str:
    """What a problem says that is answered with one of these statuses."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == answer.status_code
    assert "bug" not in problem["detail"]
    return str(problem["detail"])
