"""TIFF directories: the whole numbers that say what a file holds, and where."""

from __future__ import annotations

import struct
from typing import IO

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  #: first bytes of TIFF and BigTIFF
MANY = 64

Tags = dict[int, tuple[int, ...]]


def tiff_layout(head: bytes) -> tuple[str, bool, int]:
    """Byte order, whether it is a BigTIFF, and the first directory's place, of a file's first 16 bytes."""
    order, big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
    return order, big, struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]


def tiff_tags(file: IO[bytes]) -> Tags:
    """The whole-number tags of the first picture of a TIFF, or BigTIFF, file; ValueError and the like if it is none."""
    file.seek(0)
    return directory(file, *tiff_layout(file.read(16)))[0]


def directory(file: IO[bytes], order: str, big: bool, place: int) -> tuple[Tags, int]:
    """The whole-number tags of a directory, of ``MANY`` numbers at most, and where the next one is, or 0."""
    file.seek(place)
    count = struct.unpack(order + ("Q" if big else "H"), _exactly(file, 8 if big else 2))[0]
    size, inline = (20, 8) if big else (12, 4)
    entries = _exactly(file, min(count, 4096) * size)
    after = file.read(inline)
    tags = {}
    for at in range(0, len(entries), size):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        n = struct.unpack_from(order + ("Q" if big else "I"), entries, at + 4)[0]
        letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
        if letter is None or not 0 < n <= MANY:
            continue
        form = f"{order}{n}{letter}"
        data = entries[at + size - inline : at + size]
        if struct.calcsize(form) > inline:
            file.seek(struct.unpack(order + ("Q" if big else "I"), data)[0])
            data = _exactly(file, struct.calcsize(form))
        tags[tag] = struct.unpack_from(form, data)
    place = struct.unpack(order + ("Q" if big else "I"), after)[0] if len(after) == inline else 0
    return tags, place


def _exactly(file: IO[bytes], n: int) -> bytes:
    data = file.read(n)
    if len(data) < n:
        raise ValueError("cut short")
    return data
