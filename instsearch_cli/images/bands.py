"""Large PNG and TIFF files a band of rows at a time: each band is a small file of its own, which Pillow decodes."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from instsearch_cli.images.quirks import settle, tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    import PIL.Image
    from PIL.ImageFile import ImageFile

BAND = 1 << 20  #: pixels of a band, or as many as a strip or a row of tiles has

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  #: of a PNG's kinds of colour
_KEPT = (258, 259, 262, 266, 277, 284, 317, 320, 322, 323, 338, 339, 347, 530)
_SHORT = {258, 259, 262, 266, 277, 284, 317, 320, 338, 339, 530}  #: tags of 16-bit numbers


@dataclass(frozen=True)
class Bands:
    """A picture by bands of so many ``rows``, the last of fewer, before it is turned; iterated over once.

    held  bytes that decoding a band takes at most
    """

    size: tuple[int, int]
    rows: int
    held: int
    _decoded: Iterator[PIL.Image.Image]

    def __iter__(self) -> Iterator[PIL.Image.Image]:
        return self._decoded


def in_bands(file: IO[bytes], image: ImageFile) -> Bands | None:
    """A picture that is not loaded yet, by bands; None for one that is decoded whole."""
    look = {PngImageFile: _png, TiffImageFile: _tiff}.get(type(image))
    before = file.tell()
    try:
        return look(file, image) if look else None
    except (ValueError, TypeError, ArithmeticError, LookupError, struct.error):
        return None
    finally:
        file.seek(before)


# -- PNG --------------------------------------------------------------------------------------------------


def _png(file: IO[bytes], image: ImageFile) -> Bands | None:
    """By rows that are inflated, and deflated again by no more than a wrapping."""
    file.seek(16)
    head = file.read(13)
    width, height, depth, colour, _compression, _filter, interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or interlaced or colour not in _CHANNELS:
        return None
    channels = _CHANNELS[colour]
    rows = max(1, BAND // width)
    return Bands((width, height), rows, 12 * channels * width * rows, _png_bands(file, head, channels, rows))


def _png_bands(file: IO[bytes], head: bytes, channels: int, rows: int) -> Iterator[PIL.Image.Image]:
    width, height = struct.unpack_from(">II", head)
    colours: list[bytes] = []
    inflated, lines, last = _inflated(file, colours), bytearray(), b""
    for top in range(0, height, rows):
        n = min(rows, height - top)
        size = n * (1 + width * channels)
        while len(lines) < size:
            piece = next(inflated, None)
            if piece is None:
                raise EOFError
            lines += piece
        before = 1 if last else 0  # what the first row's filter may refer to
        body = zlib.compress((b"\0" + last if last else b"") + lines[:size], 0)
        del lines[:size]
        header = _chunk(b"IHDR", struct.pack(">II", width, n + before) + head[8:])
        whole = b"".join([_PNG, header, *colours, _chunk(b"IDAT", body), _chunk(b"IEND", b"")])
        with PngImageFile(io.BytesIO(whole)) as band:
            band.load()
            last = band.crop((0, n + before - 1, width, n + before)).tobytes()
            yield band.crop((0, before, width, n + before)) if before else band


def _inflated(file: IO[bytes], colours: list[bytes]) -> Iterator[bytes]:
    """The rows in pieces; chunks about colours go to a list. Raises SyntaxError for a bad sum, as Pillow does."""
    inflate = zlib.decompressobj()
    file.seek(8)
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind in (b"PLTE", b"tRNS", b"IDAT"):
            data, ending = file.read(length), file.read(4)
            if len(ending) == 4 and zlib.crc32(kind + data) != int.from_bytes(ending, "big"):
                raise SyntaxError(f"broken PNG file (bad header checksum in {kind!r})")
            if kind != b"IDAT":
                colours.append(start + data + ending)
                continue
            while data:
                yield inflate.decompress(data, BAND)
                data = inflate.unconsumed_tail
        else:
            file.seek(length + 4, io.SEEK_CUR)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# -- TIFF -------------------------------------------------------------------------------------------------


def _tiff(file: IO[bytes], image: Any) -> Bands | None:
    """By strips or rows of tiles; one strip that is not compressed, by its rows."""
    tags, tiled = image.tag_v2, 324 in image.tag_v2
    places, sizes = tags.get(324, tags.get(273)), tags.get(325, tags.get(279))
    one_of_each = isinstance(places, tuple) and isinstance(sizes, tuple) and len(places) == len(sizes)
    if not one_of_each or image.mode in ("I", "F") or tag(image, 284, 1) != 1 or (tiled and 273 in tags):
        return None
    width, height = tag(image, 256, 0), tag(image, 257, 0)
    rows = tag(image, 323, 0) if tiled else min(tag(image, 278, height), height)
    wide = tag(image, 322, 0) if tiled else width
    across = -(-width // wide)
    if tag(image, 259, 1) == 1:  # its sizes may be anything: they follow from the rows
        line = -(-wide * tag(image, 277, 1) * tag(image, 258, 1) // 8)
        if len(places) == 1 and not tiled:
            rows = max(1, BAND // width)
            places = tuple(places[0] + y * line for y in range(0, height, rows))
        full = len(places) if tiled else height // rows
        sizes = (rows * line,) * full + (height % rows * line,) * (len(places) - full)
    size = file.seek(0, io.SEEK_END)
    if not 0 < min(sizes) <= max(sizes) <= size or len(places) < across * -(-height // rows):
        return None
    together = max(1, BAND // (width * rows))  # rows of pieces in a band
    if together * rows >= height:
        return None
    held = 12 * width * rows * together + 3 * across * together * max(sizes)
    pieces = list(zip(places, sizes, strict=True))
    decoded = _tiff_bands(file, image, pieces, across, rows, together)
    return Bands((width, height), together * rows, held, decoded)


def _tiff_bands(
    file: IO[bytes], image: Any, pieces: list[tuple[int, int]], across: int, rows: int, together: int
) -> Iterator[PIL.Image.Image]:
    """``pieces``: (place, size) of each strip or tile, so many ``across``, and of so many ``rows``."""
    height = tag(image, 257, 0)
    for y in range(0, height, rows * together):
        parts, first = [], y // rows * across
        for place, size in pieces[first : first + across * together]:
            file.seek(place)
            parts.append(file.read(size))
            if len(parts[-1]) < size:
                raise EOFError
        small = _small_tiff(image, min(rows * together, height - y), rows, parts)
        with TiffImageFile(io.BytesIO(small)) as band:
            settle(band)
            band.load()
            yield band


def _small_tiff(image: Any, height: int, rows: int, parts: list[bytes]) -> bytes:
    """A file of a few strips or tiles of a picture."""
    tags: dict[int, Any] = {number: image.tag_v2[number] for number in _KEPT if number in image.tag_v2}
    places, sizes = (324, 325) if 322 in tags else (273, 279)
    starts = [8]
    for part in parts:
        starts.append(starts[-1] + len(part))
    tags |= {256: tag(image, 256, 0), 257: height, places: tuple(starts[:-1]), sizes: tuple(map(len, parts))}
    if 322 not in tags:
        tags[278] = rows
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    entries, beside = b"", b""
    end = starts[-1] + 6 + 12 * len(tags)
    for number, value in sorted(tags.items()):
        if isinstance(value, bytes):
            kind, n, data = 7, len(value), value
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            kind = 3 if number in _SHORT else 4
            n, data = len(numbers), struct.pack(f"{order}{len(numbers)}{'HI'[kind - 3]}", *numbers)
        if len(data) > 4:
            data, beside = struct.pack(order + "I", end + len(beside)), beside + data
        entries += struct.pack(order + "HHI", number, kind, n) + data.ljust(4, b"\0")
    head = image.tag_v2.prefix + struct.pack(order + "HI", 42, starts[-1])
    return b"".join([head, *parts, struct.pack(order + "H", len(tags)), entries, bytes(4), beside])
