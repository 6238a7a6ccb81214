"""Pictures for a page: upright JPEGs, whatever the file is, those asked for last kept in memory."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import PIL.Image

from instsearch_cli.images import read_image
from instsearch_cli.report.pictures import shrink

if TYPE_CHECKING:
    from pathlib import Path

QUALITY = 82  #: of JPEGs
SMALLEST, LARGEST = 16, 4096  #: longer sides
MOST_BYTES = 64_000_000  #: kept in memory


class Preview(NamedTuple):
    """A JPEG, and a tag that changes when it does."""

    data: bytes
    tag: str


class Previews:
    """JPEGs of files at most so many pixels long."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._bytes = most, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Preview] = OrderedDict()

    def of(self, path: Path, side: int) -> Preview:
        """The JPEG of a file, of no more than ``side`` pixels. Raises BadImage."""
        tag = tag_of(path, side)
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return self._kept[tag]
        picture = read_image(path, lambda w, h: shrink(w, h, side))
        data = io.BytesIO()
        PIL.Image.fromarray(picture.pixels).save(data, "JPEG", quality=QUALITY)
        preview = Preview(data.getvalue(), tag)
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = preview
                self._bytes += len(preview.data)
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1].data)
        return preview


def tag_of(path: Path, side: int) -> str:
    """Of a file as it is now, at a size."""
    try:
        there = path.stat()
        state = f"{there.st_mtime_ns} {there.st_ctime_ns} {there.st_size} {there.st_ino}"
    except OSError:
        state = "-"
    return hashlib.sha256(os.fsencode(path) + f"\0{state} {side}".encode()).hexdigest()[:32]
