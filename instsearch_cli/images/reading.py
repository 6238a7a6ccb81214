"""Reading a picture's pixels. Whatever the file holds comes out as upright RGB, 8 bits a channel:

* the EXIF orientation is applied, and sizes are those of the upright picture;
* transparency is laid over white; of an animation, the first frame counts;
* 16-bit grey is scaled by 255 / 65535, not cut off; 32-bit and floating-point grey by the smallest of 1, 255
  (floating point only) and 65535 that holds the picture's largest value, else by that value;
* of a camera's raw file, its largest preview;
* a picture that cannot be read whole is an error, never a half-grey picture.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps

from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images.bands import in_bands
from instsearch_cli.images.budget import BUDGET
from instsearch_cli.images.effort import too_slow
from instsearch_cli.images.opening import (
    MAX_PIXELS,
    BadImage,
    despite_pillows_limit,
    file_size,
    open_file,
    open_picture,
    read_header,
    read_somehow,
    reasons,
    there,
)
from instsearch_cli.images.pixels import cost, cost_of_bands, factors, flattened, upright, upright_by_bands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

    from instsearch_cli.data import Image

LARGE = (
    1 << 22
)  #: pixels of a picture that is decoded by bands, where its format allows it and it is to shrink
MAX_BYTES = 500_000_000  #: of a picture that comes from a stream


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
        file = open_file(path)
    with file:

        def work(file: IO[bytes]) -> Image:
            with reasons():
                image, header, orientation = open_picture(file, max_pixels, path.suffix)
            size = header.width, header.height
            width, height = size if fit is None else fit(*size)
            with reasons(file, header.format):
                return Image(_pixels(file, image, (max(1, width), max(1, height)), orientation), size, name)

        return read_somehow(file, work, path.suffix)


class Photograph:
    """A picture to ask with: a file, or what is in memory already, as Pillow or numpy has it.

    name  what to call it in messages
    path  where it lies; None: it is in memory
    size  (width, height) of the upright original

    Raises InstsearchError for a file that is no picture, UsageError for what can be none.
    """

    def __init__(
        self, picture: str | os.PathLike[str] | PIL.Image.Image | np.ndarray, name: str = ""
    ) -> None:
        self.path: Path | None = None
        self._held: PIL.Image.Image | None = None
        if isinstance(picture, (str, os.PathLike)):
            self.path = there(Path(picture))
            self.name = name or str(picture)
            if self.path.is_dir():
                raise InstsearchError(f"'{printable(self.name)}' is a folder: name a picture")
            with self._named_errors():
                header = read_header(self.path)
            self.size = (header.width, header.height)
        else:
            named = picture.filename if isinstance(picture, PIL.ImageFile.ImageFile) else ""
            self.name = name or os.fsdecode(named) or "the picture"
            self._held = _in_memory(picture)
            self.size = self._held.size

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process, which may stand in another folder."""
        return vars(self) | {"path": self.path and self.path.absolute()}

    @classmethod
    def of(cls, picture: Photograph | str | os.PathLike[str] | PIL.Image.Image | np.ndarray) -> Photograph:
        """One that is given, or what it is of."""
        return picture if isinstance(picture, Photograph) else cls(picture)

    def read(self, fit: Callable[[int, int], tuple[int, int]]) -> Image:
        """The picture at the size that ``fit`` asks for, as :func:`read_image` gives it."""
        from instsearch_cli.data import Image

        if self._held is None:
            assert self.path is not None
            with self._named_errors():
                return read_image(self.path, fit, name=self.name)
        width, height = fit(*self.size)
        wanted = max(1, width), max(1, height)
        flat = self._held
        if flat.size != wanted:
            flat = flat.resize(wanted, PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)
        return Image(np.array(flat.convert("RGB")), self.size, self.name)

    def original(self) -> PIL.Image.Image:
        """The picture at its own size, upright."""
        if self._held is not None:
            return self._held
        return PIL.Image.fromarray(self.read(lambda w, h: (w, h)).pixels)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except BadImage as error:
            raise InstsearchError(f"{printable(self.name)}: {error.reason}") from error


def shrink(width: int, height: int, side: int) -> tuple[int, int]:
    """The size with the longer side at most ``side``, never larger than it is."""
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def read_stream(file: IO[bytes], name: str, max_bytes: int = MAX_BYTES) -> Photograph:
    """A picture to ask with, from a stream that cannot be read twice; ``name`` is what to call it.

    Raises InstsearchError for what is no picture, or for more than ``max_bytes``.
    """
    data = file.read(max_bytes + 1)
    try:
        if len(data) > max_bytes:
            raise BadImage(f"more than {max_bytes // 1_000_000:,} MB")
        with reasons():
            picture = PIL.Image.fromarray(read_somehow(io.BytesIO(data), _whole))
    except BadImage as error:
        raise InstsearchError(f"{name}: {error.reason}") from error
    return Photograph(picture, name)


def _whole(file: IO[bytes]) -> np.ndarray:
    """The picture in a file at its own size."""
    image, header, orientation = open_picture(file, MAX_PIXELS)
    with reasons(file, header.format):
        return _pixels(file, image, (header.width, header.height), orientation)


def _in_memory(picture: object) -> PIL.Image.Image:
    """An upright picture in mode RGB or L. Raises UsageError for what is none."""
    if isinstance(picture, PIL.Image.Image):
        try:
            with reasons():
                return flattened(PIL.ImageOps.exif_transpose(picture))
        except BadImage as error:
            raise UsageError(
                f"a picture of Pillow's that cannot be read ({error.reason}): give one that is open, or its file"
            ) from error
    if isinstance(picture, np.ndarray):
        grey = picture.ndim == 2
        if picture.dtype != np.uint8 or 0 in picture.shape or not (grey or picture.shape[2:] in ((3,), (4,))):
            raise UsageError(
                f"an array is a picture as u8[H, W, 3] or u8[H, W], not {picture.dtype}{list(picture.shape)}"
            )
        return flattened(PIL.Image.fromarray(picture))
    raise UsageError(f"a picture is a path, a picture of Pillow's or an array, not {type(picture).__name__}")


def _pixels(file: IO[bytes], image: ImageFile, wanted: tuple[int, int], orientation: int) -> np.ndarray:
    """Decode to upright RGB u8[H, W, 3] of the wanted (upright) width and height, within the memory there is for it."""
    if slow := too_slow(file, image):
        raise BadImage(slow)
    stored, full = wanted if orientation < 5 else (wanted[1], wanted[0]), image.size
    bands = in_bands(file, image) if image.width * image.height > LARGE else None
    if bands is not None and min(factors(bands.size, stored)) > 1:
        with BUDGET.spend(cost_of_bands(bands, stored)):
            return upright_by_bands(bands, stored, orientation)
    if image.format == "TIFF":  # turned by Pillow, while decoding
        stored, orientation = wanted, 1
    drafted = image.draft(None, stored)
    need = cost(image, full, stored, file_size(file))
    with BUDGET.spend(need):
        pixels = upright(image, stored, orientation, drafted[1] if drafted else None)
        image.close()  # its pixels go before what they took is given to others
        return pixels
