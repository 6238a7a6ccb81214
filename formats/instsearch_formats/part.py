"""Reading parts. Nothing in a file is believed before it is checked."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np

from instsearch_formats import declared, seal, sums
from instsearch_formats.datasets import sound
from instsearch_formats.encodings import ENCODINGS, ITEM, Item, climbs, fits_tail, index_dtype
from instsearch_formats.errors import FormatError, NewerFormatError, damaged, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import FileIO
    from pathlib import Path

BLOCK = 2**25  #: bytes of a block at most, unless one image has more
_TEXT = 2**24  #: bytes of an attribute at most
MAPPED = 2**26  #: bytes from which an array is mapped: what was read, nobody can cut while it is used
_NAME = re.compile(r"part-(\d{10})-(\d{10})\.h5")


def part_name(span: range) -> str:
    """The file name of the part of rows ``span``."""
    return f"part-{span.start:010d}-{span.stop:010d}.h5"


def part_span(name: str) -> range | None:
    """The rows of a part by its file name; None if it is not such a name."""
    found = _NAME.fullmatch(name)
    span = range(int(found[1]), int(found[2])) if found else range(0)
    return span if len(span) else None


class Part:
    """One open file of any encoding: its attributes and pointers are in memory, the rest is read when asked.

    Raises FormatError on damage, NewerFormatError on an encoding that this version does not know.
    """

    def __init__(self, path: Path, top: Path | None = None) -> None:
        self.path, self._top = path, top
        with seal.opened(path, top) as file, reading(path):
            sealed = seal.read_from(path, file)
            self.length = seal.SIZE + sealed.nbytes
            self._h5 = h5py.File(path, "r", locking=False, rdcc_nbytes=2**21)
            try:
                if os.name != "nt" and not os.path.sameopenfile(file.fileno(), self._h5.id.get_vfd_handle()):
                    raise damaged(path, "it was replaced while it was opened")
                self._open(sealed, file)
            except BaseException:
                self._h5.close()
                raise

    def _open(self, sealed: seal.Seal, file: FileIO) -> None:
        kind, version = self._text("encoding-type"), self._number("encoding-version")
        self.created_by = self._text("created-by")
        if self.created_by != sealed.written_by:
            raise damaged(self.path, "its first 512 bytes are not as written")
        encoding = ENCODINGS.get(kind)
        if encoding is None or version > encoding.version:
            raise NewerFormatError(
                f"{self.path} holds encoding {kind} version {version}, written by instsearch "
                f"{self.created_by}: install that version or a later one"
            )
        self.encoding = encoding
        self.kind, self.name, self.identity = map(self._text, ("kind", "name", "identity"))
        self.span = range(0)
        if h5py.h5a.exists(self._h5.id, b"start"):
            self.span = range(self._number("start"), self._number("stop"))
        self.pictures = self._text("pictures") if h5py.h5a.exists(self._h5.id, b"pictures") else ""
        if part_span(self.path.name) not in (None, self.span):
            raise damaged(
                self.path, f"it holds rows {self.span.start} to {self.span.stop}, not those of its name"
            )
        self.pointers: list[np.ndarray] = []
        self.dim = 0
        if encoding.pointers:
            filters = dict.fromkeys(encoding.pointers, "") | {f.name: f.filters for f in encoding.fields}
            filters |= {"shape": ""} if encoding.sparse else {}
            lacking = {f.name for f in encoding.fields if f.optional} - set(self._h5)
            names = filters.keys() - lacking
            self._fields = {name: sound(self._h5, name, file, filters[name]) for name in names}
            self._check_layout()
            self._weigh()
        else:
            self._fields = {name: sound(self._h5, name, file, None) for name in map(str, self._h5)}
            if sum(dataset.nbytes for dataset in self._fields.values()) > sealed.nbytes:
                raise damaged(self.path, "its arrays lie in the same place")

    def _text(self, name: str) -> str:
        attribute = h5py.h5a.open(self._h5.id, name.encode("ascii"))
        dtype = attribute.dtype
        if dtype.kind != "S" or attribute.shape != () or dtype.itemsize > _TEXT:
            raise damaged(self.path, f"attribute {name} is no text")
        value = np.empty((), dtype)
        attribute.read(value)
        return bytes(value[()]).decode("ascii")

    def _number(self, name: str) -> int:
        attribute = h5py.h5a.open(self._h5.id, name.encode("ascii"))
        value = np.empty((), np.int64)
        if attribute.dtype.kind not in "iu" or attribute.shape != ():
            raise damaged(self.path, f"attribute {name} is no number")
        attribute.read(value)
        return int(value)

    def _check_layout(self) -> None:
        lengths = [len(self.span)]
        for name in self.encoding.pointers:
            pointer = self._fields[name]
            if pointer.dtype != np.dtype("<i8") or pointer.shape != (lengths[-1] + 1,):
                raise damaged(self.path, f"{name} is {pointer.dtype} {pointer.shape}")
            values = pointer[()]
            if not climbs(values, int(values[-1])):
                raise damaged(self.path, f"{name} does not run from 0 without falling")
            self.pointers.append(values)
            lengths.append(int(values[-1]))
        for field in self.encoding.fields:
            if field.optional and field.name not in self._fields:
                continue
            data = self._fields[field.name]
            allowed = [np.dtype(dtype) for dtype in field.dtypes]
            if data.dtype not in allowed or data.shape[:1] != (lengths[field.level],):
                raise damaged(self.path, f"{field.name} is {data.dtype} {data.shape}")
            alike = not field.like or data.shape[1:2] == self._fields[field.like].shape[1:2]
            if not fits_tail(field, data.shape[1:]) or not alike:
                raise damaged(self.path, f"{field.name} has shape {data.shape}")
        if self.encoding.sparse:
            shape = self._fields["shape"]
            rows, self.dim = (int(n) for n in shape[()]) if shape.shape == (2,) else (-1, 0)
            if rows != lengths[1] or self._fields["indices"].dtype != index_dtype(self.dim):
                raise damaged(self.path, "shape does not fit the other arrays")

    def item(self, index: int) -> Item:
        """The item of the part's ``index``-th row."""
        block = self.slice(index, index + 1)
        block.pop(self.encoding.pointers[0])
        block.pop("shape", None)
        for field in self.encoding.fields:
            if not field.level and field.name in block:
                block[field.name] = block[field.name][0]
        return block

    def widths(self) -> dict[str, str]:
        """Dtype and columns of what has entries: alike in all parts of a layer."""
        fields = {f.name: self._fields[f.name] for f in self.encoding.fields if f.name in self._fields}
        return {name: f"{data.dtype} {data.shape[1:]}" for name, data in fields.items() if data.shape[0]}

    def head(self, index: int) -> Item:
        """What the part's ``index``-th row always has one of, its grid say, without its values."""
        always = [f.name for f in self.encoding.fields if not f.level and not f.optional]
        with reading(self.path):
            found = {name: self._fields[name][index] for name in always}
            self.encoding.check(found)
            return found

    def slice(self, first: int, last: int) -> dict[str, Any]:
        """The arrays of the part's rows ``first`` to ``last``, exclusive; pointers begin at 0."""
        out: dict[str, Any] = {}
        bounds = [(first, last)]
        for name, pointer in zip(self.encoding.pointers, self.pointers, strict=True):
            steps = pointer[bounds[-1][0] : bounds[-1][1] + 1]
            out[name] = steps - steps[0]
            bounds.append((int(steps[0]), int(steps[-1])))
        with reading(self.path):
            for field in self.encoding.fields:
                if field.name in self._fields:
                    out[field.name] = self._fields[field.name][slice(*bounds[field.level])]
            if self.encoding.sparse:
                out["dim"] = self.dim
                out["shape"] = np.array([bounds[1][1] - bounds[1][0], self.dim])
            self.encoding.check(out)
        return out

    def cuts(self, first: int, last: int, limit: int = BLOCK) -> Iterator[tuple[int, int]]:
        """Divide rows ``first`` to ``last`` into runs of at most ``limit`` bytes, or of one row."""
        weight = self._weight
        while first < last:
            fit = int(np.searchsorted(weight, weight[first] + limit, side="right")) - 1
            stop = min(last, max(first + 1, fit))
            yield first, stop
            first = stop

    def _weigh(self) -> None:
        """How many bytes the rows before each have, i64[rows + 1]. Raises FormatError where one has too many."""
        position: Any = np.arange(len(self.span) + 1)
        self._weight = np.zeros(len(self.span) + 1, np.int64)
        for level in range(len(self.pointers) + 1):
            fields = [
                self._fields[f.name]
                for f in self.encoding.fields
                if f.level == level and f.name in self._fields
            ]
            self._weight += position * sum(f.dtype.itemsize * int(np.prod(f.shape[1:])) for f in fields)
            if level < len(self.pointers):
                position = self.pointers[level][position]
        if len(self.span) and (most := int(np.diff(self._weight).max())) > ITEM:
            raise damaged(
                self.path, f"an image of it has {most:,} bytes where {ITEM:,} are the most there can be"
            )

    def arrays(self, wanted: Mapping[str, declared.Array] | None = None) -> dict[str, np.ndarray]:
        """Named arrays (encoding ``arrays``), read into memory; those that are ``wanted`` are as declared."""
        with reading(self.path):
            out = {name: np.asarray(dataset[()]) for name, dataset in self._fields.items()}
            self._compare(out, wanted)
            return out

    def mapped(self, wanted: Mapping[str, declared.Array] | None = None) -> dict[str, np.ndarray]:
        """As :meth:`arrays`, read-only, those of 64 MiB and more memory-mapped.

        Their bytes are checked, those of an array of more than :data:`sums.WHOLE` by pages as they are used. A file
        that was written without sums is read whole for it.
        """
        with reading(self.path), seal.opened(self.path, self._top) as file:
            out: dict[str, np.ndarray] = {}
            kept = {name: self._sums(dataset) for name, dataset in self._fields.items()}
            if any(pages is None for pages in kept.values()):
                seal.check(self.path, self._top)
            for name, dataset in self._fields.items():
                if dataset.nbytes < MAPPED:
                    array = np.asarray(dataset[()])
                    array.flags.writeable = False
                else:
                    array = np.memmap(file, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape)
                out[name] = sums.checked(array, kept[name])
            self._compare(out, wanted, start=self.span.start, n=len(self.span))
            return out

    def _compare(
        self, arrays: dict[str, np.ndarray], wanted: Mapping[str, declared.Array] | None, **lengths: int
    ) -> None:
        try:
            declared.check(arrays, wanted or {}, **lengths)
        except ValueError as error:  # bytes as they were written, so that verify has nothing to say
            raise FormatError(
                f"{self.path} is damaged: {error}.\nDelete it and run `instsearch index` again."
            ) from error

    def _sums(self, dataset: Any) -> np.ndarray | None:
        """The sums of a data set's pages, if they were written."""
        if not h5py.h5a.exists(dataset.id, b"sums"):
            return None
        attribute = h5py.h5a.open(dataset.id, b"sums")
        if attribute.dtype != np.dtype("<u8") or attribute.shape != (-(-dataset.nbytes // sums.PAGE),):
            raise damaged(self.path, "the sums of its pages are not as written")
        value = np.empty(attribute.shape, np.uint64)
        attribute.read(value)
        return value

    def attributes(self) -> dict[str, Any]:
        """The JSON attributes that were stored with named arrays."""
        return self._object("attrs")

    def options(self) -> dict[str, Any]:
        """The identity as an object."""
        return self._object("identity")

    def _object(self, name: str) -> dict[str, Any]:
        with reading(self.path):
            value = json.loads(self._text(name))
        if not isinstance(value, dict):
            raise damaged(self.path, f"its {name} is no JSON object")
        return value


def read_arrays(
    path: Path,
    identity: str,
    top: Path | None,
    wanted: Mapping[str, declared.Array] | None = None,
    pictures: Callable[[range], str] = lambda span: "",
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Named arrays and attributes of a file of encoding ``arrays``, after checking every byte of it."""
    seal.check(path, top)
    part = Part(path, top)
    check_identity(part, identity, "arrays")
    check_pictures(part, pictures)
    return part.arrays(wanted), part.attributes()


def check_identity(part: Part, identity: str, encoding: str) -> None:
    """A file found under a fingerprint's first digits must have the whole identity."""
    if part.identity != identity or part.encoding.name != encoding:
        raise FormatError(
            f"{part.path} was made with other options than its name says: delete {part.path.parent.name}/"
            f"{part.path.name} and run the same command again"
        )


def check_pictures(part: Part, pictures: Callable[[range], str]) -> None:
    """A file that says which pictures it was made of is taken for no others; of an older one nobody can tell."""
    if part.pictures and part.pictures != pictures(part.span):
        raise FormatError(
            f"{part.path} was made of other pictures than this index has: delete {part.path.parent.name}/"
            f"{part.path.name} and run `instsearch index` again"
        )
