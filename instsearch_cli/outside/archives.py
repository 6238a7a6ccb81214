"""Zip archives and numpy's arrays: what a length or a shape claims is compared with the bytes that are there."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside.files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = 4 << 20  #: bytes of a list of entries
SPREAD = 16  #: times its own size that what an archive holds may have, where it is compressed
SLACK = 64 << 20  #: bytes that it may have however small it is
HEADER = 10_000  #: bytes of the header of an .npy
AXES = 32  #: of an array
WRONG = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # a password
    NotImplementedError,  # a compression
    ValueError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
)
"""What zipfile and numpy raise for a file that is damaged, or made to be."""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose list of entries, and all that it says to unfold to, are within bounds of its size.

    Raises InstsearchError, also for whatever a damaged entry raises when it is read within.
    """
    with open_plain(path) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            listed = _Listed(file)
            with zipfile.ZipFile(listed) as archive:
                listed.most = None
                entries = archive.infolist()
                if len({entry.filename for entry in entries}) < len(entries):
                    raise ValueError("two entries of one name")
                total = sum(entry.file_size for entry in entries)
                if total > SPREAD * size + SLACK:
                    raise ValueError(f"{size:,} bytes that claim to be {total:,}")
                yield archive
        except WRONG as error:
            reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
            raise InstsearchError(f"{path}: damaged or truncated ({reason}). Download it again.") from error


class _Listed(io.BufferedIOBase):
    """A file from which no more than ``most`` bytes are read at once, as long as that is a number."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.most: int | None = DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and self.most is not None and size > self.most:
            raise ValueError(f"a list of entries of {size:,} bytes")
        return self.file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def read_npy(file: IO[bytes], size: int, kinds: str = "biuf", name: str = "an array") -> np.ndarray:
    """An array of numpy's, of ``size`` bytes with its header, in the machine's byte order.

    kinds  those of its numbers, as ``dtype.kind`` has them. Raises ValueError unless its header agrees with its size,
    and whatever else numpy does about a header.
    """
    magic = file.read(8)
    version = np.lib.format.read_magic(io.BytesIO(magic))
    width = 2 if version == (1, 0) else 4
    prefix = file.read(width)
    length = int.from_bytes(prefix, "little")
    if length > HEADER:
        raise ValueError(f"{name} has a header of {length:,} bytes")
    head = io.BytesIO(prefix + file.read(length))
    parse = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Python 2 wrote it, or escapes in it that Python has not
        try:
            shape, fortran, dtype = parse(head)
        except Exception as error:  # as many as Python's own parser has, of what should be a dictionary
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise ValueError(f"{name} has a header that cannot be read: {reason}"[:200]) from error
    if dtype.kind not in kinds or dtype.hasobject or dtype.subdtype:
        raise ValueError(f"{name} holds {dtype}, not real numbers")
    if len(shape) > AXES or any(type(n) is not int or not 0 <= n <= size for n in shape):
        raise ValueError(f"{name} claims shape {str(shape)[:80]} and has {size:,} bytes")
    needed = math.prod(shape) * dtype.itemsize
    data = bytearray(needed if needed < size else 0)
    if file.readinto(data) != needed or file.read(1):  # type: ignore[attr-defined]
        raise ValueError(f"{name} claims shape {str(shape)[:80]} and has {size:,} bytes")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.newbyteorder("="), copy=False)
