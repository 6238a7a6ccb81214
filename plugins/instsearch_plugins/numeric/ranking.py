"""The best k images of a segment, where an image may own several rows of the searched matrix."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.boxes import overlap
from instsearch_cli.errors import REPAIR, InstsearchError
from instsearch_formats import Array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.components import Data
    from instsearch_cli.data import Query

HEAD = 8192  # scores that the first guess of the k-th best is made from
SHARED = 4096  # different boxes of images that others may share: a grid's, of pictures of some sizes


def ascending(key: np.ndarray) -> np.ndarray:
    """The stable order of integers i64[n] from 0 on: by 16 bits at a time, which numpy sorts in linear time."""
    order: np.ndarray = np.argsort((key & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(key.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((key[order] >> shift & 0xFFFF).astype(np.uint16), kind="stable")]
    return order


def leads(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin: [3, 3, 7, 3] -> [True, False, True, True]."""
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


class Appended:
    """An array that grows along its first axis in a file, so that ``fit`` need not hold it in memory."""

    def __init__(self, path: Path, dtype: Any, *shape: int) -> None:
        self.path, self.dtype, self.shape, self.count = path, np.dtype(dtype), shape, 0
        path.write_bytes(b"")

    def append(self, array: np.ndarray) -> None:
        with self.path.open("ab") as file:
            np.ascontiguousarray(array, self.dtype).reshape(-1, *self.shape).tofile(file)
        self.count += len(array)

    def array(self) -> np.ndarray:
        """All of it, memory-mapped for reading."""
        if self.count == 0:
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=(self.count, *self.shape))


OWNERS = {
    "start": Array("i8", (1,), equals="start"),
    "images": Array("i8", ("n+1",), climbs="R"),
    "boxes": Array("f4", ("R", 4), group="boxes"),
    "layouts": Array("i8", ("n",), group="layouts", spans=("images", "L")),
    "layout-boxes": Array("f4", ("L", 4), group="layouts"),
}
"""What :meth:`Gathered.state` returns, as it must be; once it was the boxes of all rows."""


class Owners:
    """Which image owns which rows of a segment, and where in the picture each row lies.

    pointers i64[n + 1]: image i of the segment owns rows pointers[i]:pointers[i + 1], whose boxes are those from
    layouts[i] on of boxes f32[L, 4]: images may share theirs; without layouts i64[n] none do, and L = R.
    ``start`` is the segment's first row in the image table.
    """

    def __init__(
        self, start: int, pointers: np.ndarray, boxes: np.ndarray, layouts: np.ndarray | None = None
    ) -> None:
        self.start, self.pointers, self.boxes = start, pointers, boxes
        self.layouts = pointers[:-1] if layouts is None else layouts
        self.images, self.rows = len(pointers) - 1, int(pointers[-1])
        self.single = self.images == self.rows and bool(np.all(np.diff(pointers) == 1))
        self._seen: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of_state(cls, state: Mapping[str, np.ndarray]) -> Owners:
        """What :meth:`Gathered.state` returned, loaded again."""
        start, pointers = int(state["start"][0]), np.asarray(state["images"])
        if "layouts" in state:
            return cls(start, pointers, np.asarray(state["layout-boxes"]), np.asarray(state["layouts"]))
        if "boxes" not in state:
            raise InstsearchError(f"the searched codes have no boxes: {REPAIR}")
        return cls(start, pointers, np.asarray(state["boxes"]))

    def image_of(self, rows: np.ndarray) -> np.ndarray:
        """The image, counted within the segment, that owns each row."""
        return rows if self.single else np.searchsorted(self.pointers, rows, side="right") - 1

    def boxes_of(self, rows: np.ndarray) -> np.ndarray:
        """Where in its picture each row lies: f32[n, 4]."""
        images = self.image_of(rows)
        boxes: np.ndarray = self.boxes[self.layouts[images] + rows - self.pointers[images]]
        return boxes

    def rows_of(self, images: np.ndarray) -> np.ndarray:
        """All rows, ascending, of images that are ascending and counted within the segment."""
        if self.single:
            return images
        first, count = self.pointers[images], self.pointers[images + 1] - self.pointers[images]
        rows: np.ndarray = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
        return rows

    def removed(self, data: Data) -> np.ndarray:
        """The rows, ascending, of the segment's images that ``data.images`` lacks."""
        images = data.images
        if self._seen is None or self._seen[0] is not images:
            gone = np.ones(self.images, bool)
            gone[_within(images - self.start, self.images)] = False
            self._seen = (images, self.rows_of(np.flatnonzero(gone)))
        return self._seen[1]

    def hidden(self, query: Query, removed: np.ndarray) -> np.ndarray:
        """The rows, ascending, that are not there for this query: removed or excluded."""
        excluded = np.fromiter(query.exclude, np.int64, len(query.exclude))
        images = _within(np.sort(excluded) - self.start, self.images)
        return np.union1d(removed, self.rows_of(images)) if len(images) else removed

    def ranked(
        self, rows: np.ndarray, scores: np.ndarray, k: int, per_image: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best k hits out of some scored rows: (rows of the image table, scores, boxes), ties by row.

        A hit has the score and the box of its row. An image gives its best row, or as many of its best rows as
        ``per_image`` says, 0 for all.
        """
        order = np.lexsort((rows, -scores))
        rows, scores = rows[order], scores[order]
        images = self.image_of(rows)
        best = np.flatnonzero(occurrences(images) < (per_image or len(images)))[:k]
        return images[best] + self.start, scores[best], self.boxes_of(rows[best])


class Best:
    """The rows that may belong to the best k images, out of a stream of scores in row order.

    Kept are the rows whose score is at least that of the k-th best image so far, less ``slack``; the best k
    hits are among them too where an image may give several. Scores that are not above ``floor`` are no hits.
    """

    def __init__(self, k: int, owners: Owners, floor: float = -np.inf, slack: float = 0.0) -> None:
        self.k, self.owners, self.slack = k, owners, slack
        self.bound = floor
        self.rows, self.scores = np.empty(0, np.int64), np.empty(0, np.float32)

    def add(self, first: int, scores: np.ndarray) -> None:
        """Take the scores f32[n] of rows first:first + n, which come after all rows taken so far."""
        bound = self.bound if len(self.rows) else max(self.bound, self._guess(first, scores))
        found = np.flatnonzero(scores > bound)
        if not len(found):
            return
        self.rows = np.concatenate([self.rows, found + first])
        self.scores = np.concatenate([self.scores, scores[found]])
        bests = self.scores
        if not self.owners.single:
            images = self.owners.image_of(self.rows)
            bests = np.maximum.reduceat(bests, np.flatnonzero(leads(images)))
        if len(bests) >= self.k:
            kth = np.partition(bests, -self.k)[-self.k]
            self.bound = max(self.bound, float(kth) - self.slack)
            kept = self.scores >= kth - self.slack
            self.rows, self.scores = self.rows[kept], self.scores[kept]

    def _guess(self, first: int, scores: np.ndarray) -> float:
        """A bound that at least k images are above, from the head of the scores; -inf if there are not."""
        share = -(-self.owners.rows // max(self.owners.images, 1))
        wanted = 2 * self.k * share
        head = scores[: max(HEAD, 4 * wanted)]
        if len(head) <= wanted:
            return -np.inf
        value = np.partition(head, -wanted)[-wanted]
        images = self.owners.image_of(np.flatnonzero(head >= value) + first)
        if np.count_nonzero(leads(images)) < self.k:
            return -np.inf
        return float(np.nextafter(value, np.float32(-np.inf))) - self.slack


class Gathered:
    """Collects the owners of a segment's rows while ``fit`` streams the codes."""

    def __init__(self, data: Data, scratch: Path) -> None:
        self.start = self.next = data.span.start
        self.stop = data.span.stop
        self.counts: list[np.ndarray] = []
        self.boxes = Appended(scratch / "boxes", np.float32, 4)
        self.layouts: list[int] = []
        self._known: dict[bytes, int] = {}

    def add(self, block: Mapping[str, Any], pointers: np.ndarray) -> None:
        """Take a block of codes whose image i owns rows pointers[i]:pointers[i + 1] of the block."""
        self._expect(int(block["start"]))
        self.next = int(block["stop"])
        self.counts.append(np.diff(pointers).astype(np.int64))
        self._share(np.ascontiguousarray(block["boxes"], np.float32), pointers)

    def _share(self, boxes: np.ndarray, pointers: np.ndarray) -> None:
        """Keep the boxes of each image that none of the first SHARED different ones has."""
        kept, count = [], self.boxes.count
        for first, last in pairwise(pointers.tolist()):
            own = boxes[first:last]
            key = hashlib.sha256(own.tobytes()).digest()
            at = self._known.get(key)
            if at is None:
                kept.append(own)
                at, count = count, count + len(own)
                if len(self._known) < SHARED:
                    self._known[key] = at
            self.layouts.append(at)
        self.boxes.append(np.concatenate([boxes[:0], *kept]))

    def state(self) -> dict[str, np.ndarray]:
        self._expect(self.stop)
        pointers = np.concatenate([np.zeros(1, np.int64), *self.counts]).cumsum()
        return {
            "start": np.array([self.start]),
            "images": pointers,
            "layouts": np.array(self.layouts, np.int64),
            "layout-boxes": self.boxes.array(),
        }

    def _expect(self, row: int) -> None:
        if row != self.next:
            raise InstsearchError(
                f"the codes of image rows {self.next} to {row - 1} are missing: run `instsearch index` again"
            )


def _within(images: np.ndarray, n: int) -> np.ndarray:
    return images[(images >= 0) & (images < n)]


def occurrences(values: np.ndarray) -> np.ndarray:
    """How many equal values come before each: [7, 3, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    before = np.empty(len(values), np.int64)
    before[order] = np.arange(len(values)) - np.searchsorted(ascending, ascending)
    return before


def separate(images: np.ndarray, boxes: np.ndarray, most: int) -> np.ndarray:
    """Which hits, best first, are an image's first or share less than half of a box with one before, ``most`` an image.

    images i64[n], boxes f32[n, 4] -> bool[n]. Hits without a box are in no place of their own.
    """
    kept: np.ndarray = occurrences(images) == 0
    places = dict(zip(images[kept].tolist(), boxes[kept, None], strict=True))
    for i in np.flatnonzero(~kept & ~np.isnan(boxes).any(axis=1)).tolist():
        before = places[int(images[i])]
        kept[i] = len(before) < most and bool((overlap(before, boxes[i]) < 0.5).all())
        if kept[i]:
            places[int(images[i])] = np.append(before, boxes[i : i + 1], axis=0)
    return kept
