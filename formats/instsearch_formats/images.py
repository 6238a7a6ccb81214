"""The image table: which row is which picture. It only ever grows; removal is a note beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instsearch_formats import files, places, seal
from instsearch_formats.declared import Array
from instsearch_formats.errors import FormatError
from instsearch_formats.fingerprint import canonical
from instsearch_formats.layer import Layer
from instsearch_formats.part import part_name, read_arrays
from instsearch_formats.writer import write_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from instsearch_formats.cache import PartCache
    from instsearch_formats.encodings import Item
    from instsearch_formats.lock import WriterLock

RANGE = 256  #: rows given out at once, at most
IDENTITY = {"kind": "images"}
TOMBSTONE = {"rows": Array("i8", ("m",), below=10**10)}
REPLACING = "replacing.json"

_REMOVED = re.compile(r"removed-(\d{10})\.h5")


class ImageRecord(NamedTuple):
    """One picture: where it is and what it was when it was added.

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


class ImageTable:
    """The images of an index. Rows are never reused or renumbered.

    Methods that write hold the index's lock.
    """

    def __init__(self, path: Path, lock: WriterLock, cache: PartCache) -> None:
        self._index, self._lock = path, lock
        self._layer = Layer(path / "images", "images", "images", "images", IDENTITY, cache, path)
        self._removed: dict[str, dict[int, str]] = {}
        self._seals: dict[int, str] = {}

    @property
    def roots(self) -> list[str]:
        """The folders that names are relative to."""
        return self._read_roots()[0]

    @property
    def moved(self) -> tuple[str, str] | None:
        """The last move of a root, old and new, if nothing was written about roots since."""
        return self._read_roots()[1]

    def _read_roots(self) -> tuple[list[str], tuple[str, str] | None]:
        path = self._index / "roots.json"
        try:
            found = json.loads(files.read_text(path, self._index) or '{"roots": []}')
            roots, moved = found["roots"], found.get("moved")
            if not isinstance(roots, list) or not all(isinstance(root, str) for root in roots):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise FormatError(f'{path} should read {{"roots": ["/a/folder", ...]}}') from error
        pair = isinstance(moved, list) and len(moved) == 2 and all(isinstance(root, str) for root in moved)
        return roots, (moved[0], moved[1]) if pair else None

    def add_root(self, path: str | Path) -> int:
        """The number of a folder, which is added if it is not there yet."""
        root = os.path.abspath(path)  # noqa: PTH100 (links stay as they are)
        with self._lock.hold():
            roots = self.roots
            if root not in roots:
                roots.append(root)
                self._write_roots(roots)
            return roots.index(root)

    def move_root(self, old: str | Path, new: str | Path) -> None:
        """Note that the folder ``old`` is now ``new``; nothing else in the index changes."""
        with self._lock.hold():
            roots = self.roots
            before = os.path.abspath(old)  # noqa: PTH100
            if before not in roots:
                raise FormatError(
                    f"{before} is no root of this index. There is: {', '.join(roots) or 'none'}"
                )
            now = os.path.abspath(new)  # noqa: PTH100
            roots[roots.index(before)] = now
            self._write_roots(roots, (before, now))

    def _write_roots(self, roots: list[str], moved: tuple[str, str] | None = None) -> None:
        table = {"roots": roots} | ({"moved": moved} if moved else {})
        files.write_text(self._index / "roots.json", json.dumps(table, indent=1) + "\n")

    def __len__(self) -> int:
        """Rows given out, removed ones included."""
        ranges = self.ranges()
        return ranges[-1].stop if ranges else 0

    def ranges(self) -> list[range]:
        """The ranges in which rows were given out: the parts of every layer follow them."""
        ranges = self._layer.ranges()
        row = 0
        for span in ranges:
            if span.start != row:
                raise FormatError(
                    f"{self._layer.path / part_name(range(row, span.start))}, or what stood in its place, "
                    f"is missing: put it back from a copy, or build the index anew"
                )
            row = span.stop
        return ranges

    def pictures(self, span: range) -> str:
        """A digest of what the table says of the rows ``span``, by the seals of its parts; "" if these end elsewhere.

        Every part, segment and model has that of the rows which it was made of, so that it is taken for no others.
        """
        ranges = [r for r in self._layer.ranges() if span.start <= r.start < span.stop]
        if not ranges or (ranges[0].start, ranges[-1].stop) != (span.start, span.stop):
            return ""
        for r in ranges:
            if r.start not in self._seals:
                self._seals[r.start] = seal.read(self._layer.path / part_name(r), self._index).sha256
        return hashlib.sha256("".join(self._seals[r.start] for r in ranges).encode()).hexdigest()

    def append(self, records: Sequence[ImageRecord]) -> range:
        """Give 1 to 256 images the next rows, as one new part."""
        if not 0 < len(records) <= RANGE:
            raise FormatError(f"images are added 1 to {RANGE} at a time, not {len(records)}")
        items = [_item(record) for record in records]
        with self._lock.hold():
            start = len(self)
            span = range(start, start + len(records))
            with self._layer.writer(span) as writer:
                for item in items:
                    writer.append(item)
            return span

    def remove(self, rows: Iterable[int], reason: str, refill: bool = False) -> None:
        """Put tombstones on rows; those that have one keep it. ``refill``: where one was lost, it takes its number."""
        with self._lock.hold():
            rows, known, n = sorted(set(rows)), self.removed(), len(self)
            if rows and not 0 <= rows[0] <= rows[-1] < n:
                raise FormatError(f"rows {rows[0]} to {rows[-1]} are not all among the {n} images")
            fresh = [row for row in rows if row not in known]
            if fresh:
                numbers = self.tombstones()
                number = max(numbers, default=-1) + 1
                if refill:
                    number = next((n for n, there in enumerate(numbers) if n != there), number)
                header = {"kind": "images", "name": "removed", "identity": canonical(IDENTITY)}
                path = self._layer.path / tombstone_name(number)
                places.check(path, self._index)
                write_arrays(path, header, {"rows": np.array(fresh, np.int64)}, {"reason": reason})

    def removed(self) -> dict[int, str]:
        """The rows that have been removed, and why."""
        out: dict[int, str] = {}
        for name in self._tombstones():
            if name not in self._removed:
                self._removed[name] = _read_tombstone(self._layer.path / name, self._index)
            for row, reason in self._removed[name].items():
                out.setdefault(row, reason)
        return out

    def replacing(self) -> dict[int, int]:
        """Rows that a run is replacing, which have no tombstone before it ends, and the row of each one's new self."""
        path = self._index / REPLACING
        text = files.read_text(path, self._index)
        try:
            pairs = {} if text is None else dict(json.loads(text)["rows"])
            if not all(type(row) is int for pair in pairs.items() for row in pair):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise FormatError(f"{path} is damaged: delete it and run `instsearch index` again") from error
        return pairs

    def replace(self, rows: Mapping[int, int]) -> None:
        """Note that rows are being replaced by others: until :meth:`replaced` both are there."""
        with self._lock.hold():
            text = json.dumps({"rows": sorted(rows.items())})
            files.write_text(self._index / REPLACING, text + "\n")

    def replaced(self, rows: Iterable[int]) -> None:
        """Put tombstones on rows that were being replaced; nothing is any more."""
        with self._lock.hold():
            self.remove(rows, "changed")
            places.remove(self._index / REPLACING, self._index)

    def tombstones(self) -> list[int]:
        """The numbers of the tombstones, ascending."""
        return [int(name[8:18]) for name in self._tombstones()]

    def _tombstones(self) -> list[str]:
        return sorted(
            name for name in places.names(self._layer.path, self._index) if _REMOVED.fullmatch(name)
        )

    def alive(self) -> np.ndarray:
        """bool[n]: the rows that have not been removed."""
        alive = np.ones(len(self), bool)
        rows = [row for row in self.removed() if row < len(alive)]
        alive[rows] = False
        return alive

    def record(self, row: int) -> ImageRecord:
        """What was stored about a row."""
        return _record(self._layer.read(row))

    def name(self, row: int) -> str:
        """The name of a row as Python spells it (``os.fsdecode``)."""
        return os.fsdecode(self.record(row).name)

    def path(self, row: int) -> Path:
        """Where the picture is."""
        record, roots = self.record(row), self.roots
        if record.root >= len(roots) or b".." in record.name.split(b"/"):
            raise FormatError(f"row {row} of {self._index} names no file below one of its roots")
        return Path(roots[record.root]) / os.fsdecode(record.name)

    def records(self, span: range | None = None) -> Iterator[tuple[int, ImageRecord]]:
        """Rows and records in bulk, removed ones included."""
        for block in self._layer.blocks(span):
            names, ends = block["name"].tobytes(), block["indptr"]
            for i, row in enumerate(range(block["start"], block["stop"])):
                item = {key: block[key][i] for key in ("root", "size", "nbytes", "mtime_ns", "digest")}
                yield row, _record({**item, "name": names[ends[i] : ends[i + 1]]})


def location(roots: Sequence[str], record: ImageRecord) -> bytes:
    """Where an image lies, as ``os.fsencode`` has it."""
    return os.path.join(os.fsencode(roots[record.root]), record.name)  # noqa: PTH118


def tombstone_name(number: int) -> str:
    """The file name of a tombstone."""
    return f"removed-{number:010d}.h5"


def _item(record: ImageRecord) -> Item:
    if not record.name or b"\0" in record.name or record.name.startswith(b"/"):
        raise FormatError(f"an image's name is a path below its root, not {record.name!r}")
    if b".." in record.name.split(b"/") or len(record.digest) != 32:
        raise FormatError(f"the record of {record.name!r} has .. in its name or no digest of 32 bytes")
    return {
        "name": np.frombuffer(record.name, np.uint8),
        "root": np.array(record.root),
        "size": np.array([record.width, record.height]),
        "nbytes": np.array(record.nbytes),
        "mtime_ns": np.array(record.mtime_ns),
        "digest": np.frombuffer(record.digest, np.uint8),
    }


def _record(item: Item) -> ImageRecord:
    name, digest = bytes(item["name"]), item["digest"].tobytes()
    width, height = (int(n) for n in item["size"])
    return ImageRecord(
        name, int(item["root"]), width, height, int(item["nbytes"]), int(item["mtime_ns"]), digest
    )


def _read_tombstone(path: Path, top: Path) -> dict[int, str]:
    arrays, attrs = read_arrays(path, canonical(IDENTITY), top, TOMBSTONE)
    return dict.fromkeys(arrays["rows"].tolist(), str(attrs.get("reason", "")))
