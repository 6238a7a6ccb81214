"""A picture without what lies beside its pixels: texts, profiles, previews, none of which may cost the picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, TYPE_CHECKING

from instsearch_cli.images.directories import MAGIC, tiff_layout
from instsearch_cli.images.jpegs import segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGEST = 200_000_000  #: bytes of a file that is copied

_PNG = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320),
    *(322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 532),
}


def without_extras(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Copies of a file that keep less and less beside the pixels; none of a file of which nothing can be left out."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    bare = next((bare for magic, bare in _BARE if head.startswith(magic)), None)
    if bare is None or size > LARGEST:
        return
    last = whole = head + file.read()
    for turned in (True, False):
        try:
            data = bare(whole, turned)
        except (ValueError, LookupError, OverflowError, struct.error):
            return
        if data not in (whole, last):
            yield io.BytesIO(data)
        last = data


def _png(whole: bytes, turned: bool) -> bytes:
    """The chunks that are pixels, and the EXIF of a picture that may be ``turned``, if it is sound."""
    parts, at = [_PNG], 8
    while len(head := whole[at : at + 8]) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = whole[at + 8 : at + 12 + length]
        complete = len(body) == length + 4
        sound = complete and zlib.crc32(kind + body[:-4]) == int.from_bytes(body[-4:], "big")
        wanted = kind in _PIXELS or (turned and kind == b"eXIf")
        if complete and wanted and (sound or kind in _PIXELS[:3]):
            parts += [head, body]
        at += 12 + length
    return b"".join((*parts, _END))


def _jpeg(whole: bytes, turned: bool) -> bytes:
    """The segments that are pixels, how their colours are coded, and the EXIF of a picture that may be ``turned``."""
    parts = [b"\xff\xd8"]
    for marker, place, length in segments(io.BytesIO(whole)):
        body = whole[place : place + max(length, 0)] if marker != 0xDA else whole[place:]
        exif = turned and marker == 0xE1 and body.startswith(b"Exif\0")
        jfif = marker == 0xE0 and len(body) >= 14
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE or exif or jfif:
            parts += [struct.pack(">BBH", 0xFF, marker, max(length, 0) + 2), body]
    return b"".join(parts)


def _tiff(whole: bytes, turned: bool) -> bytes:
    """The first directory's tags that say how pixels are coded, and which way up, where they were."""
    order, big, at = tiff_layout(whole[:16])
    number, size, place = ("Q", 20, 8) if big else ("H", 12, 4)
    count = struct.unpack_from(order + number, whole, at)[0]
    start = at + struct.calcsize(number)
    entries = [whole[i : i + size] for i in range(start, min(start + count * size, len(whole)), size)]
    tags = _TIFF_PIXELS | ({274} if turned else set())
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in tags]
    directory = struct.pack(order + number, len(kept)) + b"".join(kept) + bytes(place)
    return whole[:at] + directory + whole[at + len(directory) :]


def _webp(whole: bytes, turned: bool) -> bytes:
    """The chunks that are pixels, and the EXIF of a picture that may be ``turned``."""
    parts, at = [], 12
    while len(head := whole[at : at + 8]) == 8:
        kind, length = struct.unpack("<4sI", head)
        body = whole[at + 8 : at + 8 + length + length % 2]
        if kind == b"VP8X":  # says what there is: alpha, animation, EXIF
            body = bytes([body[0] & (0x1A if turned else 0x12)]) + body[1:]
        if kind in _WEBP_PIXELS or (turned and kind == b"EXIF" and len(body) >= length):
            parts += [head, body]
        at += 8 + len(body)
    data = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(data)) + data


_BARE: tuple[tuple[bytes, Callable[[bytes, bool], bytes]], ...] = (
    (_PNG, _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"RIFF", _webp),
    *((magic, _tiff) for magic in MAGIC),
)
