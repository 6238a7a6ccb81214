"""What images are called: their paths below their folders, which are told from one another where two are equal."""

from __future__ import annotations

import functools
import os
import unicodedata
from typing import TYPE_CHECKING, TypeVar

from instsearch_cli.engine.name_hashes import NameHashes
from instsearch_cli.errors import InstsearchError, nearest, printable
from instsearch_formats.images import labels, located, location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from instsearch_formats import ImageRecord, Index
    from instsearch_formats.changes import Place

    Rows = dict[bytes, list[tuple[int, int]]]
    Having = Callable[[bytes], list[tuple[int, int]]]

T = TypeVar("T")
FEW = 200  #: rows looked up one by one; where it is more, all are read


class Names:
    """The names of an index's images as people see them, and the images that are meant by one.

    An image is called by its path below its root; where two roots have one of that path, the end of the root stands
    before it, as much as tells the roots apart: ``2019/photos/a.jpg`` and ``2020/photos/a.jpg``.
    """

    def __init__(self, index: Index) -> None:
        self.index, self.table = index, index.images
        self.refresh()

    def of(self, record: ImageRecord) -> str:
        """What an image is called."""
        name = os.fsdecode(record.name)
        return f"{self._labels[record.root]}/{name}" if self._several(record.name) else name

    def find(self, text: str | os.PathLike[str]) -> tuple[int, ImageRecord]:
        """The row of the live image of that name, or whose file it is, and what the table says of it.

        Any of its names will do. One in another normal form of Unicode counts where none is equal, then where a link
        leads to. Raises InstsearchError where there is none, with the nearest, or where there are several.
        """
        self.refresh()
        wanted = os.fsencode(text)
        full = os.path.abspath(wanted)  # noqa: PTH100 - links stay
        rows = self._matching(self._having, wanted, full, bytes)
        rows = rows or self._matching(lambda name: self._composed.get(name, []), wanted, full, composed)
        rows = rows or self._below(list(map(os.path.realpath, self._roots)), os.path.realpath(full))
        records = [(row, self.table.record(row)) for row in sorted(rows)]
        if len(records) == 1:
            return records[0]
        shown = printable(os.fsdecode(wanted))
        if records:
            several = ", ".join(f"'{printable(self.of(record))}'" for _, record in records[:5])
            raise InstsearchError(f"'{shown}' is the name of {len(records)} images: {several}")
        names = [printable(self.of(record)) for _, record in self.live()]
        raise InstsearchError(f"no image '{shown}' in {self.index.path}.{nearest(shown, names)[:200]}")

    def file_of_one(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file is that of a live image, called so or where links lead to."""
        self.refresh()
        full, real = os.path.abspath(os.fsencode(path)), os.path.realpath(os.fsencode(path))  # noqa: PTH100
        return bool(
            self._below(self._roots, full) or self._below(list(map(os.path.realpath, self._roots)), real)
        )

    def _matching(
        self, having: Having, wanted: bytes, full: bytes, form: Callable[[bytes], bytes]
    ) -> set[int]:
        """The rows whose names, files or labelled names are equal in a form, which ``having`` takes."""
        roots, labelled = (
            [os.fsdecode(form(os.fsencode(f))) for f in some] for some in (self._roots, self._labels)
        )
        rows = self._below(roots, form(full), having)
        return rows or {row for row, _ in having(form(wanted))} | self._below(labelled, form(wanted), having)

    def _below(self, folders: Sequence[str], path: bytes, having: Having | None = None) -> set[int]:
        """The rows of a path, by the folder of its root."""
        starts = [os.fsencode(folder).rstrip(b"/") + b"/" for folder in folders]
        rest = {root: path[len(start) :] for root, start in enumerate(starts) if path.startswith(start)}
        having = having or self._having
        return {row for root, name in rest.items() for row, its in having(name) if its == root}

    def _having(self, name: bytes) -> list[tuple[int, int]]:
        """(row, root) of the live images of a path, by all their names: looked up, where few are asked for."""
        if self._all_read:
            return self._rows.get(name, [])
        found = dict(self._looked_up(name))
        return [each for some in found.values() for each in some]

    def _several(self, name: bytes) -> bool:
        """Whether two images have a path; no more of them are read than it takes to tell."""
        if len(self._roots) < 2:
            return False
        if self._all_read:
            return len({row for row, _ in self._having(name)}) > 1
        found = (place for place, its in self._looked_up(name) if its)
        first = next(found, None)
        return any(place != first for place in found)

    @property
    def _all_read(self) -> bool:
        """Whether names are looked up among all, which are read, or are to be, as many were asked for."""
        return "_rows" in vars(self) or self._looked_at > FEW

    def _looked_up(self, name: bytes) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
        """The live images that may have a path: where each lies, and (row, root) of it by all its names of that path.

        Of a file that a run is replacing the new one comes last.
        """
        removed, placed = self.table.removed(), self.table.places()
        rows = {*self._hashes.rows(name), *self._later.get(name, ()), *self._placed.get(name, ())}
        for row in sorted(rows - removed.keys()):
            self._looked_at += 1
            record = self.table.record(row)
            its = placed.get(row) or ((record.root, record.name),)
            yield location(self._roots, record), [(row, root) for root, path in its if path == name]

    def live(self) -> list[tuple[int, ImageRecord]]:
        """Rows and records of the images that were not removed; of a file that a run is replacing, the new one."""
        alive, roots = self.table.alive(), self.table.roots
        records = self.table.records(range(len(alive)))  # no rows that came since
        newest = {location(roots, record): (row, record) for row, record in records if alive[row]}
        return list(newest.values())

    def removed(self) -> list[tuple[int, ImageRecord]]:
        """Rows and records of the images that were removed."""
        removed = self.table.removed()
        return [(row, record) for row, record in self.table.records() if row in removed]

    def places(self, row: int, record: ImageRecord) -> dict[bytes, Place]:
        """Where the file of an image lies, its name first, by path."""
        named = ((record.root, record.name), *self.table.others().get(row, ()))
        return {located(self._roots, place): place for place in named}

    def refresh(self) -> None:
        """See which images there are now."""
        roots, state = self.table.roots, self.table.state
        if vars(self).get("_state") != (roots, state):
            self._state, self._roots, self._labels = (roots, state), roots, labels(roots)
            self._looked_at = 0
            for kept in ("_rows", "_composed", "_hashes", "_later", "_placed"):
                vars(self).pop(kept, None)

    @functools.cached_property
    def _hashes(self) -> NameHashes:
        return NameHashes(self.index)

    @functools.cached_property
    def _later(self) -> dict[bytes, list[int]]:
        """The rows of each path that have no hash yet."""
        records = self.table.records(range(len(self._hashes), len(self.table)))
        return _by_name((record.name, row) for row, record in records)

    @functools.cached_property
    def _placed(self) -> dict[bytes, list[int]]:
        """The rows of each path that got it after they were taken in."""
        return _by_name((name, row) for row, its in self.table.places().items() for _, name in its)

    @functools.cached_property
    def _rows(self) -> Rows:
        """(row, root) of the live images of each path, by all their names."""
        others = self.table.others()
        places = ((row, ((its.root, its.name), *others.get(row, ()))) for row, its in self.live())
        return _by_name((name, (row, root)) for row, some in places for root, name in some)

    @functools.cached_property
    def _composed(self) -> Rows:
        """The same, of paths in one normal form."""
        rows: Rows = {}
        for name, places in self._rows.items():
            rows.setdefault(composed(name), []).extend(places)
        return rows


def _by_name(pairs: Iterable[tuple[bytes, T]]) -> dict[bytes, list[T]]:
    """What has each name, in the order of the pairs."""
    found: dict[bytes, list[T]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def composed(name: bytes) -> bytes:
    """A name with accents and letters in one, as keyboards give them and some disks do not."""
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(name)))
