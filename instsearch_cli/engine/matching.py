"""Which image a file is: by where it lies, by what it holds where it was moved, or as another name of one.

Names are data: an image that is found under another name keeps its row and all that was computed of it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.engine.away import Away
from instsearch_cli.images import BadImage, content_digest, passing
from instsearch_formats.changes import Change
from instsearch_formats.images import located, location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from instsearch_cli.engine.stamps import Stamps
    from instsearch_cli.images import Found
    from instsearch_formats import Index
    from instsearch_formats.changes import Place

SKIPPED = "skipped: "


class Matching:
    """The images of an index, held against files.

    by_name  something that is stored depends on what images are called: one that was renamed is another one
    moved    rows that were found elsewhere, and where
    """

    def __init__(self, index: Index, stamps: Stamps, recheck: bool = False, by_name: bool = False) -> None:
        table, self.stamps = index.images, stamps
        self.recheck, self.by_name = recheck, by_name
        self.away, self.removed = Away(), table.removed()
        self.roots, self._others = table.roots, table.others()
        self.records = {row: r for row, r in table.records() if stands_for(self.removed.get(row))}
        self.rows: dict[bytes, int] = {}  #: of each path the last row that has it: a kill may leave two
        self._robbed: set[int] = set()  #: rows of which a later one has a path
        for row in self.records:
            for path, _ in self.places(row):
                if path in self.rows:
                    self._robbed.add(self.rows[path])
                self.rows[path] = row
        self.moved: dict[int, Found] = {}
        self._claims: dict[int, list[Found]] = defaultdict(list)
        self._owners: dict[bytes, int] = {}  #: paths that are names of other images from now on, and of which
        self._standing: set[bytes] = set()  #: paths that hold what is indexed of them
        self._vacated: set[bytes] = set()  #: paths that hold something else
        self._new: set[bytes] = set()  #: paths of files that get rows of their own
        self._digests: dict[bytes, list[int]] = defaultdict(list)
        for row, record in self.records.items():
            if row not in self.removed:
                self._digests[record.digest].append(row)

    def places(self, row: int) -> Iterator[tuple[bytes, Place]]:
        """Where the file of an image lies, its name first."""
        record = self.records[row]
        for place in ((record.root, record.name), *self._others.get(row, ())):
            yield located(self.roots, place), place

    def row_of(self, found: Found) -> int | None:
        """The row whose file this is, with its content unchanged; None for a new or changed one. Raises BadImage."""
        path = path_of(found)
        row = self.rows.get(path)
        if row is None:
            return None
        self._standing.add(path)  # where it cannot be read
        same = self.stamps.unchanged(row, found.path, self.records[row], self.recheck)
        first = location(self.roots, self.records[row])
        if same and path != first and self._stands(row, first):
            same = one_file(Path(os.fsdecode(first)), found.path)
        if not same:
            self._standing.discard(path)
            self._vacated.add(path)
            return None
        return row

    def named_otherwise(self, found: Found) -> bool:
        """Whether a file that is there is another name of an image."""
        row = self.rows[path_of(found)]
        return path_of(found) != location(self.roots, self.records[row])

    def match(self, found: Found, digest: bytes) -> int | None:
        """The row of an image that a new file is another name of, or, where its own is gone, the new name."""
        rows = self._digests.get(digest, ())
        for row in rows:
            there = [path for path, _ in self.places(row) if self._stands(row, path)]
            files = [*(Path(os.fsdecode(path)) for path in there), *(f.path for f in self._claims[row])]
            if any(one_file(file, found.path) for file in files):
                return self._claimed(row, found)
        stem = os.path.basename(found.name)  # noqa: PTH119
        for row in sorted(rows, key=lambda row: os.path.basename(self.records[row].name) != stem):  # noqa: PTH119
            if row not in self.moved and not any(self._stands(row, path) for path, _ in self.places(row)):
                self.moved[row] = found
                if not self.by_name:
                    return self._claimed(row, found)
                break
        self._new.add(path_of(found))
        return None

    def leave_out(self, found: Found, row: int) -> None:
        """A file that :meth:`match` took for a new one is that of a row that was taken out."""
        self._new.discard(path_of(found))
        self._owners[path_of(found)] = row

    def _claimed(self, row: int, found: Found) -> int:
        self._claims[row].append(found)
        self._owners[path_of(found)] = row
        return row

    def claim(self, other: Found, winner: bytes) -> bool:
        """Take a file for another name of the image whose file is at a path; whether that has a row already."""
        row = self._owners.get(winner, self.rows.get(winner) if winner in self._standing else None)
        if row is None:
            self._owners[path_of(other)] = -1
        elif self.rows.get(path_of(other)) != row:
            self._claimed(row, other)
        return row is not None

    def _stands(self, row: int, path: bytes) -> bool:
        """Whether a path of a row holds, or may hold, what is indexed of it."""
        if self.rows[path] != row:
            return False
        if path not in self._standing and path not in self._vacated:
            if self._gone(row, path):
                return False
            try:
                same = self.stamps.unchanged(row, Path(os.fsdecode(path)), self.records[row])
            except BadImage:
                same = True
            (self._standing if same else self._vacated).add(path)
        return path in self._standing

    def _gone(self, row: int, path: bytes) -> bool:
        root = next(place[0] for where, place in self.places(row) if where == path)
        return self.away.gone(self.roots[root], path)

    def change(self, number: Callable[[Found], int], within: Callable[[bytes], bool] | None = None) -> Change:
        """What becomes of the rows that are there.

        number  the number of a file's root
        within  paths that were looked at: images of which nothing is left there are removed
        """
        change, owners = Change(), self._owners
        several = {row for row in self._others if row in self.records and self._seen(row)}
        rows = {*self._claims, *self.moved, *several, *self._robbed}
        rows |= {self.rows[path] for path in (*owners, *self._vacated) if path in self.rows}
        if within is not None:
            rows |= {row for path, row in self.rows.items() if path not in self._standing and within(path)}
        for row in sorted(rows):
            places = list(self.places(row))
            robbed = {path for path, _ in places if self.rows[path] != row}
            parted = bool(robbed) or any(path in self._vacated for path, _ in places)
            lost = {
                path
                for path, _ in places
                if path in robbed
                or path in self._vacated
                or owners.get(path, row) != row
                or (not self._stands(row, path) if parted else self._gone(row, path))
            }
            kept = {path: place for path, place in places if path not in lost}
            now = (*kept.values(), *((number(found), found.name) for found in self._claims.get(row, ())))
            taken, first = robbed | (lost & self._new), places[0][0]
            outdated = first in self._new or (first in robbed and within is None)  # by what has its name now
            if row in self.removed:
                if any(path in owners for path, _ in places):
                    change.removed[row] = "changed"
            elif not now and row in self.moved:
                change.removed[row] = "renamed"
            elif not now and (lost & owners.keys() or (taken and not outdated)):
                change.removed[row] = "changed"
            elif not now and within is not None and not parted and all(map(within, lost)):
                change.removed[row] = "missing"
            elif now and list(now) != [place for _, place in places]:
                change.places[row] = now
        return change

    def _seen(self, row: int) -> bool:
        return any(path in self._standing for path, _ in self.places(row))


def path_of(found: Found) -> bytes:
    """Where a file lies that was found."""
    return os.path.join(os.fsencode(found.root), found.name)  # noqa: PTH118


def stands_for(reason: str | None) -> bool:
    """Whether a row stands for what its file is until that changes: an image, or no picture for a lasting reason."""
    return reason is None or (reason.startswith(SKIPPED) and not passing(reason.removeprefix(SKIPPED)))


def one_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file: without links they are the same, or by hard links they are.

    Some file systems have no inode numbers, or give out one to several files: size and times are to be equal too.
    """
    try:
        one, other = a.stat(), b.stat()
    except OSError:
        return False
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    ids = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in (one, other)]
    return one.st_ino != 0 and ids[0] == ids[1]


def equal(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, or to files of one content."""
    try:
        return os.path.realpath(a) == os.path.realpath(b) or content_digest(a) == content_digest(b)
    except BadImage:
        return False
