"""How long a picture takes to decode: those that would take far longer than their pixels are worth are refused."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from instsearch_cli.images.jpegs import next_marker, segments

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FEW_SCANS = 20  #: that any picture may have; encoders write about ten
SCANNED = 1_000_000_000  #: pixels times scans; about ten seconds
SLOW_PIXELS = 10_000_000  #: where each takes a step of Python's; about ten seconds
SEGMENTS = 5_000

_SLOW = {
    "ppm": "PPM with another largest value than 255 or 65535",
    "ppm_plain": "PPM in plain text",
    "bmp_rle": "BMP in run lengths",
}


def too_slow(file: IO[bytes], image: ImageFile) -> str | None:
    """Why a picture, not loaded yet, is refused for the time that it would take; None if it is not."""
    pixels = image.width * image.height
    slow = next((_SLOW[tile[0]] for tile in image.tile if tile[0] in _SLOW), None)
    if slow and pixels > SLOW_PIXELS:
        return f"too slow to read: {slow}, of more than {SLOW_PIXELS // 1_000_000} million pixels"
    if image.info.get("progressive"):
        most = max(FEW_SCANS, SCANNED // pixels)
        before = file.tell()
        many = _scans(file, most) > most
        file.seek(before)
        if many:
            return f"too slow to read: progressive JPEG of more than {most} scans"
    return None


def _scans(file: IO[bytes], most: int) -> int:
    """How many scans a JPEG has, counted to one more than ``most``; of too many segments, that."""
    scans, at = 0, 0
    for marker, place, length in segments(file):
        at = place + length
        scans = int(marker == 0xDA)
    for _ in range(SEGMENTS):
        found = next_marker(file, at)
        if found is None or found[0] == 0xD9 or scans > most:
            return scans
        marker, place = found
        file.seek(place)
        scans += marker == 0xDA
        at = place + max(2, int.from_bytes(file.read(2), "big"))
    return most + 1
