"""TIFF files of numbers that Pillow has no mode for: colour of 10 to 64 bits, floating point, big-endian BigTIFF.

OpenCV decodes them, in those forms alone that it decodes right; what it gives is scaled as grey of such numbers is.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import PIL.Image
import PIL.ImageFile

from instsearch_cli.images.directories import tiff_tags
from instsearch_cli.images.shades import eight_bits, scale_of

BAND = 1 << 20  #: pixels that are scaled at a time

_DEPTHS = {1: (8, 10, 12, 14, 16, 32, 64), 2: (8, 16, 32), 3: (32, 64)}  #: kind of number -> bits
_KINDS = {1: "u", 2: "i", 3: "f"}
_COMPRESSIONS = (1, 5, 8, 32773, 32946)


def open_deep_tiff(file: IO[bytes]) -> PIL.ImageFile.ImageFile | None:
    """The picture, not decoded yet, or None for a file that is not of this kind."""
    file.seek(0)
    try:
        return DeepTiff(file, "")
    except Exception:
        return None


class DeepTiff(PIL.ImageFile.ImageFile):
    """What Pillow asks of a format, in mode RGB or L."""

    format = "TIFF"
    format_description = "TIFF of deep colour"

    def _open(self) -> None:
        tags = tiff_tags(self.fp)  # type: ignore[arg-type]
        one = {tag: values[0] for tag, values in tags.items()}
        bits, kind = tags.get(258, (1,)), one.get(339, 1)
        channels, colour = one.get(277, len(bits)), one.get(262)
        if (
            one.get(284, 1) != 1
            or one.get(259, 1) not in _COMPRESSIONS
            or (colour, channels) not in ((1, 1), (2, 3), (2, 4))
            or len(set(bits)) != 1
            or bits[0] not in _DEPTHS.get(kind, ())
        ):
            raise SyntaxError("not of this kind")
        self._mode = "L" if channels == 1 else "RGB"
        self._size = one[256], one[257]
        self.channels, self.kind, self.bits = channels, kind, 16 if bits[0] in (10, 12, 14) else bits[0]
        self.alpha = one.get(338, 0) if channels == 4 else 0
        self.tag_v2 = {256: one[256], 257: one[257], 274: one.get(274, 1)}
        exif = PIL.Image.Exif()
        exif[0x0112] = self.tag_v2[274]
        self.info["exif"] = exif.tobytes()
        self.decoding = one[256] * one[257] * channels * self.bits // 8 * 2  # bytes, beside what it gives

    def load(self) -> Any:
        if self.fp is not None:
            self.fp.seek(0)
            values = _decode(self.fp.read())
            width, height = self.tag_v2[256], self.tag_v2[257]
            upright = (width, height) if self.tag_v2[274] in (5, 6, 7, 8) else (height, width)  # by OpenCV
            if values.shape != (upright if self.channels == 1 else (*upright, self.channels)):
                raise OSError("its pixels are not of the size that it says")
            if values.dtype != np.dtype(f"{_KINDS[self.kind]}{self.bits // 8}"):
                raise OSError("its pixels are not of the numbers that it says")
            self.im = _flat(values, self.alpha).im
            self._size = self.im.size
            self.fp = None
        return PIL.Image.Image.load(self)


def _decode(data: bytes) -> np.ndarray:
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None:
        raise EOFError  # or it is damaged: OpenCV does not say
    return np.asarray(values)


def _flat(values: np.ndarray, alpha: int) -> PIL.Image.Image:
    """Grey, or blue, green, red and perhaps alpha, of any numbers, as a picture of 8 bits over white.

    alpha  0: there is none; 1: the colours have been multiplied by it; 2: they have not
    """
    colour = values if values.ndim == 2 else values[..., :3]
    scale = scale_of(
        values.dtype, max(float(np.nan_to_num(rows, posinf=0.0).max()) for rows in _rows(colour))
    )
    parts = []
    for rows in _rows(values):
        shades = eight_bits(rows if rows.ndim == 2 else rows[..., 2::-1], scale)
        if alpha in (1, 2):
            most = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
            cover = np.nan_to_num(rows[..., 3:].astype(np.float32) / most).clip(0, 1)
            over = shades * (cover if alpha == 2 else 1) + 255 * (1 - cover)
            shades = np.rint(over.clip(0, 255)).astype(np.uint8)
        parts.append(shades)
    return PIL.Image.fromarray(np.ascontiguousarray(np.concatenate(parts)))


def _rows(values: np.ndarray) -> list[np.ndarray]:
    step = max(1, BAND // values.shape[1])
    return [values[y : y + step] for y in range(0, len(values), step)]
