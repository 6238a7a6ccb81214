"""From a decoded picture to upright RGB, 8 bits a channel, at the wanted size, in bands of rows.

What a decoder gives is the largest thing in memory; whatever else it takes to make it flat is done a band at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from instsearch_cli.images.deep_tiff import DeepTiff
from instsearch_cli.images.quirks import settle, tag
from instsearch_cli.images.shades import eight_bits, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

    from instsearch_cli.images.bands import Bands

BAND = 1 << 20  #: pixels that are made flat at a time
BILINEAR = PIL.Image.Resampling.BILINEAR

_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_DECODERS = {"WEBP": 15, "AVIF": 10, "HEIF": 10, "JXL": 28, "JPEG2000": 20, "GIF": 4}
"""Bytes a pixel that these formats' decoders hold beside what they give."""


def cost(image: ImageFile, full: tuple[int, int], stored: tuple[int, int], nbytes: int) -> int:
    """About how many bytes it takes at most to read a picture that is not loaded yet, drafted or not.

    full    its width and height, before it was drafted
    stored  width and height of what is made of it
    nbytes  of the file
    """
    pixels, wanted = image.width * image.height, stored[0] * stored[1]
    each = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    decoded = pixels * each
    decoding = pixels * _DECODERS.get(image.format or "", 0)
    if image.format == "TIFF":
        decoding = decoded + nbytes  # strips, which may be the whole picture
        decoding += image.decoding if isinstance(image, DeepTiff) else 0
    elif image.format in ("PPM", "BMP"):
        decoding = 2 * decoded
    elif image.info.get("progressive"):
        decoding = 2 * len(image.getbands()) * full[0] * full[1]  # all coefficients
    fx, fy = factors(image.size, stored)
    reduced = -(-image.width // fx) * -(-image.height // fy)
    after = 10 * wanted  # turned, and as an array
    if image.mode not in ("RGB", "L") or (fx, fy) != (1, 1):
        after += 4 * reduced + 24 * max(BAND, image.width * fy)
    if image.size != stored:
        after += 4 * (wanted + stored[0] * -(-image.height // fy))
    return decoded + max(decoding, after)


def cost_of_bands(bands: Bands, stored: tuple[int, int]) -> int:
    """The same of one that is decoded by bands."""
    width, wanted = bands.size[0], stored[0] * stored[1]
    fx, fy = factors(bands.size, stored)
    reduced = -(-width // fx) * -(-bands.size[1] // fy)
    flat = 16 * width * (bands.rows + fy) + 24 * max(BAND, width)
    return bands.held + flat + 4 * (reduced + wanted + stored[0] * -(-bands.size[1] // fy)) + 10 * wanted


def upright_by_bands(bands: Bands, stored: tuple[int, int], orientation: int) -> np.ndarray:
    """What :func:`upright` gives of a picture that is decoded by bands."""
    by = factors(bands.size, stored)
    flat, size = _reduced(bands, by), (bands.size[0] / by[0], bands.size[1] / by[1])
    return _turned(flat.resize(stored, BILINEAR, box=(0, 0, *size)), orientation)


def _reduced(bands: Bands, by: tuple[int, int]) -> PIL.Image.Image:
    """All bands flat, each side reduced by a whole factor, as the whole picture would be."""
    width, y, rest = bands.size[0], 0, None
    whole = None
    for band in bands:
        part = flattened(band)
        if rest is not None and rest.height:
            joined = PIL.Image.new(part.mode, (width, rest.height + part.height))
            joined.paste(rest)
            joined.paste(part, (0, rest.height))
            part = joined
        rows = part.height // by[1] * by[1] if y + part.height < bands.size[1] else part.height
        if whole is None:
            whole = PIL.Image.new(part.mode, (-(-width // by[0]), -(-bands.size[1] // by[1])))
        if rows:
            whole.paste(part.crop((0, 0, width, rows)).reduce(by), (0, y // by[1]))
        rest, y = part.crop((0, rows, width, part.height)), y + rows
    assert whole is not None
    return whole


def upright(
    image: ImageFile, stored: tuple[int, int], orientation: int, box: tuple[float, float, float, float] | None
) -> np.ndarray:
    """Decode to RGB u8[H, W, 3]: ``stored`` width and height of ``box`` (None: all), then turned by an orientation."""
    settle(image)
    image.load()
    whole = (0, 0, *image.size)
    if box is not None and box != whole:
        flat = flattened(image).resize(stored, BILINEAR, box=box, reducing_gap=2.0)
    elif image.size == stored:
        flat = flattened(image)
    else:  # what resize() does with a reducing gap of 2
        by = factors(image.size, stored)
        flat = flattened(image, by)
        flat = flat.resize(stored, BILINEAR, box=(0, 0, image.width / by[0], image.height / by[1]))
    return _turned(flat, orientation)


def _turned(flat: PIL.Image.Image, orientation: int) -> np.ndarray:
    if orientation in _UPRIGHT:
        flat = flat.transpose(_UPRIGHT[orientation])
    return np.array(flat if flat.mode == "RGB" else flat.convert("RGB"))


def flattened(image: PIL.Image.Image, by: tuple[int, int] = (1, 1)) -> PIL.Image.Image:
    """The picture in mode RGB or L, without transparency, each of its sides reduced by a whole factor."""
    signed = image.format == "TIFF" and tag(image, 339, 1) == 2
    if image.mode in ("RGB", "L") and not image.has_transparency_data and not signed:
        return image if by == (1, 1) else image.reduce(by)
    flat, whole = _flattener(image), None
    for y, band in _bands(image, by[1]):
        part = flat(band)
        part = part if by == (1, 1) else part.reduce(by)
        if whole is None:
            size = -(-image.width // by[0]), -(-image.height // by[1])
            whole = PIL.Image.new(part.mode, size)
        whole.paste(part, (0, y // by[1]))
    assert whole is not None
    return whole


def factors(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """By what whole numbers the sides are reduced before the filter."""
    return tuple(int(n / w / 2.0) or 1 for n, w in zip(size, wanted, strict=True))  # type: ignore[return-value]


def _bands(image: PIL.Image.Image, multiple: int = 1) -> Iterator[tuple[int, PIL.Image.Image]]:
    """(first row, band) of bands of so many rows or a multiple, but for the last."""
    rows = max(1, BAND // image.width // multiple) * multiple
    for y in range(0, image.height, rows):
        yield y, image.crop((0, y, image.width, min(y + rows, image.height)))


def _flattener(image: PIL.Image.Image) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """What makes a band of a picture flat."""
    tiff = image.format == "TIFF"
    if image.mode == "F" or image.mode.startswith("I"):
        unsigned = image.mode == "I" and tiff and tag(image, 339, 1) == 1
        clear = image.info.get("transparency")
        clear = clear if isinstance(clear, int) else None

        def values(band: PIL.Image.Image) -> np.ndarray:
            given = np.asarray(band)
            return given.view(np.uint32) if unsigned and given.dtype == np.int32 else given

        kind = np.uint16 if image.mode.startswith("I;16") else np.float32 if image.mode == "F" else np.int32
        if kind == np.uint16:
            scale = 4095.0 if tiff and tag(image, 258, 16) == 12 else 65535.0
        else:
            peaks = (np.nan_to_num(values(band), posinf=0.0).max() for _, band in _bands(image))
            scale = scale_of(np.dtype(kind), float(max(peaks)))

        def grey(band: PIL.Image.Image) -> PIL.Image.Image:
            given = values(band)
            shades = eight_bits(given, scale)
            if clear is not None:
                shades[given == clear] = 255
            return PIL.Image.fromarray(shades)

        return grey
    if tiff and image.mode == "L" and tag(image, 339, 1) == 2:
        return lambda band: band.point([*range(128), *[0] * 128])  # signed: what is negative is black
    if image.has_transparency_data:
        return _over_white
    mode = "L" if image.mode == "1" else "RGB"
    return lambda band: band.convert(mode)


def _over_white(band: PIL.Image.Image) -> PIL.Image.Image:
    band = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
    white = PIL.Image.new("RGB", band.size, "white")
    white.paste(band, mask=band.getchannel("A"))
    return white
