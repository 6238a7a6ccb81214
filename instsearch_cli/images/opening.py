"""Opening a picture file: what it is, how large, which way up, and, if it is no good, why not.

Pillow's own pixel limit is process-wide and its message gives neither width nor height. Files are therefore
opened through the decoders that Pillow registers, which skip that limit, and ours is checked on the header,
before any pixel is decoded.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import re
import stat
import struct
import sys
import threading
import unicodedata
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

import PIL.Image

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images.bare import without_extras
from instsearch_cli.images.budget import BUDGET, TooMuch
from instsearch_cli.images.deep_tiff import open_deep_tiff
from instsearch_cli.images.kinds import PREFIX, kind_of, plug_in, unsupported
from instsearch_cli.images.previews import standing_for
from instsearch_cli.images.sizes import declared_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from PIL.ImageFile import ImageFile

P = ParamSpec("P")
R = TypeVar("R")

MAX_PIXELS = 200_000_000

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL")
"""The formats that are read, by Pillow's names: rasters only, nothing that runs another program.

The last two are read by plugins, where those are installed.
"""

_READ_WHOLE = {"WEBP", "AVIF", "HEIF", "JXL"}  # at the end of the file whatever is wrong with it

if sys.platform == "win32":
    _TO_READ = os.O_RDONLY | os.O_BINARY
else:
    _TO_READ = os.O_RDONLY | os.O_NONBLOCK

logging.getLogger("PIL").addHandler(
    logging.NullHandler()
)  # else what it logs of odd files is on the terminal

_PILLOWS_LIMIT = threading.Lock()
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_FILTERS = threading.Lock()


class BadImage(InstsearchError):  # noqa: N818
    """A file that cannot be read as a picture; ``reason`` says why in a few words, without its name."""

    @property
    def reason(self) -> str:
        return str(self)


def passing(reason: str) -> bool:
    """Whether a reason is none of the file's own: that it could not be read then, or there was too little memory."""
    return reason.startswith(("cannot be read", "changed", "not enough memory", "needs about"))


@dataclass(frozen=True)
class Header:
    """Width and height of the upright picture in pixels, and Pillow's name for the file's format."""

    width: int
    height: int
    format: str


def content_digest(path: Path) -> bytes:
    """sha256 of the file's bytes: 32 bytes, in bounded memory; :class:`BadImage` if it cannot be read."""
    with reasons(), open_file(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def open_file(path: Path) -> BufferedReader:
    """Open a file to read, never waiting: :class:`BadImage` for a FIFO, a socket, a device; OSError."""
    if odd := not_a_file(os.stat(path).st_mode):  # noqa: PTH116  (before it is opened, which a device may notice)
        raise BadImage(odd)
    file = os.fdopen(os.open(path, _TO_READ), "rb")
    try:
        if odd := not_a_file(os.fstat(file.fileno()).st_mode):
            raise BadImage(odd)
    except BaseException:
        file.close()
        raise
    return file


def file_size(file: IO[bytes]) -> int:
    """How many bytes a file holds; where it is read from stays."""
    before = file.tell()
    try:
        return file.seek(0, os.SEEK_END)
    finally:
        file.seek(before)


def there(path: Path) -> Path:
    """A path as it is on disk: the same where it is there, else its name in the other Unicode form where that is."""
    if not os.path.lexists(path):
        for text in (unicodedata.normalize("NFC", str(path)), unicodedata.normalize("NFD", str(path))):
            for other in (Path(text), path.with_name(Path(text).name)):
                if os.path.lexists(other):
                    return other
    return path


def not_a_file(mode: int) -> str:
    """What something is that is no regular file, in words; "" for a regular file and for a folder."""
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = stat.S_IFMT(mode)
    return (
        "" if kind in (stat.S_IFREG, stat.S_IFDIR) else f"not a file but {kinds.get(kind, 'something else')}"
    )


def despite_pillows_limit(function: Callable[P, R]) -> Callable[P, R]:
    """Some of Pillow's decoders ask its limit themselves: do the rare picture above it again, without.

    One at a time, so that the limit is always put back as it was.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except PIL.Image.DecompressionBombError:
            with _PILLOWS_LIMIT:
                limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
                try:
                    return function(*args, **kwargs)
                finally:
                    PIL.Image.MAX_IMAGE_PIXELS = limit

    return wrapper


@despite_pillows_limit
def examine(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Header, bytes, os.stat_result]:
    """Header, sha256 and status of a picture's file, all three of one content.

    Raises :class:`BadImage` if the file is no picture, the picture is too large or the file changes meanwhile.
    """
    with reasons(), open_file(path) as file:
        before = os.fstat(file.fileno())
        header = read_somehow(file, lambda it: open_picture(it, max_pixels, path.suffix)[1], path.suffix)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadImage("changed while it was read")
    return header, digest, after


@despite_pillows_limit
def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Size and format of a picture, without decoding it.

    Raises :class:`BadImage` if the file is no picture or the picture is too large.
    """
    with reasons(), open_file(path) as file:
        return read_somehow(file, lambda it: open_picture(it, max_pixels, path.suffix)[1], path.suffix)


def read_somehow(file: IO[bytes], work: Callable[[IO[bytes]], R], suffix: str = "") -> R:
    """Do something with a picture, or with the JPEG that stands for it.

    Where it is damaged, once more without what lies beside its pixels.
    """
    with reasons():
        file = standing_for(file, suffix.lower()) or file
    try:
        return work(file)
    except BadImage as error:
        if error.reason.startswith(("damaged", "truncated")):
            for bare in without_extras(file):
                with suppress(BadImage):
                    return work(bare)
        raise


def open_picture(file: IO[bytes], max_pixels: int, suffix: str = "") -> tuple[ImageFile, Header, int]:
    """The picture, not decoded yet, its header, and its EXIF orientation (1 to 8)."""
    _hush_pillow()
    image = _identify(file, suffix.lower(), max_pixels)
    orientation = _orientation(image)
    width, height = image.size
    if image.format == "TIFF":  # Pillow turns these itself, and its size may already be the upright one
        width, height = (int(image.tag_v2[tag]) for tag in (256, 257))  # type: ignore[attr-defined]
    if orientation >= 5:
        width, height = height, width
    check_size(width, height, max_pixels)
    return image, Header(width, height, image.format or ""), orientation


def check_size(width: int, height: int, max_pixels: int) -> None:
    """:class:`BadImage` for too many pixels."""
    if width * height > max_pixels:
        raise BadImage(f"too large: {width} x {height} pixels, limit {max_pixels / 1e6:g} million")


def _identify(file: IO[bytes], suffix: str, max_pixels: int) -> ImageFile:
    file.seek(0)
    prefix = file.read(PREFIX)
    if not prefix:
        raise BadImage("empty file")
    kind = kind_of(prefix, suffix)
    if kind is None:
        raise BadImage("not an image")
    if not kind.reader or kind.raw:
        raise BadImage(kind.reason)
    factory, accept = _reader(kind.name)
    accepted = factory is not None and (accept is None or accept(prefix[:16]))
    if factory is None or isinstance(accepted, str):  # Pillow was built without this format
        raise BadImage(f"not supported: {kind.name}, which this Pillow was built without")
    try:
        if size := declared_size(file, kind.name):
            check_size(*size, max(max_pixels, MAX_PIXELS))  # before it is cropped, perhaps
            BUDGET.check(file_size(file))  # which these decoders hold
        file.seek(0)
        # no file name: Pillow might map the file, and one that is cut short meanwhile is a SIGBUS
        image: ImageFile = factory(file, "")
        return image
    except (BadImage, PIL.Image.DecompressionBombError):
        raise
    except Exception as error:
        if kind.name == "TIFF" and (deep := open_deep_tiff(file)):
            return deep
        at_end = not file.read(1)
        form = unsupported(file, kind.name, bool(_NO_SUCH_FORM.search(str(error))))
        raise BadImage(form or _header_reason(error, kind.name, at_end)) from error


def _reader(name: str) -> Any:
    """Pillow's for a format: what opens a file, and what looks at its first bytes; the rare ones imported if wanted."""
    PIL.Image.preinit()
    if name not in PIL.Image.OPEN:
        PIL.Image.init()
        plug_in()
    return PIL.Image.OPEN.get(name, (None, None))


def _orientation(image: ImageFile) -> int:
    """The EXIF orientation, 1 where there is none or what is there makes no sense."""
    try:
        if image.format == "PNG" and "exif" not in image.info and (exif := _png_exif(image)):
            image.info["exif"] = exif
        # not image.getexif(): for a PNG without EXIF that would decode the picture
        tags = PIL.Image.Image.getexif(image)
        value = tags.get(0x0112, 1)
        if isinstance(value, bytes) and len(value) == 1:  # by writers that take it for a byte
            tags[0x0112] = value = value[0]
        return int(value) if value in range(1, 9) else 1
    except Exception:
        return 1


def _png_exif(image: ImageFile) -> bytes:
    """The EXIF chunk, which may come after the pixels, where Pillow has not looked yet; b"" if none."""
    file = image.fp
    assert file is not None
    before = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(before)


@contextmanager
def reasons(file: IO[bytes] | None = None, name: str = "") -> Iterator[None]:
    """Turn whatever Pillow and the file system raise into :class:`BadImage`.

    Where it is the picture in ``file``, of the format ``name``, its headers may say why.
    """
    try:
        yield
    except (BadImage, PIL.Image.DecompressionBombError):
        raise
    except Exception as error:
        why = _reason(error)
        if isinstance(error, EOFError) and name == "TIFF":
            why = "truncated or damaged"
        elif file is not None and why.startswith(("damaged", "truncated")):
            why = unsupported(file, name, bool(_NO_SUCH_FORM.search(why))) or why
        raise BadImage(why) from error


_NO_SUCH_FORM = re.compile(r"unknown (pixel|raw) mode")
_NOT_SUPPORTED = re.compile(r"unsupported|not supported|cannot handle", re.IGNORECASE)


def _reason(error: Exception) -> str:
    if isinstance(error, TooMuch):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        return "damaged: it points before its beginning or far behind its end"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = printable(" ".join(str(error).split())[:120]) or type(error).__name__
    if isinstance(error, (EOFError, IndexError, struct.error)) or "truncated" in text.lower():
        return "truncated"
    if isinstance(error, KeyError):
        text = f"it lacks {text}"
    text, supported = re.sub("^(Unsupported|not supported:) ", "", text), not _NOT_SUPPORTED.search(text)
    return f"damaged: {text}" if supported else f"not supported: {text}"


def _header_reason(error: Exception, name: str, at_end: bool) -> str:
    reason = _reason(error)
    if reason != "truncated" and not reason.startswith("damaged"):
        return reason
    if at_end:
        return "truncated or damaged" if name in _READ_WHOLE else "truncated"
    return reason


def _hush_pillow() -> None:
    """Keep Pillow's warnings (odd EXIF, large pictures) from people, who can do nothing about them.

    A filter for Pillow's modules alone, put back in front when something else took its place:
    ``catch_warnings`` is not safe with threads.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        with _FILTERS:
            warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
