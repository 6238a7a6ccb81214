"""Small pictures, flat and noisy, the formats that keep their pixels, and PNG files put together by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import PIL.Image

RED, GREEN, BLUE, YELLOW = (230, 20, 20), (20, 200, 20), (20, 20, 230), (220, 220, 30)

LOSSLESS = {
    "a.png": {},
    "a.bmp": {},
    "a.ppm": {},
    "a.tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "a.webp": {"lossless": True},
    "a.jp2": {},
}


def quadrants(h: int = 32, w: int = 64) -> np.ndarray:
    pixels = np.empty((h, w, 3), np.uint8)
    pixels[: h // 2, : w // 2], pixels[: h // 2, w // 2 :] = RED, GREEN
    pixels[h // 2 :, : w // 2], pixels[h // 2 :, w // 2 :] = BLUE, YELLOW
    return pixels


def noise(h: int = 96, w: int = 128) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (h // 4, w // 4, 3), dtype=np.uint8)
    return np.array(PIL.Image.fromarray(coarse).resize((w, h)))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *after: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + body + b"".join(after) + chunk(b"IEND", b"")
