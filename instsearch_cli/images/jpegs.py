"""What a JPEG is made of: its segments, its frame, its end."""

from __future__ import annotations

import re
import struct
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENTS = 5_000  #: of a JPEG that is followed to its end

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def segments(file: IO[bytes], start: int = 0) -> Iterator[tuple[int, int, int]]:
    """(marker, place, length) of each segment's data, of the JPEG that begins at ``start``, up to the first scan's."""
    file.seek(start + 2)
    while True:
        byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
            if byte not in (b"\xff", b"\0", b""):
                break
        else:
            if not byte:
                return
            continue  # stray bytes between segments
        marker = byte[0]
        if 0xD0 <= marker <= 0xD8 or marker == 0x01:
            continue
        head = file.read(2)
        if marker == 0xD9 or len(head) < 2:
            return
        length, place = struct.unpack(">H", head)[0] - 2, file.tell()
        yield marker, place, length
        if marker == 0xDA or length < 0:
            return
        file.seek(place + length)


def next_marker(file: IO[bytes], at: int) -> tuple[int, int] | None:
    """The next marker and the place behind it."""
    size = 1 << 12
    while True:
        file.seek(at)
        data = file.read(size)
        if found := _MARKER.search(data):
            return found[0][1], at + found.end()
        if len(data) < size:
            return None
        at, size = at + size - 1, min(2 * size, 1 << 22)


def frame(file: IO[bytes], start: int) -> tuple[int, int] | None:
    """Width and height of the JPEG that begins at ``start``, None if there is none of 8 bits that is shown as it is."""
    file.seek(start)
    if file.read(3) != b"\xff\xd8\xff":
        return None
    for marker, place, _ in segments(file, start):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            file.seek(place)
            head = file.read(6)
            if marker > 0xC2 or len(head) < 6:
                return None
            bits, height, width, components = struct.unpack(">BHHB", head)
            return (width, height) if bits == 8 and components in (1, 3) and width and height else None
    return None


def end(file: IO[bytes], start: int) -> int | None:
    """The place behind the JPEG that begins at ``start``; None for one without an end."""
    at = start + 2
    for _ in range(SEGMENTS):
        found = next_marker(file, at)
        if found is None or found[0] == 0xD9:
            return found and found[1]
        file.seek(found[1])
        at = found[1] + max(2, int.from_bytes(file.read(2), "big"))
    return None
