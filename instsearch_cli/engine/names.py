"""What images are called: their names below their folders, which are told from one another where two are equal."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_formats import ImageRecord, Index


class Names:
    """The names of an index's images as people see them, and the rows that are meant by one.

    An image is called by its path below its root; where two roots have one of that path, the end of the root stands
    before it, as much as tells the roots apart: ``2019/photos/a.jpg`` and ``2020/photos/a.jpg``.
    """

    def __init__(self, index: Index) -> None:
        self.index, self.table = index, index.images
        self._state: tuple[int, int] | None = None
        self._common: frozenset[bytes] = frozenset()
        self._roots: list[str] = []
        self._labels: list[str] = []

    def of(self, record: ImageRecord) -> str:
        """What an image is called."""
        self._refresh()
        name = os.fsdecode(record.name)
        return f"{self._labels[record.root]}/{name}" if record.name in self._common else name

    def find(self, text: str | os.PathLike[str]) -> tuple[int, ImageRecord]:
        """The live image of that name, or whose file it is.

        Raises InstsearchError where there is none, with the nearest, or where there are several.
        """
        self._refresh()
        wanted = os.fsencode(text)
        full = os.path.abspath(wanted)  # noqa: PTH100 - links stay
        files, called = [], []
        for row, record in self.live():
            name, root = record.name, record.root
            if full.endswith(name) and os.path.join(os.fsencode(self._roots[root]), name) == full:  # noqa: PTH118
                files.append((row, record))
            elif wanted == name or wanted == os.fsencode(self._labels[root]) + b"/" + name:
                called.append((row, record))
        images = files or called
        if len(images) == 1:
            return images[0]
        shown = os.fsdecode(wanted)
        if images:
            several = ", ".join(f"'{self.of(record)}'" for _, record in images[:5])
            raise InstsearchError(f"'{shown}' is the name of {len(images)} images: {several}")
        names = [self.of(record) for _, record in self.live()]
        raise InstsearchError(f"no image '{shown}' in {self.index.path}.{nearest(shown, names)[:200]}")

    def live(self) -> list[tuple[int, ImageRecord]]:
        """Rows and records of the images that were not removed."""
        alive = self.table.alive()
        return [(row, record) for row, record in self.table.records() if alive[row]]

    def _refresh(self) -> None:
        """Which paths are under several roots, as the table now is."""
        table = self.table
        state = (len(table), len(table.removed()))
        roots = table.roots
        if state == self._state and roots == self._roots:
            return
        common: frozenset[bytes] = frozenset()
        if len(roots) > 1:
            counts = Counter(record.name for _, record in self.live())
            common = frozenset(name for name, n in counts.items() if n > 1)
        self._state, self._common, self._roots, self._labels = state, common, roots, labels(roots)


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
