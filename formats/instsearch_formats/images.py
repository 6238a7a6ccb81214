"""The image table: which row is which picture. It only ever grows; what becomes of a row is a note beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_formats import changes, files, places, seal
from instsearch_formats.changes import Change, Place
from instsearch_formats.errors import FormatError
from instsearch_formats.layer import Layer
from instsearch_formats.part import part_name
from instsearch_formats.records import ImageRecord, ImageRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from instsearch_formats.cache import PartCache
    from instsearch_formats.lock import WriterLock

RANGE = 256  #: rows given out at once, at most
IDENTITY = {"kind": "images"}
REPLACING = "replacing.json"

_REMOVED = re.compile(r"removed-(\d{10})\.h5")


class Replacement(NamedTuple):
    """What ``replacing.json`` says of a run that is not over.

    rows  of files that changed, and the row of each one's new self
    id, since  of a run that changes more than these: the change that ends it names ``id``, and until that is there
               the rows from ``since`` on count as none
    """

    rows: dict[int, int]
    id: str = ""
    since: int = 0


class ImageTable:
    """The images of an index. Rows are never reused or renumbered.

    Methods that write hold the index's lock.
    """

    def __init__(self, path: Path, lock: WriterLock, cache: PartCache) -> None:
        self._index, self._lock = path, lock
        self._layer = Layer(path / "images", "images", "images", "images", IDENTITY, cache, path)
        self._seals: dict[int, str] = {}
        self._changes: dict[str, tuple[Change, str]] = {}
        self._foreseen, self._views = Change(), 0
        self._folded: tuple[tuple[str, ...], Change, frozenset[str]] | None = None

    @property
    def roots(self) -> list[str]:
        """The folders that names are relative to."""
        return self._read_roots()[0]

    @property
    def single(self) -> set[str]:
        """The roots of which only single files were given, which say nothing of what else lies there."""
        roots, _, single = self._read_roots()
        return set(roots) - {root for i, root in enumerate(roots) if i not in single}

    @property
    def moved(self) -> tuple[str, str] | None:
        """The last move of a root, old and new, if nothing was written about roots since."""
        return self._read_roots()[1]

    def _read_roots(self) -> tuple[list[str], tuple[str, str] | None, list[int]]:
        path = self._index / "roots.json"
        try:
            found = json.loads(files.read_text(path, self._index) or '{"roots": []}')
            roots, moved = found["roots"], found.get("moved")
            if not isinstance(roots, list) or any(b"\0" in os.fsencode(root) for root in roots):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise FormatError(f'{path} should read {{"roots": ["/a/folder", ...]}}') from error
        pair = isinstance(moved, list) and len(moved) == 2 and all(isinstance(root, str) for root in moved)
        given = found.get("files") if isinstance(found.get("files"), list) else []
        single = [i for i in given if type(i) is int and 0 <= i < len(roots)]
        return roots, (moved[0], moved[1]) if pair else None, single

    def add_root(self, path: str | Path, single: bool = False) -> int:
        """The number of a folder, which is added if it is not there yet; ``single``: only files of it were given."""
        root = os.path.abspath(path)  # noqa: PTH100 (links stay as they are)
        with self._lock.hold():
            roots, moved, files = self._read_roots()
            if (new := root not in roots) or (not single and roots.index(root) in files):
                roots += [root] if new else []
                number = roots.index(root)
                others = [i for i in files if i != number]
                self._write_roots(roots, None if new else moved, [*others, number] if single else others)
            return roots.index(root)

    def named(self, rows: Iterable[int]) -> dict[str, int]:
        """Images of some rows by path, where no other of them has it, and by path behind the end of its root.

        The latter, as :func:`labels` has it, where there are several roots.
        """
        starts, wanted = labels(self.roots), set(rows)
        records = [
            (row, record.root, os.fsdecode(record.name)) for row, record in self.records() if row in wanted
        ]
        count = Counter(name for _, _, name in records)
        found = {f"{starts[root]}/{name}": row for row, root, name in records if len(starts) > 1}
        found = {name: row for name, row in found.items() if name not in count}
        return found | {name: row for row, _, name in records if count[name] == 1}

    def move_root(self, old: str | Path, new: str | Path) -> None:
        """Note that the folder ``old``, with all roots in it, is now ``new``; nothing else in the index changes.

        Raises FormatError where no root is in it.
        """
        with self._lock.hold():
            roots, _, single = self._read_roots()
            before, now = os.path.abspath(old), os.path.abspath(new)  # noqa: PTH100
            inside = [Path(root).is_relative_to(before) for root in roots]
            if not any(inside):
                raise FormatError(
                    f"{before} is no root of this index. There is: {', '.join(roots) or 'none'}"
                )
            moved = [
                str(now / Path(root).relative_to(before)) if is_in else root
                for root, is_in in zip(roots, inside, strict=True)
            ]
            self._write_roots(moved, (before, now), single)

    def _write_roots(self, roots: list[str], moved: tuple[str, str] | None, single: list[int]) -> None:
        table = {"roots": roots} | ({"moved": moved} if moved else {}) | ({"files": single} if single else {})
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
        items = [record.item() for record in records]
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
            there = self.removed()
            self.change(Change({row: reason for row in set(rows) if row not in there}), refill=refill)

    def change(self, change: Change, settles: str = "", refill: bool = False) -> None:
        """Write what becomes of rows, as one file; nothing if nothing becomes of any.

        ``refill``: a number that was lost is given again, unless a later file may speak of the same rows.
        """
        with self._lock.hold():
            rows = sorted({*change.removed, *change.restored, *change.places})
            if rows and not 0 <= rows[0] <= rows[-1] < len(self):
                raise FormatError(f"rows {rows[0]} to {rows[-1]} are not all among the {len(self)} images")
            if any(not changes.valid(name) for some in change.places.values() for _, name in some):
                raise FormatError("an image's name is a path below its root")
            if change:
                numbers = self.tombstones()
                number = max(numbers, default=-1) + 1
                if refill and not self._fold()[0].restored.intersection(rows):
                    number = next((n for n, there in enumerate(numbers) if n != there), number)
                path = self._layer.path / tombstone_name(number)
                places.check(path, self._index)
                changes.write(path, change, settles)

    @contextlib.contextmanager
    def foreseeing(self, change: Change) -> Iterator[None]:
        """Within this context the table reads as it will be after a change, which :meth:`replaced` writes."""
        self._foresee(change)
        try:
            yield
        finally:
            self._foresee(Change())

    def _foresee(self, change: Change) -> None:
        self._foreseen, self._folded, self._views = change, None, self._views + 1

    @property
    def foreseen(self) -> Change:
        """The change that is yet to be written; an empty one if there is none."""
        return self._foreseen

    def _fold(self) -> tuple[Change, frozenset[str]]:
        """All changes as one, and the replacements that they completed."""
        names, folded = tuple(self._tombstones()), self._folded
        if folded is None or names != folded[0]:
            for name in names:
                if name not in self._changes:
                    self._changes[name] = changes.read(self._layer.path / name, self._index, len(self))
            whole = Change.of([*(self._changes[name][0] for name in names), self._foreseen])
            folded = names, whole, frozenset(self._changes[name][1] for name in names)
            self._folded = folded
        return folded[1], folded[2]

    @property
    def state(self) -> tuple[int, ...]:
        """Equal as long as nothing has changed: rows, and what became of them."""
        return len(self), len(self._tombstones()), self._views

    def removed(self) -> Mapping[int, str]:
        """The rows that have been removed, and why."""
        return self._fold()[0].removed

    def places(self) -> Mapping[int, tuple[Place, ...]]:
        """All names of the images that got one after they were taken in, the first one first."""
        return self._fold()[0].places

    def others(self) -> dict[int, tuple[Place, ...]]:
        """The other names of images that have several: where else their files are."""
        whole, _ = self._fold()
        return {row: at[1:] for row, at in whole.places.items() if at[1:] and row not in whole.removed}

    def replacing(self) -> dict[int, int]:
        """Rows that a run is replacing, which have no tombstone before it ends, and the row of each one's new self."""
        return self.replacement().rows

    def replacement(self) -> Replacement:
        """What a run is about, or was when it was killed."""
        path = self._index / REPLACING
        text = files.read_text(path, self._index)
        try:
            found: dict[str, Any] = {"rows": []} if text is None else json.loads(text)
            pairs, run, since = dict(found["rows"]), found.get("id", ""), found.get("since", 0)
            rows = [since, *(row for pair in pairs.items() for row in pair)]
            if type(run) is not str or any(type(row) is not int or not 0 <= row <= len(self) for row in rows):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"{path} is damaged: delete it and run `instsearch index` again") from error
        return Replacement(pairs, run, since)

    def hidden(self, reach: int) -> frozenset[int]:
        """The rows that a search which reaches so many leaves out, to answer as before a run or as after it."""
        run = self.replacement()
        if run.id:
            over = run.id in self._fold()[1]
            return frozenset() if over else frozenset(range(run.since, len(self)))
        ready = max(run.rows.values(), default=0) < reach
        return frozenset(run.rows if ready else run.rows.values())

    def replace(self, rows: Mapping[int, int], since: int | None = None) -> None:
        """Note that rows are being replaced by others: until :meth:`replaced` both are there.

        Those from ``since`` on, if that is given, count only after it, at one moment with all that is foreseen.
        """
        with self._lock.hold():
            note: dict[str, object] = {"rows": sorted(rows.items())}
            if since is not None:
                note |= {"id": uuid.uuid4().hex, "since": since}
            files.write_text(self._index / REPLACING, json.dumps(note) + "\n")

    def replaced(self, rows: Iterable[int]) -> None:
        """Put tombstones on rows that were being replaced, and write what is foreseen; nothing is replaced any more."""
        with self._lock.hold():
            there = self.removed()
            gone = Change({row: "changed" for row in rows if row not in there})
            self.change(Change.of([gone, self._foreseen]), self.replacement().id)
            self._foresee(Change())
            places.remove(self._index / REPLACING, self._index)

    def tombstones(self) -> list[int]:
        """The numbers of the tombstones, ascending."""
        return [int(name[8:18]) for name in self._tombstones()]

    def _tombstones(self) -> list[str]:
        return sorted(filter(_REMOVED.fullmatch, places.names(self._layer.path, self._index)))

    def alive(self) -> np.ndarray:
        """bool[n]: the rows that have not been removed."""
        alive = np.ones(len(self), bool)
        rows = [row for row in self.removed() if row < len(alive)]
        alive[rows] = False
        return alive

    def record(self, row: int) -> ImageRecord:
        """What is stored about a row, its name as it is now."""
        if not self._layer.covers(row):
            raise FormatError(f"the image table of {self._index} has no row {row}")
        (found,) = self.reader()(range(row, row + 1))
        return found[row]

    def name(self, row: int) -> str:
        """The name of a row as Python spells it (``os.fsdecode``)."""
        return os.fsdecode(self.record(row).name)

    def path(self, row: int) -> Path:
        """Where the picture is."""
        record = self.record(row)
        return Path(self.roots[record.root]) / os.fsdecode(record.name)

    def reader(self) -> Callable[[range | None], Iterator[ImageRecords]]:
        """What reads the records of a range of rows, of all for None, removed ones included, named as they are now."""
        placed, roots = self._fold()[0].places, len(self.roots)

        def read(span: range | None) -> Iterator[ImageRecords]:
            for block in self._layer.blocks(span):
                yield ImageRecords(block, placed, roots, self._index)

        return read

    def records(self, span: range | None = None) -> Iterator[tuple[int, ImageRecord]]:
        """Rows and records in bulk, removed ones included."""
        for some in self.reader()(span):
            for row in some.span:
                yield row, some[row]

    def faults(self) -> Iterator[tuple[Path, str | FormatError]]:
        """What is wrong with the files that say what became of rows, by path."""
        rows, roots = len(self), len(self.roots)
        for name in self._tombstones():
            path = self._layer.path / name
            try:
                change, _ = changes.read(path, self._index)
            except FormatError as error:
                yield path, error
                continue
            named = {root for some in change.places.values() for root, _ in some}
            if max(named, default=0) >= roots and named:
                yield path, f"it names root {max(named)} and roots.json has {roots}"
            if max({*change.removed, *change.restored, *change.places}, default=-1) >= rows:
                yield path, f"it names rows beyond the {rows:,} that there are"


def location(roots: Sequence[str], record: ImageRecord) -> bytes:
    """Where an image lies, as ``os.fsencode`` has it: what a file is recognised by."""
    return located(roots, (record.root, record.name))


def located(roots: Sequence[str], place: Place) -> bytes:
    """Where a place is, as ``os.fsencode`` has it."""
    return os.path.join(os.fsencode(roots[place[0]]), place[1])  # noqa: PTH118


def tombstone_name(number: int) -> str:
    """The file name of a tombstone."""
    return f"removed-{number:010d}.h5"


def labels(roots: Sequence[str]) -> list[str]:
    """For each folder the shortest end of its path that no other has."""
    parts = [Path(root).parts for root in roots]
    ends = Counter(mine[-n:] for mine in set(parts) for n in range(1, len(mine) + 1))
    found = []
    for mine in parts:
        n = next((n for n in range(1, len(mine)) if ends[mine[-n:]] == 1), len(mine))
        found.append("/".join(mine[-n:]).replace("//", "/"))
    return found
