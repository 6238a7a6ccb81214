"""What the image table says of single images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_formats import changes
from instsearch_formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_formats.changes import Place
    from instsearch_formats.encodings import Item


class ImageRecord(NamedTuple):
    """One picture: where it is, and what it was when it was added.

    name      path below the root, ``os.fsencode`` bytes with "/" between: need not be UTF-8
    root      number of the folder in ``roots``
    width, height  of the upright picture, in pixels
    nbytes, mtime_ns  of the file
    digest    sha256 of the file, 32 bytes
    """

    name: bytes
    root: int
    width: int
    height: int
    nbytes: int
    mtime_ns: int
    digest: bytes

    def item(self) -> Item:
        """As it is stored. Raises FormatError for what cannot be."""
        if not changes.valid(self.name):
            raise FormatError(f"an image's name is a path below its root, not {self.name!r}")
        if len(self.digest) != 32:
            raise FormatError(f"the record of {self.name!r} has no digest of 32 bytes")
        return {
            "name": np.frombuffer(self.name, np.uint8),
            "root": np.array(self.root),
            "size": np.array([self.width, self.height]),
            "nbytes": np.array(self.nbytes),
            "mtime_ns": np.array(self.mtime_ns),
            "digest": np.frombuffer(self.digest, np.uint8),
        }


class ImageRecords:
    """The records of the rows ``span``, each made when it is asked for: a search names few of many.

    block   their arrays, as the table's parts have them
    placed  where files are by now, by row; roots: how many folders there are
    """

    def __init__(
        self, block: Mapping[str, Any], placed: Mapping[int, Sequence[Place]], roots: int, index: Path
    ) -> None:
        self.span = range(block["start"], block["stop"])
        self._block, self._placed, self._roots, self._index = block, placed, roots, index
        self._names: bytes = block["name"].tobytes()

    def __getitem__(self, row: int) -> ImageRecord:
        """The record of a row by the name that it has now. Raises FormatError where that is below none of the roots."""
        i, block = row - self.span.start, self._block
        width, height = block["size"][i].tolist()
        name, root = self._names[block["indptr"][i] : block["indptr"][i + 1]], int(block["root"][i])
        if at := self._placed.get(row):
            root, name = at[0]
        if root >= self._roots or not changes.valid(name):
            raise FormatError(f"row {row} of {self._index} names no file below one of its roots")
        nbytes, mtime_ns = int(block["nbytes"][i]), int(block["mtime_ns"][i])
        return ImageRecord(name, root, width, height, nbytes, mtime_ns, block["digest"][i].tobytes())
