"""TIFF and BigTIFF files put together by hand: tags as they are given, strips, tiles, further directories."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Directory = dict[int, Any]
"""Tags: whole numbers, tuples of them, texts as bytes; of 273 and 324 the pieces themselves, of 513 the JPEG, of 330
the directories below."""


def tiff(*directories: Directory, order: str = "<", big: bool = False, magic: bytes = b"") -> bytes:
    """A file of directories, one behind the other."""
    place, room = ("Q", 8) if big else ("I", 4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head = (magic or head) + (struct.pack(order + "HH", 8, 0) if big else b"")
    body = bytearray(head + bytes(room))
    first, links = 0, list[int]()

    def write(directory: Directory) -> tuple[int, int]:
        """Where it begins, and where the place of the next one is written."""
        tags: dict[int, Any] = {}
        for tag, value in directory.items():
            if tag in (273, 324):
                places = []
                for piece in value:
                    places.append(len(body))
                    body.extend(piece)
                tags[tag] = tuple(places)
                tags.setdefault(279 if tag == 273 else 325, tuple(map(len, value)))
            elif tag == 513:
                tags[513], tags[514] = len(body), len(value)
                body.extend(value)
            elif tag == 330:
                tags[330] = tuple(write(below)[0] for below in value)
            else:
                tags[tag] = value
        entries = bytearray()
        for tag, value in sorted(tags.items()):
            if isinstance(value, bytes):
                kind, n, data = 7 if tag == 347 else 2, len(value), value
            else:
                numbers = value if isinstance(value, tuple) else (value,)
                kind = 4 if max(numbers) > 65535 or tag in (273, 279, 324, 325, 330, 513, 514) else 3
                n, data = len(numbers), struct.pack(f"{order}{len(numbers)}{' HI'[kind - 2]}", *numbers)
            if len(data) > room:
                where = struct.pack(order + place, len(body))
                body.extend(data)
                data = where
            entries += struct.pack(order + "HH" + place, tag, kind, n) + data.ljust(room, b"\0")
        at = len(body)
        body.extend(struct.pack(order + ("Q" if big else "H"), len(tags)) + entries)
        body.extend(bytes(room))
        return at, len(body) - room

    for directory in directories:
        at, link = write(directory)
        first = first or at
        if links:
            struct.pack_into(order + place, body, links[-1], at)
        links.append(link)
    struct.pack_into(order + place, body, len(head), first)
    return bytes(body)


def pixels(values: np.ndarray, order: str = "<", strips: int = 1) -> Directory:
    """The tags of numbers [h, w] or [h, w, channels] in as many strips, without compression."""
    values = values[..., None] if values.ndim == 2 else values
    h, w, channels = values.shape
    bits = 8 * values.itemsize
    rows = -(-h // strips)
    data = values.astype(np.dtype(order + values.dtype.str[1:]))
    return {
        256: w,
        257: h,
        258: (bits,) * channels,
        259: 1,
        262: 1 if channels < 3 else 2,
        273: [data[y : y + rows].tobytes() for y in range(0, h, rows)],
        277: channels,
        278: rows,
        339: ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],) * channels,
    }
