"""A picture without what lies beside its pixels: texts, profiles, previews, none of which may cost the picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, TYPE_CHECKING

from instsearch_cli.images.kinds import jpeg_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 200_000_000  #: bytes of a file that is copied

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")


def without_extras(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Copies of a file that keep less and less beside the pixels; none of a file of which nothing can be left out."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if size > LARGEST:
        return
    for turned in (True, False):
        if head == _PNG:
            data = _png(file, turned)
        elif head.startswith(b"\xff\xd8\xff"):
            data = _jpeg(file, turned)
        else:
            return
        if len(data) < size:
            yield io.BytesIO(data)


def _png(file: IO[bytes], turned: bool) -> bytes:
    """The chunks that are pixels, and the EXIF of a picture that may be ``turned``, if it is sound."""
    file.seek(8)
    parts = [_PNG]
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = file.read(length + 4)
        sound = len(body) == length + 4 and zlib.crc32(kind + body[:-4]) == int.from_bytes(body[-4:], "big")
        if kind in _PIXELS[:3] or (sound and (kind in _PIXELS or (turned and kind == b"eXIf"))):
            parts += [head, body]
    return b"".join(parts)


def _jpeg(file: IO[bytes], turned: bool) -> bytes:
    """The segments that are pixels, how their colours are coded, and the EXIF of a picture that may be ``turned``."""
    parts = [b"\xff\xd8"]
    for marker, place, length in list(jpeg_segments(file)):
        file.seek(place)
        body = file.read(max(length, 0)) if marker != 0xDA else file.read()
        exif = turned and marker == 0xE1 and body.startswith(b"Exif\0")
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in (0xE0, 0xEE) or exif:
            parts += [struct.pack(">BBH", 0xFF, marker, max(length, 0) + 2), body]
    return b"".join(parts)
