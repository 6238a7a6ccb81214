"""When each file was last seen to be what was indexed: so that one whose time alone moved is read once, not always.

The image table keeps a file's size and time as they were when it was taken in, and never changes. Beside it lies
``stamps.txt``: a line per row with bytes, time of modification, time of change (both ns) and the digest's beginning.
"""

from __future__ import annotations

import bisect
import contextlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

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
        self._noted: dict[int, tuple[Stamp, str]] = {}
        self._stale = False
        self._moment = self._now()
        self._text, self._last = b"", -1
        with contextlib.suppress(ValueError, OSError, FormatError):
            self._text = (index.read_text(FILE, LINES) or "").encode()
        self._ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord("\n"))

    def _get(self, row: int) -> tuple[Stamp, str] | None:
        """The stamp of a row. Its line is looked for at the last one and behind it, then among all, which ascend."""
        if row in self._noted:
            return self._noted[row]
        lines = range(len(self._ends))
        with contextlib.suppress(ValueError):
            near = (at for at in (self._last, self._last + 1) if at in lines and self._row(at) == row)
            if (at := next(near, -1)) < 0:
                at = bisect.bisect_left(lines, row, key=self._row)
            if at in lines and self._row(at) == row:
                self._last = at
                return _parsed(self._line(at))
        return None

    def _line(self, i: int) -> bytes:
        return self._text[self._ends[i - 1] + 1 if i else 0 : self._ends[i]]

    def _row(self, i: int) -> int:
        return int(self._line(i).partition(b"\t")[0])

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
        if self._get(row) != noted:
            self._stale = True
            self._noted[row] = noted

    def unchanged(self, row: int, path: Path, record: ImageRecord, recheck: bool = False) -> bool:
        """Whether a file is what was indexed: equal in size and times, or else, or on ``recheck``, by its bytes.

        Raises :class:`BadImage` if it cannot be read now.
        """
        try:
            stamp = Stamp.of(path.stat())
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        stored, digest = self._get(row) or (None, "")
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
            every: dict[int, tuple[Stamp, str]] = {}
            with contextlib.suppress(ValueError):
                every.update((self._row(i), _parsed(self._line(i))) for i in range(len(self._ends)))
            lines = (
                f"{row}\t{stamp.nbytes}\t{stamp.mtime_ns}\t{stamp.ctime_ns}\t{digest}\n"
                for row, (stamp, digest) in sorted((every | self._noted).items())
            )
            self.index.write_text(FILE, "".join(lines))
            self._stale = False


def _parsed(line: bytes) -> tuple[Stamp, str]:
    """What a line says of its row. Raises ValueError."""
    _, nbytes, mtime, ctime, digest = line.split(b"\t")
    return Stamp(int(nbytes), int(mtime), int(ctime)), digest.decode()
