"""The lamp and the camera."""

from __future__ import annotations

import cv2
import numpy as np

from instsearch_cli.demo.render import Pose, rotation


def photograph(rng: np.random.Generator, picture: np.ndarray, rough: float) -> np.ndarray:
    """The lamp and the camera: fall-off, shadows, colour cast, gamma, blur, noise; ``rough`` in [0, 1]."""
    h, w = picture.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.35) * (0.4 + 0.6 * rough)
    light = 1 + fall * ((x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle)) * 2
    light *= 1 - rng.uniform(0.05, 0.3) * (((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2) * 2)
    if rng.random() < 0.55 * rough + 0.1:
        mask = np.zeros((h // 4, w // 4), np.float32)
        slant, at = rng.uniform(-0.8, 0.8), rng.uniform(-0.3, 1.0)
        for bar in range(int(rng.integers(1, 5))):
            left = (at + bar * rng.uniform(0.22, 0.4)) * w / 4
            right = left + rng.uniform(0.08, 0.3) * w / 4
            foot = slant * h / 4
            cv2.fillConvexPoly(
                mask,
                np.asarray([[left, 0], [right, 0], [right + foot, h / 4], [left + foot, h / 4]]).astype(
                    np.int32
                ),
                1.0,
            )
        mask = cv2.resize(cv2.GaussianBlur(mask, (0, 0), rng.uniform(1.0, 5.0)), (w, h))
        light *= 1 - rng.uniform(0.25, 0.55) * mask
    warm = rng.normal(0, 0.09) * (0.4 + rough)
    gains = np.asarray([1 + warm, 1 + rng.normal(0, 0.02), 1 - warm], np.float32)
    exposed = cv2.multiply(picture, cv2.merge([light * gain for gain in gains]), dtype=cv2.CV_8U)
    gamma = float(np.exp(rng.normal(0, 0.22) * (0.3 + rough)))
    curve = 255 * (np.arange(256) / 255) ** gamma
    graded = cv2.LUT(exposed, np.round(curve).astype(np.uint8))
    if rng.random() < 0.65:
        graded = cv2.GaussianBlur(graded, (0, 0), rng.uniform(0.3, 0.5 + 0.8 * rough))
    if rng.random() < 0.12 * rough:
        length = int(rng.integers(3, 7))
        kernel = np.zeros((length, length), np.float32)
        cv2.line(kernel, (0, int(rng.integers(length))), (length - 1, int(rng.integers(length))), 1.0)
        graded = cv2.filter2D(graded, -1, kernel / kernel.sum())
    grain = rng.standard_normal((h, w), np.float32) * np.float32(rng.uniform(1.0, 2.5 + 5 * rough))
    return np.asarray(cv2.add(graded, cv2.merge([grain] * 3), dtype=cv2.CV_8U))


def camera(size: tuple[int, int], plane: tuple[int, int], pose: Pose, zoom: float) -> np.ndarray:
    """The homography from a plane of ``plane`` = (width, height) pixels to a picture of ``size``."""
    w, h = plane
    corners = np.asarray([[-w, -h, 0], [w, -h, 0], [w, h, 0], [-w, h, 0]]) / 2
    turned = corners @ rotation(pose).T
    distance = 1.9 * max(plane)
    seen = turned[:, :2] * (distance / (distance + turned[:, 2:])) * zoom + np.asarray(size) / 2
    source = np.asarray([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    return np.asarray(cv2.getPerspectiveTransform(source, seen.astype(np.float32)))
