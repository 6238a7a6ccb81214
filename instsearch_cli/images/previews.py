"""The JPEG that stands for a picture: the preview in a camera's raw file, the one in a TIFF of the old kind."""

from __future__ import annotations

import io
import struct
from typing import IO, TYPE_CHECKING

from instsearch_cli.images.budget import BUDGET
from instsearch_cli.images.directories import Tags, directory, tiff_layout, tiff_tags
from instsearch_cli.images.jpegs import end, frame
from instsearch_cli.images.kinds import PREFIX, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 100_000  #: pixels of a preview; what has fewer is a thumbnail
DIRECTORIES = 100  #: of a file that are looked into
BEGINNINGS = 1000  #: of JPEGs in a file that are looked at
BLOCK = 1 << 20

_ERRORS = (ValueError, LookupError, struct.error, OverflowError, OSError)
_TURNED = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"  # and the orientation


def standing_for(file: IO[bytes], suffix: str) -> IO[bytes] | None:
    """The JPEG to read in place of a raw file, or of a TIFF of the old kind, turned as that is; None if there is none.

    Raises TooMuch for one that is too large to hold, EOFError for one that lies behind the file's end.
    """
    file.seek(0)
    prefix = file.read(PREFIX)
    kind = kind_of(prefix, suffix)
    if kind is None or not (kind.raw or kind.name == "TIFF"):
        return None
    first = _first_directory(file, prefix)
    best = _preview(file, prefix, first) if kind.raw else _old_jpeg(file, first)
    if best is None:
        return None
    place, length = best
    BUDGET.check(length)
    file.seek(place)
    data = file.read(length)
    orientation = first.get(274, (0,))[0]
    if 1 <= orientation <= 8:
        data = data[:2] + _TURNED + struct.pack("<HHI", orientation, 0, 0) + data[2:]
    return io.BytesIO(data)


def _preview(file: IO[bytes], prefix: bytes, first: Tags) -> tuple[int, int] | None:
    """Place and length of the largest JPEG that the directories list; where they list none, of any in the file."""
    listed = [(_pixels(file, place), place, length) for place, length in _listed(file, prefix)]
    pixels, place, length = max(listed, default=(0, 0, 0))
    if pixels >= LEAST:
        return place, length
    size = file.seek(0, io.SEEK_END)
    if any(place >= size for _, place, _ in listed):
        raise EOFError
    if 50706 not in first:  # DNG lists all that it has, and may have tiles that are JPEGs
        pixels, place = max(((_pixels(file, place), place) for place in _beginnings(file)), default=(0, 0))
        if pixels >= LEAST:
            return place, (end(file, place) or size) - place
    return None


def _old_jpeg(file: IO[bytes], first: Tags) -> tuple[int, int] | None:
    """Place and length of the JPEG that is the whole of a TIFF compressed in the old way."""
    if first.get(259) != (6,):
        return None
    size = first.get(256, (0,)) + first.get(257, (0,))
    return next((jpeg for jpeg in _jpegs(first) if frame(file, jpeg[0]) == size), None)


def _pixels(file: IO[bytes], place: int) -> int:
    try:
        width, height = frame(file, place) or (0, 0)
    except _ERRORS:
        return 0
    return width * height


def _first_directory(file: IO[bytes], prefix: bytes) -> Tags:
    """Of a TIFF file and its like; of a CR3, the one that tells of the camera."""
    try:
        if prefix[4:12] == b"ftypcrx ":
            file.seek(0)
            head = file.read(BLOCK)
            at = head.index(b"CMT1") + 4
            return tiff_tags(io.BytesIO(head[at:]))
        return directory(file, *tiff_layout(prefix[:16]))[0] if prefix[:2] in (b"II", b"MM") else {}
    except _ERRORS:
        return {}


def _jpegs(tags: Tags) -> Iterator[tuple[int, int]]:
    """(place, length) of what may be a JPEG in a directory."""
    if 513 in tags and 514 in tags:
        yield tags[513][0], tags[514][0]
    if tags.get(259, (0,))[0] in (6, 7) and len(tags.get(273, ())) == 1 and 279 in tags:
        yield tags[273][0], tags[279][0]


def _listed(file: IO[bytes], prefix: bytes) -> Iterator[tuple[int, int]]:
    """(place, length) of what may be a JPEG, by all directories beside and below the first."""
    if prefix[:2] not in (b"II", b"MM"):
        return
    order, big, place = tiff_layout(prefix[:16])
    places, seen = [place], set[int]()
    while places and len(seen) < DIRECTORIES:
        place = places.pop()
        if place in seen or not place:
            continue
        seen.add(place)
        try:
            tags, after = directory(file, order, big, place)
        except _ERRORS:
            continue
        places += [*tags.get(330, ()), after]
        yield from _jpegs(tags)


def _beginnings(file: IO[bytes]) -> Iterator[int]:
    """Where JPEGs begin, or what looks like it."""
    start, n = 0, 0
    while n < BEGINNINGS:
        file.seek(start)
        block = file.read(BLOCK)
        at = block.find(b"\xff\xd8\xff")
        while at >= 0 and n < BEGINNINGS:
            yield start + at
            n += 1
            at = block.find(b"\xff\xd8\xff", at + 1)
        if len(block) < BLOCK:
            return
        start += BLOCK - 2
