"""Writing parts: item by item in bounded memory, or named arrays at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Self

import hdf5plugin
import numpy as np

from instsearch_formats.encodings import ENCODINGS, Encoding
from instsearch_formats.errors import FormatError
from instsearch_formats.sink import NewFile
from instsearch_formats.sums import page_sums

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from instsearch_formats.encodings import Item

CHUNK = 2**19  #: bytes in a chunk: large enough to write fast, small enough to read one image

ZSTD = dict(hdf5plugin.Zstd(clevel=1))
FILTERS: dict[str, dict[str, Any]] = {"": {}, "zstd": ZSTD, "shuffle+zstd": {"shuffle": True, **ZSTD}}
"""How h5py is told about a field's filters; all have a Fletcher-32 checksum behind them."""

_ARRAY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class PartWriter:
    """A context in which :meth:`append` is called once per row, in order; the part appears at its end.

    An exception, or too few items, and nothing is left. Memory is bounded by one chunk per field. One that is
    ``held`` is whole then, under the name ``aside``, and appears when it is :func:`instsearch_formats.files.put` there.
    """

    def __init__(
        self, path: Path, encoding: Encoding, header: Mapping[str, str | int], rows: int, held: bool = False
    ) -> None:
        self.path, self.encoding, self.held = path, encoding, held
        self._header, self._rows = header, rows
        self._count = 0
        self._dim = 0
        self._columns: dict[str, _Column] = {}

    def __enter__(self) -> Self:
        self._file = NewFile(self.path, self.encoding, self._header)
        self.aside = self._file.aside
        return self

    def append(self, item: Item) -> None:
        """Add the next row's item: the encoding's arrays, without its outermost pointer (SPEC.md).

        Raises FormatError when it does not fit the encoding or the items before it, or one too many.
        """
        if self._count == self._rows:
            raise FormatError(f"{self.path.name} holds {self._rows} rows and no more")
        item = self.encoding.normalise(item)
        self._agree(item)
        entries = 0
        for field in self.encoding.fields:
            if field.name in item:
                array = item[field.name]
                self._columns[field.name].add(array if field.level else array[None])
                entries = len(array) if field.level == 1 else entries
        for level, name in enumerate(self.encoding.pointers):
            self._columns[name].count(np.diff(item["indptr"]) if level else np.array([entries]))
        self._count += 1

    def _agree(self, item: Item) -> None:
        """The first item decides dtypes, widths and optional fields; the others follow it."""
        if not self._count:
            for field in self.encoding.fields:
                if field.name in item:
                    array = item[field.name]
                    tail = array.shape[1:] if field.level else array.shape
                    self._columns[field.name] = _Column(
                        self._file, field.name, array.dtype, tail, field.filters
                    )
            for name in self.encoding.pointers:
                self._columns[name] = _Column(self._file, name, np.dtype("<i8"), (), "")
                self._columns[name].add(np.zeros(1, np.int64))
            self._dim = item.get("dim", 0)
        elif item.get("dim", 0) != self._dim:
            raise FormatError(f"an item has dim {item['dim']} after others with {self._dim}")
        for field in self.encoding.fields:
            if (field.name in item) != (field.name in self._columns):
                raise FormatError(f"{field.name} is in some items and not in others")
            if field.name in item:
                self._columns[field.name].fits(item[field.name], field.level)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._file.abort()
            raise
        if kind is not None:
            self._file.abort()

    def _finish(self) -> None:
        if self._count != self._rows:
            raise FormatError(f"{self.path.name} wants {self._rows} rows and was given {self._count}")
        for column in self._columns.values():
            column.finish()
        if self.encoding.sparse:
            shape = np.array([self._columns["indptr"].rows - 1, self._dim], "<i8")
            self._file.dataset("shape", data=shape, chunks=(2,), fletcher32=True)
        if self.held:
            self._file.seal()
        else:
            self._file.commit()


class _Column:
    """One growing dataset, handed to HDF5 in whole chunks only."""

    def __init__(self, file: NewFile, name: str, dtype: np.dtype[Any], tail: tuple[int, ...], filters: str):
        self.rows = 0
        self._file, self._name = file, name
        self._filters = {"fletcher32": True, **FILTERS[filters]}
        width = dtype.itemsize * int(np.prod(tail, dtype=np.int64))
        self._buffer = np.empty((max(1, CHUNK // width), *tail), dtype.newbyteorder("<"))
        self._fill = 0
        self._total = 0
        self._dataset: Any = None

    def fits(self, array: np.ndarray, level: int) -> None:
        tail = array.shape[1:] if level else array.shape
        if array.dtype != self._buffer.dtype or tail != self._buffer.shape[1:]:
            raise FormatError(
                f"{self._name} is {array.dtype} x {tail} after items of "
                f"{self._buffer.dtype} x {self._buffer.shape[1:]}"
            )

    def count(self, steps: np.ndarray) -> None:
        """Continue a pointer by so many entries each."""
        ends = self._total + np.cumsum(steps, dtype=np.int64)
        self.add(ends)
        self._total = int(ends[-1]) if len(ends) else self._total

    def add(self, array: np.ndarray) -> None:
        """Copy the rows into the buffer, writing it whenever it is full."""
        self.rows += len(array)
        size = len(self._buffer)
        while len(array):
            if not self._fill and len(array) >= size:
                whole = len(array) // size * size
                self._write(array[:whole])
                array = array[whole:]
            else:
                some = min(size - self._fill, len(array))
                self._buffer[self._fill : self._fill + some] = array[:some]
                self._fill, array = self._fill + some, array[some:]
                if self._fill == size:
                    self._write(self._buffer)
                    self._fill = 0

    def finish(self) -> None:
        """Write what is left. A column that never filled a chunk becomes one chunk of its own size."""
        rest = self._buffer[: self._fill]
        if self._dataset is not None:
            if len(rest):
                self._write(rest)
        elif len(rest):
            self._file.dataset(self._name, data=rest, chunks=rest.shape, **self._filters)
        else:
            self._file.dataset(self._name, shape=rest.shape, dtype=rest.dtype)

    def _write(self, rows: np.ndarray) -> None:
        if self._dataset is None:
            chunk = self._buffer.shape
            self._dataset = self._file.dataset(
                self._name,
                shape=(0, *chunk[1:]),
                maxshape=(None, *chunk[1:]),
                dtype=self._buffer.dtype,
                chunks=chunk,
                **self._filters,
            )
        start = len(self._dataset)
        with self._file.guarded():
            self._dataset.resize(start + len(rows), axis=0)
            self._dataset[start:] = rows


def write_arrays(
    path: Path, header: Mapping[str, str | int], arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any]
) -> None:
    """Write named arrays contiguously and uncompressed, so that they can be memory-mapped, with sums of their pages.

    ``attrs`` is plain JSON. Raises FormatError for names other than letters, digits and ``_ . + -``,
    and for dtypes other than booleans, integers and floats of at most 8 bytes.
    """
    for name, array in arrays.items():
        dtype = np.asarray(array).dtype
        if not _ARRAY_NAME.fullmatch(name):
            raise FormatError(f"an array cannot be named {name!r}: use letters, digits and _ . + -")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise FormatError(f"array {name} is {dtype}: booleans, integers and floats can be kept")
    try:
        text = json.dumps(dict(attrs), allow_nan=True)
    except (TypeError, ValueError) as error:
        raise FormatError(f"attributes of {path.name} are not plain JSON: {error}") from error
    file = NewFile(path, ENCODINGS["arrays"], {**header, "attrs": text})
    try:
        for name, array in arrays.items():
            array = np.asarray(array, order="C")
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.dataset(name, data=array).attrs["sums"] = page_sums(array)
    except BaseException:
        file.abort()
        raise
    file.commit()
