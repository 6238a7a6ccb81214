"""Which rows may have a path: a hash of each row's, so that a name is looked up without reading the image table.

``names.txt`` has a line per row, 16 hexadecimal digits, below one with the sha256 of these lines. It may be missing,
or have fewer lines than there are rows.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import numpy as np

from instsearch_formats import FormatError
from instsearch_formats.places import LINES

if TYPE_CHECKING:
    from instsearch_formats import Index

FILE = "names.txt"


class NameHashes:
    """The hashes of an index's first rows. What it cannot read of the file it goes without."""

    def __init__(self, index: Index) -> None:
        self.lines, hashes = "", np.empty(0, np.uint64)
        with contextlib.suppress(OSError, FormatError, ValueError):
            digest, _, lines = (index.read_text(FILE, LINES) or "").partition("\n")
            found = np.frombuffer(bytes.fromhex(lines), ">u8") if digest == _sha256(lines) else hashes
            if len(lines) == 17 * len(found) <= 17 * len(index.images):
                self.lines, hashes = lines, found.astype(np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __len__(self) -> int:
        """How many rows it knows."""
        return len(self._order)

    def rows(self, name: bytes) -> list[int]:
        """The rows that had this path when they were noted, and perhaps others, ascending."""
        wanted = np.uint64(int(_hashed(name), 16))
        first, last = np.searchsorted(self._sorted, wanted), np.searchsorted(self._sorted, wanted, "right")
        return [int(row) for row in self._order[first:last]]


def note_names(index: Index) -> None:
    """Note the paths of the rows that are new; the caller holds the index's lock."""
    there = NameHashes(index)
    span = range(len(there), len(index.images))
    if span:
        lines = there.lines + "".join(f"{_hashed(record.name)}\n" for _, record in index.images.records(span))
        index.write_text(FILE, f"{_sha256(lines)}\n{lines}")


def _hashed(name: bytes) -> str:
    return hashlib.blake2b(name, digest_size=8).hexdigest()


def _sha256(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()
