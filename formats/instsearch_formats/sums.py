"""Sums of the pages of an array that is memory-mapped: what notices a changed bit where nobody reads the whole file.

The sum of a page is that of its 64-bit words, modulo 2^64; the last page is filled with zeros. Any single change of a
word changes it, and it is had as fast as memory is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PAGE = 2**20  #: bytes of a page
WHOLE = 2**30  #: bytes up to which an array is summed when opened; of longer ones, pages as they are used


def page_sums(array: np.ndarray) -> np.ndarray:
    """u64[pages] of the bytes of an array that lies in one piece."""
    data = array.reshape(-1).view(np.uint8)
    whole = len(data) // PAGE * PAGE
    sums: np.ndarray = data[:whole].view("<u8").reshape(-1, PAGE // 8).sum(axis=1, dtype=np.uint64)
    if whole == len(data):
        return sums
    rest = np.zeros(-(-(len(data) - whole) // 8) * 8, np.uint8)
    rest[: len(data) - whole] = data[whole:]
    return np.append(sums, rest.view("<u8").sum(dtype=np.uint64))


def checked(array: np.ndarray, sums: np.ndarray | None) -> np.ndarray:
    """The array, its pages checked now or when they are used; as it is if there are no sums. Raises ValueError."""
    if sums is None:
        return array
    if array.nbytes > WHOLE:
        return Paged(array, sums)
    check(array, sums)
    return array


def check(array: np.ndarray, sums: np.ndarray) -> None:
    """Raises ValueError where the bytes are not those that were summed."""
    if not np.array_equal(page_sums(array), sums):
        raise ValueError("its bytes are not those that were written")


class Paged(np.ndarray):
    """A long array whose pages are summed the first time that something is taken out of them.

    What is taken out, by slices and whole numbers along the first axis, is an ordinary array. Raises ValueError where a
    page is not what was written.
    """

    _sums: np.ndarray
    _seen: np.ndarray

    def __new__(cls, array: np.ndarray, sums: np.ndarray) -> Paged:
        out = array.view(cls)
        out._sums, out._seen = sums, np.zeros(len(sums), bool)
        return out

    def __array_finalize__(self, parent: Any) -> None:
        self._sums = getattr(parent, "_sums", np.empty(0, np.uint64))
        self._seen = getattr(parent, "_seen", np.empty(0, bool))

    def __getitem__(self, key: Any) -> Any:
        whole = self.view(np.ndarray)
        first = key[0] if isinstance(key, tuple) else key
        width = self.strides[0]
        if isinstance(first, slice):
            start, stop, step = first.indices(len(self))
            assert step > 0
            pages = np.arange(start * width // PAGE, -(-stop * width // PAGE) if stop > start else 0)
        else:
            rows = np.atleast_1d(np.asarray(first)) * width
            pages = np.union1d(rows // PAGE, (rows + width - 1) // PAGE)
        pages = pages[~self._seen[pages]]
        data = whole.reshape(-1).view(np.uint8)
        for page in pages.tolist():
            check(data[page * PAGE : (page + 1) * PAGE], self._sums[page : page + 1])
            self._seen[page] = True
        return whole[key]
