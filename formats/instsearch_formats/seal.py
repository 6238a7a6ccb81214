"""The first 512 bytes of every HDF5 file: what it is, how long it is, and the digest of the rest."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from instsearch_formats import places
from instsearch_formats.errors import FormatError, NewerFormatError, UnreadableError, damaged
from instsearch_formats.files import version

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

SIZE = 512
VERSION = 1

_FIRST = re.compile(rb"instsearch-part (\d{1,9})\nwritten-by ([!-~]{1,64})\n")
_REST = re.compile(rb"bytes (\d{1,18})\nsha256 ([0-9a-f]{64})\n\0*")


class Seal(NamedTuple):
    """What the first 512 bytes say: who wrote the file, and length and sha256 of the bytes after them."""

    written_by: str
    nbytes: int
    sha256: str

    def encode(self) -> bytes:
        """The 512 bytes: four lines of text, padded with zeros."""
        text = (
            f"instsearch-part {VERSION}\nwritten-by {self.written_by}\n"
            f"bytes {self.nbytes}\nsha256 {self.sha256}\n"
        )
        return text.encode("ascii").ljust(SIZE, b"\0")


def put(path: Path) -> None:
    """Seal a closed file whose first 512 bytes are free, and fsync it."""
    with path.open("r+b", buffering=0) as file:
        nbytes, sha256 = _digest(file)
        file.seek(0)
        file.write(Seal(version(), nbytes, sha256).encode())
        os.fsync(file.fileno())


def read(path: Path, top: Path | None = None) -> Seal:
    """The seal of a file that has the length it should have; the digest is left unchecked.

    ``top``: the folder below which no link is followed. Raises FormatError when it is no part, is cut short, or has
    grown; NewerFormatError.
    """
    with opened(path, top) as file:
        return read_from(path, file)


def check(path: Path, top: Path | None = None) -> Seal:
    """As :func:`read`, and every byte of the file is read and compared with the digest."""
    with opened(path, top) as file:
        seal = read_from(path, file)
        try:
            _, sha256 = _digest(file)
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error
    if sha256 != seal.sha256:
        raise damaged(path, "its bytes are not those that were written")
    return seal


def read_from(path: Path, file: FileIO) -> Seal:
    """As :func:`read`, of a file that is open."""
    try:
        head = file.read(SIZE)
        length = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    first = _FIRST.match(head)
    if not first:
        raise damaged(path, "it does not begin as a part does")
    found, writer = int(first[1]), first[2].decode("ascii")
    if found > VERSION:
        raise NewerFormatError(
            f"{path} was written by instsearch {writer} (part version {found}): "
            f"install that version or a later one"
        )
    rest = _REST.fullmatch(head, first.end())
    seal = Seal(writer, int(rest[1]), rest[2].decode("ascii")) if rest else None
    if not seal or seal.encode() != head:
        raise damaged(path, "its first 512 bytes are not as written")
    if length != SIZE + seal.nbytes:
        raise damaged(path, f"it has {length} bytes instead of {SIZE + seal.nbytes}")
    return seal


def _digest(file: FileIO) -> tuple[int, str]:
    file.seek(SIZE)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return os.fstat(file.fileno()).st_size - SIZE, sha256


def opened(path: Path, top: Path | None = None) -> FileIO:
    """A plain file, to read. Raises FormatError where there is none, and UnreadableError."""
    try:
        return open(places.open_file(path, top), "rb", buffering=0)  # noqa: PTH123
    except FileNotFoundError as error:
        raise FormatError(f"{path} is not there") from error
    except OSError as error:
        raise UnreadableError(path, error) from error
