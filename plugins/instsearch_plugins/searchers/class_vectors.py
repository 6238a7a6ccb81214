"""Vectors that each image has for a class, kept in files as they come to be computed."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from instsearch_formats import FormatError, files
from instsearch_formats.datasets import finite
from instsearch_formats.sums import page_sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NAME = re.compile(r"(\d{5})-(\d{10})-(\d{10})\.npy")


class ClassVectors:
    """Vectors f16[n, D] of n image rows for each class, as far as they are known.

    A file of ``folder`` has one class in one range of rows, so that images that are added only add files. It is
    believed if its shape and dtype are right, its values finite, and their sums those that lie behind them; it is as
    good as not there otherwise. Without a folder, or where it cannot be written any more, vectors are held in memory,
    ``limit`` bytes of them at most.
    """

    def __init__(self, folder: Path | None, D: int, limit: int) -> None:
        self.folder, self.D, self.limit = folder, D, limit
        self.files = _listed(folder)
        self.known: dict[int, dict[range, np.ndarray]] = {}
        self._held: list[tuple[int, range]] = []
        self._bytes, self._full = 0, False

    def missing(self, number: int, span: range) -> list[range]:
        """The rows of ``span`` that class ``number`` lacks, in ascending ranges."""
        gaps, at = [], span.start
        for known in sorted(self._of(number), key=lambda known: known.start):
            gaps.append(range(at, min(known.start, span.stop)))
            at = max(at, known.stop)
        return [gap for gap in [*gaps, range(at, span.stop)] if len(gap)]

    def read(self, number: int, span: range) -> np.ndarray:
        """f16[n, D] of rows none of which is missing."""
        out = np.empty((len(span), self.D), np.float16)
        for known, vectors in self._of(number).items():
            a, b = max(known.start, span.start), min(known.stop, span.stop)
            if a < b:
                out[a - span.start : b - span.start] = vectors[a - known.start : b - known.start]
        return out

    def add(self, number: int, span: range, vectors: np.ndarray) -> None:
        """Keep a class's vectors f16[n, D] of some rows, as far as there is room."""
        written = self._written(number, span, vectors)
        if written is not None:
            self._of(number)[span] = written
        elif self._bytes + vectors.nbytes <= self.limit:
            self._of(number)[span] = vectors
            self._held.append((number, span))
            self._bytes += vectors.nbytes
        else:
            self._full = True

    def make_room(self) -> None:
        """Drop the older half of what is held in memory, if there was no room for more."""
        while self._full and self._bytes > self.limit // 2:
            number, span = self._held.pop(0)
            self._bytes -= self.known[number].pop(span).nbytes
        self._full = False

    def _of(self, number: int) -> dict[range, np.ndarray]:
        """What is known of a class by now; its files are looked at once."""
        if number not in self.known:
            found = {span: self._mapped(path, span) for span, path in self.files.get(number, {}).items()}
            self.known[number] = {span: vectors for span, vectors in found.items() if vectors is not None}
        return self.known[number]

    def _mapped(self, path: Path, span: range) -> np.ndarray | None:
        """A file's vectors; None for a file that is not what it should be."""
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if vectors.dtype != np.float16 or vectors.shape != (len(span), self.D):
            return None
        sums = page_sums(vectors).tobytes()
        with path.open("rb") as file:
            file.seek(vectors.offset + vectors.nbytes)
            return vectors if finite(vectors) and file.read(len(sums) + 1) == sums else None

    def _written(self, number: int, span: range, vectors: np.ndarray) -> np.ndarray | None:
        """The vectors as a new file has them; None where none can be written."""
        if self.folder is None:
            return None
        path = self.folder / f"{number:05d}-{span.start:010d}-{span.stop:010d}.npy"
        try:
            with files.replacing(path) as aside, aside.open("wb") as file:
                np.save(file, vectors, allow_pickle=False)
                file.write(page_sums(vectors).tobytes())
                file.flush()
                os.fsync(file.fileno())
        except (OSError, FormatError):  # the disk is full, say
            self.folder = None
            return None
        return self._mapped(path, span)


def _listed(folder: Path | None) -> dict[int, dict[range, Path]]:
    """The files of a folder by class and rows."""
    found: dict[int, dict[range, Path]] = {}
    for path in folder.iterdir() if folder is not None else ():
        if (name := NAME.fullmatch(path.name)) and not path.is_symlink() and path.is_file():
            number, start, stop = map(int, name.groups())
            found.setdefault(number, {})[range(start, stop)] = path
    return found


def stretches(span: range, missing: Mapping[int, Sequence[range]]) -> Iterator[tuple[range, list[int]]]:
    """Divide rows where other classes come to be missing: the parts, in order, with the classes that each lacks."""
    gaps = [(number, gap) for number, all_gaps in missing.items() for gap in all_gaps]
    edges = sorted({span.start, span.stop, *(edge for _, gap in gaps for edge in (gap.start, gap.stop))})
    for start, stop in pairwise(edges):
        yield range(start, stop), [number for number, gap in gaps if gap.start <= start < gap.stop]
