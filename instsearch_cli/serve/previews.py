"""Pictures for a page: upright JPEGs, whatever the file is, those asked for last kept in memory."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING, NamedTuple

import PIL.Image

from instsearch_cli.engine.kept import Kept
from instsearch_cli.images import read_image, shrink

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
        self._kept: Kept[str, Preview] = Kept(most)

    def of(self, path: Path, side: int) -> Preview:
        """The JPEG of a file, of no more than ``side`` pixels. Raises BadImage."""
        tag = tag_of(path, side)
        if (kept := self._kept.get(tag)) is not None:
            return kept
        picture = read_image(path, lambda w, h: shrink(w, h, side))
        data = io.BytesIO()
        PIL.Image.fromarray(picture.pixels).save(data, "JPEG", quality=QUALITY)
        preview = Preview(data.getvalue(), tag)
        self._kept.put(tag, preview, len(preview.data))
        return preview


def tag_of(path: Path, side: int) -> str:
    """Of a file as it is now, at a size."""
    try:
        there = path.stat()
        state = f"{there.st_mtime_ns} {there.st_ctime_ns} {there.st_size} {there.st_ino}"
    except OSError:
        state = "-"
    return hashlib.sha256(os.fsencode(path) + f"\0{state} {side}".encode()).hexdigest()[:32]
