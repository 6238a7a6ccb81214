"""Width and height as a file's headers declare them, for formats whose decoders begin before they say."""

from __future__ import annotations

import os
import struct
from typing import IO

HEAD = 1 << 18  #: bytes that the sizes are looked for in
BOXES = 10_000  #: that are passed over

_JXL = b"\xff\x0a"

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def declared_size(file: IO[bytes], name: str) -> tuple[int, int] | None:
    """Width and height of what a decoder of the format ``name`` would make room for.

    None for a format whose decoder says so itself before it begins. Raises ValueError for a head without them.
    """
    look = {"WEBP": _webp, "AVIF": _boxed, "HEIF": _boxed, "JXL": _jxl}.get(name)
    if look is None:
        return None
    try:
        return look(file)
    except (struct.error, LookupError) as error:
        raise ValueError("truncated") from error


def _webp(file: IO[bytes]) -> tuple[int, int]:
    file.seek(0)
    head = file.read(64)
    kind = head[12:16]
    if kind == b"VP8X":
        numbers = struct.unpack_from("<HBHB", head, 24)
        return numbers[0] + (numbers[1] << 16) + 1, numbers[2] + (numbers[3] << 16) + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _box(file: IO[bytes], *names: bytes) -> bytes:
    """The beginning of the first box of one of these names, wherever it lies in the file; b"" if there is none."""
    at, end = 0, file.seek(0, os.SEEK_END)
    for _ in range(BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        size, name = struct.unpack(">I4s", head[:8])
        start = at + 8
        if size == 1 and len(head) == 16:
            size, start = struct.unpack(">Q", head[8:])[0], at + 16
        if name in names:
            file.seek(start)
            return file.read(HEAD)
        if size < 8 or at + size > end:
            break
        at += size
    return b""


def _boxed(file: IO[bytes]) -> tuple[int, int]:
    """The largest of all items: pictures, their tiles, thumbnails and masks."""
    head = _box(file, b"meta")
    if not head:
        file.seek(0)
        head = file.read(HEAD)
    sizes, at = [], head.find(b"ispe")
    while at >= 0:
        sizes.append(struct.unpack_from(">II", head, at + 8))
        at = head.find(b"ispe", at + 1)
    if not sizes:
        raise ValueError("its size is not in its head")
    return max(sizes, key=lambda size: size[0] * size[1])


def _jxl(file: IO[bytes]) -> tuple[int, int]:
    file.seek(0)
    head = file.read(16)
    if not head.startswith(_JXL):
        head = _box(file, b"jxlc")[:16] or _box(file, b"jxlp")[4:20]
        if not head.startswith(_JXL):
            raise ValueError("its size is not in its head")
    bits = int.from_bytes(head[2:16], "little")

    def take(n: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << n) - 1), bits >> n
        return value

    def side(small: bool) -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = bool(take(1))
    height = side(small)
    ratio = take(3)
    if ratio == 0:
        return side(small), height
    return height * _RATIOS[ratio][0] // _RATIOS[ratio][1], height
