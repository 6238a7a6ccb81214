"""What images are called: their paths below their folders, which are told from one another where two are equal."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError, nearest, printable
from instsearch_formats.images import located, location

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instsearch_formats import ImageRecord, Index
    from instsearch_formats.changes import Place

    Rows = dict[bytes, list[tuple[int, int]]]


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
        several = len(self._roots) > 1 and len({row for row, _ in self._rows.get(record.name, ())}) > 1
        return f"{self._labels[record.root]}/{name}" if several else name

    def find(self, text: str | os.PathLike[str]) -> tuple[int, ImageRecord]:
        """The row of the live image of that name, or whose file it is, and what the table says of it.

        Any of its names will do. One in another normal form of Unicode counts where none is equal, then where a link
        leads to. Raises InstsearchError where there is none, with the nearest, or where there are several.
        """
        self.refresh()
        wanted = os.fsencode(text)
        full = os.path.abspath(wanted)  # noqa: PTH100 - links stay
        rows = self._matching(self._rows, wanted, full, bytes)
        rows = rows or self._matching(self._composed, wanted, full, composed)
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

    def _matching(self, names: Rows, wanted: bytes, full: bytes, form: Callable[[bytes], bytes]) -> set[int]:
        """The rows whose names, files or labelled names are equal in a form, which ``names`` are in."""
        roots, labelled = (
            [os.fsdecode(form(os.fsencode(f))) for f in some] for some in (self._roots, self._labels)
        )
        rows = self._below(roots, form(full), names)
        return rows or {row for row, _ in names.get(form(wanted), ())} | self._below(
            labelled, form(wanted), names
        )

    def _below(self, folders: Sequence[str], path: bytes, names: Rows | None = None) -> set[int]:
        """The rows of a path, by the folder of its root."""
        starts = [os.fsencode(folder).rstrip(b"/") + b"/" for folder in folders]
        rest = {root: path[len(start) :] for root, start in enumerate(starts) if path.startswith(start)}
        rows = self._rows if names is None else names
        return {row for root, name in rest.items() for row, its in rows.get(name, ()) if its == root}

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
            vars(self).pop("_rows", None)
            vars(self).pop("_composed", None)

    @functools.cached_property
    def _rows(self) -> Rows:
        """(row, root) of the live images of each path, by all their names."""
        rows: Rows = {}
        others = self.table.others()
        for row, record in self.live():
            for root, name in ((record.root, record.name), *others.get(row, ())):
                rows.setdefault(name, []).append((row, root))
        return rows

    @functools.cached_property
    def _composed(self) -> Rows:
        """The same, of paths in one normal form."""
        rows: Rows = {}
        for name, places in self._rows.items():
            rows.setdefault(composed(name), []).extend(places)
        return rows


def composed(name: bytes) -> bytes:
    """A name with accents and letters in one, as keyboards give them and some disks do not."""
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(name)))


def labels(roots: Sequence[str]) -> list[str]:
    """For each folder the shortest end of its path that no other has."""
    parts = [Path(root).parts for root in roots]
    ends = Counter(mine[-n:] for mine in parts for n in range(1, len(mine) + 1))
    found = []
    for mine in parts:
        n = next((n for n in range(1, len(mine)) if ends[mine[-n:]] == 1), len(mine))
        found.append("/".join(mine[-n:]).replace("//", "/"))
    return found
