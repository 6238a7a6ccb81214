"""What images are called: their paths below their folders, which are told from one another where two are equal."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_formats import ImageRecord, Index


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
        several = len(self._roots) > 1 and len(self._rows.get(record.name, ())) > 1
        return f"{self._labels[record.root]}/{name}" if several else name

    def find(self, text: str | os.PathLike[str]) -> tuple[int, ImageRecord]:
        """The row of the live image of that name, or whose file it is, and what the table says of it.

        Raises InstsearchError where there is none, with the nearest, or where there are several.
        """
        self.refresh()
        wanted = os.fsencode(text)
        full = os.path.abspath(wanted)  # noqa: PTH100 - links stay
        rows = {row for root, name in self._below(self._roots, full) for row in self._of(name, root)}
        if not rows:
            rows = {row for row, _ in self._rows.get(wanted, ())}
            rows |= {row for root, name in self._below(self._labels, wanted) for row in self._of(name, root)}
        records = [(row, self.table.record(row)) for row in sorted(rows)]
        if len(records) == 1:
            return records[0]
        shown = os.fsdecode(wanted)
        if records:
            several = ", ".join(f"'{self.of(record)}'" for _, record in records[:5])
            raise InstsearchError(f"'{shown}' is the name of {len(records)} images: {several}")
        names = [self.of(record) for _, record in self.live()]
        raise InstsearchError(f"no image '{shown}' in {self.index.path}.{nearest(shown, names)[:200]}")

    def live(self) -> list[tuple[int, ImageRecord]]:
        """Rows and records of the images that were not removed."""
        alive = self.table.alive()
        return [(row, record) for row, record in self.table.records() if alive[row]]

    def _of(self, name: bytes, root: int) -> list[int]:
        return [row for row, its in self._rows.get(name, ()) if its == root]

    @staticmethod
    def _below(folders: Sequence[str], path: bytes) -> Iterator[tuple[int, bytes]]:
        """The number of each folder that a path is below, and the rest of the path."""
        for number, folder in enumerate(folders):
            start = os.fsencode(folder).rstrip(b"/") + b"/"
            if path.startswith(start):
                yield number, path[len(start) :]

    def refresh(self) -> None:
        """See which images there are now."""
        roots, state = self.table.roots, (len(self.table), len(self.table.removed()))
        if vars(self).get("_state") != (roots, state):
            self._state, self._roots, self._labels = (roots, state), roots, labels(roots)
            vars(self).pop("_rows", None)

    @functools.cached_property
    def _rows(self) -> dict[bytes, list[tuple[int, int]]]:
        """(row, root) of the live images of each path."""
        rows: dict[bytes, list[tuple[int, int]]] = {}
        for row, record in self.live():
            rows.setdefault(record.name, []).append((row, record.root))
        return rows


def labels(roots: Sequence[str]) -> list[str]:
    """For each folder the shortest end of its path that no other has."""
    parts = [Path(root).parts for root in roots]
    found = []
    for mine in parts:
        n = 1
        while n < len(mine) and sum(other[-n:] == mine[-n:] for other in parts) > 1:
            n += 1
        found.append("/".join(mine[-n:]).replace("//", "/"))
    return found
