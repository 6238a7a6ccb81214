"""Reading a picture's pixels. Whatever the file holds comes out as upright RGB, 8 bits a channel:

* the EXIF orientation is applied, and sizes are those of the upright picture;
* transparency is laid over white; of an animation, the first frame counts;
* 16-bit grey is scaled by 255 / 65535, not cut off; 32-bit and floating-point grey by the smallest of 1, 255
  (floating point only) and 65535 that holds the picture's largest value, else by that value;
* a picture that cannot be read whole is an error, never a half-grey picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from instsearch_cli.images.opening import MAX_PIXELS, despite_pillows_limit, open_picture, reasons

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.ImageFile import ImageFile

    from instsearch_cli.data import Image

_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


@despite_pillows_limit
def read_image(
    path: Path,
    fit: Callable[[int, int], tuple[int, int]] | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str = "",
) -> Image:
    """Read a picture upright, as RGB u8[H, W, 3], at the size that ``fit`` asks for.

    ``fit(width, height)`` gets the size of the upright original and returns the wanted width and height;
    without it the picture keeps its size. A JPEG that shrinks by 2 or more is decoded at 1/2, 1/4 or 1/8
    (libjpeg's scaled inverse DCT). The rest of the way is a bilinear filter whose support grows with the
    factor, so that nothing aliases, after a box reduction to no less than twice the wanted size. ``size`` of
    the result is always that of the upright original.

    Raises :class:`BadImage` for whatever is wrong with the file.
    """
    from instsearch_cli.data import Image

    with reasons():
        file = path.open("rb")
    with file:
        with reasons():
            image, header, orientation = open_picture(file, max_pixels)
        size = header.width, header.height
        width, height = size if fit is None else fit(*size)
        with reasons():
            return Image(_pixels(image, (max(1, width), max(1, height)), orientation), size, name)


def _pixels(image: ImageFile, wanted: tuple[int, int], orientation: int) -> np.ndarray:
    """Decode to upright RGB u8[H, W, 3] of the wanted (upright) width and height."""
    turned = image.format == "TIFF"  # by Pillow, while decoding
    stored = wanted if orientation < 5 or turned else (wanted[1], wanted[0])
    drafted = image.draft(None, stored)
    image.load()
    flat = _flat(image)
    box = drafted[1] if drafted else (0, 0, *flat.size)
    if flat.size != stored or box != (0, 0, *stored):
        flat = flat.resize(stored, PIL.Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    if orientation in _UPRIGHT and not turned:
        flat = flat.transpose(_UPRIGHT[orientation])
    return np.array(flat if flat.mode == "RGB" else flat.convert("RGB"))


def _flat(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in mode RGB or L, without transparency."""
    if image.mode == "F":
        return _grey(np.asarray(image), (1.0, 255.0, 65535.0))
    if image.mode.startswith("I"):
        return _grey(np.asarray(image), (65535.0,))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _grey(values: np.ndarray, scales: tuple[float, ...]) -> PIL.Image.Image:
    """Scale to 8 bits: round(255 v / s), s the first of ``scales`` that holds them all, else the largest."""
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(values.max())
    scale = next((scale for scale in scales if peak <= scale), peak)
    return PIL.Image.fromarray(np.rint(values.clip(0, scale) * (255 / scale)).astype(np.uint8))
