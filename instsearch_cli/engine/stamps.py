"""When each file was last seen to be what was indexed: so that one whose time alone moved is read once, not always.

The image table keeps a file's size and time as they were when it was taken in, and never changes. Beside it lies
``stamps.txt``: a line per row with bytes, time of modification, time of change (both ns) and the digest's beginning.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from instsearch_cli.images import BadImage, content_digest
from instsearch_formats import FormatError
from instsearch_formats.places import LINES

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from instsearch_formats import ImageRecord, Index

FILE = "stamps.txt"
FARTHEST = 2**63 - 1  #: the image table keeps times in so many nanoseconds


class Stamp(NamedTuple):
    """What the file system says of a file. A new content has a new time of change, whatever its other time is."""

    nbytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        times = (max(-FARTHEST, min(t, FARTHEST)) for t in (status.st_mtime_ns, status.st_ctime_ns))
        return cls(status.st_size, *times)


class Stamps:
    """The stamps of an index's rows. What it cannot read of the file it goes without."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._stamps: dict[int, tuple[Stamp, str]] = {}
        self._stale = False
        self._moment = self._now()
        with contextlib.suppress(ValueError, OSError, FormatError):
            for line in (index.read_text(FILE, LINES) or "").splitlines():
                row, nbytes, mtime, ctime, digest = line.split("\t")
                self._stamps[int(row)] = Stamp(int(nbytes), int(mtime), int(ctime)), digest

    def _now(self) -> tuple[int, ...]:
        """When their file was written."""
        with contextlib.suppress(OSError):
            status = (self.index.path / FILE).stat()
            return status.st_ino, status.st_size, status.st_mtime_ns
        return ()

    @property
    def current(self) -> bool:
        """Whether the file is still the one that they were read from."""
        return self._moment == self._now()

    def note(self, row: int, stamp: Stamp, digest: bytes) -> None:
        """The file of a row is what was indexed, and looks so."""
        noted = stamp, digest[:8].hex()
        self._stale |= self._stamps.get(row) != noted
        self._stamps[row] = noted

    def unchanged(self, row: int, path: Path, record: ImageRecord, recheck: bool = False) -> bool:
        """Whether a file is what was indexed: equal in size and times, or else, or on ``recheck``, by its bytes.

        Raises :class:`BadImage` if it cannot be read now.
        """
        try:
            stamp = Stamp.of(path.stat())
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        stored, digest = self._stamps.get(row, (None, ""))
        if digest != record.digest[:8].hex():
            stored = None
        if stored is not None:
            same = stamp == stored
        else:
            same = (stamp.nbytes, stamp.mtime_ns) == (record.nbytes, record.mtime_ns)
        if (not same or recheck) and (stamp.nbytes != record.nbytes or content_digest(path) != record.digest):
            return False
        self.note(row, stamp, record.digest)
        return True

    def save(self) -> None:
        """Write them, if any is new; the caller holds the index's lock."""
        if self._stale:
            lines = (
                f"{row}\t{stamp.nbytes}\t{stamp.mtime_ns}\t{stamp.ctime_ns}\t{digest}\n"
                for row, (stamp, digest) in sorted(self._stamps.items())
            )
            self.index.write_text(FILE, "".join(lines))
            self._stale = False
