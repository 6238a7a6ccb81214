"""The encodings: which arrays an item has, and how items lie one after another (SPEC.md is the text).

An *item* is what one image has in a layer: a dict of arrays. A part concatenates the items of its rows
and keeps pointers to find them again. A field lies on one of three levels:

    0  one entry per image                     grid[n, 2]
    1  n entries per image, by the pointer     values[sum n, D]     pointer[0] i64[images + 1]
    2  m entries per such entry (csr only)     indices[nnz]         pointer[1] i64[sum n + 1]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from instsearch_formats.datasets import finite
from instsearch_formats.errors import FormatError

Item = dict[str, Any]

FLOATS = ("<f2", "<f4")
ITEM = 2**30  #: bytes of an item at most


@dataclass(frozen=True)
class Field:
    """One array of an encoding.

    dtypes  what it may be on disk; the only one is what other numbers are converted to
    tail    its shape behind the first axis; None is any width from 1
    like    the field that has as many columns, where the encoding wants that
    """

    name: str
    level: int
    dtypes: tuple[str, ...]
    tail: tuple[int | None, ...] = ()
    optional: bool = False
    filters: str = ""  #: "zstd", "shuffle+zstd" or none, by what benchmarks/compression.py says
    like: str = ""


@dataclass(frozen=True)
class Encoding:
    """A named, versioned set of fields.

    pointers  names of the pointer arrays, level by level
    gridded   an item has one level 1 entry per cell of its grid, or grids (unless it has a geometry)
    sparse    the level 2 fields are the rows of a sparse matrix with item["dim"] columns
    """

    name: str
    version: int
    fields: tuple[Field, ...]
    pointers: tuple[str, ...] = ("indptr",)
    gridded: bool = False
    sparse: bool = False

    def normalise(self, item: Item) -> Item:
        """Check one item and bring it to the dtypes on disk; FormatError says what does not fit."""
        known = {field.name for field in self.fields} | ({"indptr", "dim"} if self.sparse else set())
        unknown = sorted(set(item) - known)
        if unknown:
            raise FormatError(f"encoding {self.name} has no {', '.join(unknown)}")
        if self.sparse:
            item = _check_sparse(item)
        out: Item = {}
        lengths: dict[int, int] = {}
        for field in self.fields:
            if field.optional and item.get(field.name) is None:
                continue
            if field.name not in item:
                raise FormatError(f"encoding {self.name} wants {field.name}; the item has {sorted(item)}")
            array = _convert(field, item[field.name])
            if field.level:
                n = lengths.setdefault(field.level, len(array))
                if len(array) != n:
                    raise FormatError(f"{field.name} has {len(array)} entries where {n} are wanted")
            out[field.name] = array
        self._check_widths(out)
        self._check_grids(out, lengths[1])
        if self.sparse:
            if len(item["indptr"]) != lengths[1] + 1:
                raise FormatError(
                    f"indptr has {len(item['indptr'])} entries where {lengths[1] + 1} are wanted"
                )
            out.update(indptr=item["indptr"], dim=item["dim"])
        return out

    def check(self, block: Item) -> None:
        """What shapes do not say of arrays that were read, of one image or of a run of them: ValueError if it is amiss.

        Floats are finite; a grid has as many cells as its image has entries; indices of csr ascend in their rows and
        are below dim.
        """
        for field in self.fields:
            if field.name in block and not finite(block[field.name]):
                raise ValueError(f"{field.name} is not finite")
        for name in ("grid", "grids"):
            if name not in block:
                continue
            if (block[name] < 0).any():
                raise ValueError(f"{name} is negative")
            if self.gridded and "geometry" not in block and "indptr" in block:
                cells = block[name].astype(np.int64).prod(-1).reshape(len(block["indptr"]) - 1, -1).sum(1)
                if (cells != np.diff(block["indptr"])).any():
                    raise ValueError(f"{name} does not have as many cells as there are entries")
        if self.sparse and "indices" in block:
            indices, ends = block["indices"], block["indptr"]
            if indices.size and indices.max() >= block["dim"]:
                raise ValueError("indices are out of range")
            falls = indices[1:] <= indices[:-1]
            falls[ends[(ends > 0) & (ends < len(indices))] - 1] = False
            if falls.any():
                raise ValueError("indices do not ascend in each row")

    def _check_widths(self, item: Item) -> None:
        for field in self.fields:
            if field.like and field.name in item:
                other = next(f for f in self.fields if f.name == field.like)
                have, want = (item[f.name].shape[bool(f.level)] for f in (field, other))
                if have != want:
                    raise FormatError(f"{field.name} is of {have} where {other.name} is of {want}")

    def _check_grids(self, item: Item, cells: int) -> None:
        for name in ("grid", "grids"):
            if name not in item:
                continue
            if (item[name] < 0).any():
                raise FormatError(f"a grid of {item[name].tolist()} is none")
            if self.gridded and "geometry" not in item and cells_of(item[name]) != cells:
                raise FormatError(f"a grid of {item[name].tolist()} does not have {cells} cells")


def _convert(field: Field, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if len(field.dtypes) == 1:
        dtype = np.dtype(field.dtypes[0])
        if not _fits(array, dtype):
            raise FormatError(f"{field.name} is {array.dtype} where {dtype} is wanted")
        array = array.astype(dtype, copy=False)
    else:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in [np.dtype(dtype) for dtype in field.dtypes]:
            wanted = ", ".join(np.dtype(dtype).name for dtype in field.dtypes)
            raise FormatError(f"{field.name} is {array.dtype} where one of {wanted} is wanted")
    shape = array.shape[1:] if field.level else array.shape
    if array.ndim < bool(field.level) or not fits_tail(field, shape):
        wide = ("n",) * bool(field.level) + tuple("D" if d is None else str(d) for d in field.tail)
        raise FormatError(f"{field.name} has shape {array.shape} where [{', '.join(wide)}] is wanted")
    if not finite(array):
        raise FormatError(f"{field.name} has infinities, or what is no number")
    return array


def _fits(array: np.ndarray, dtype: np.dtype[Any]) -> bool:
    """Whether numbers survive the conversion, but for the precision of floats."""
    if dtype.kind == "f":
        return array.dtype.kind in "biuf"
    if array.dtype.kind not in "biu":
        return False
    info = np.iinfo(dtype)
    return not array.size or bool(array.min() >= info.min and array.max() <= info.max)


def fits_tail(field: Field, shape: tuple[int, ...]) -> bool:
    """Whether the axes behind the first are as the field wants them."""
    return len(shape) == len(field.tail) and all(
        have == want if want is not None else have > 0 for have, want in zip(shape, field.tail, strict=True)
    )


def _check_sparse(item: Item) -> Item:
    """indices in range and ascending in each row, as u16 where the dimension allows it, else u32."""
    for name in ("dim", "indptr", "indices"):
        if name not in item:
            raise FormatError(f"encoding csr wants {name}; the item has {sorted(item)}")
    dim, indptr, indices = int(item["dim"]), np.asarray(item["indptr"]), np.asarray(item["indices"])
    if not 0 < dim <= 2**32:
        raise FormatError(f"dim is {dim} where 1 to 2^32 is wanted")
    if indptr.ndim != 1 or indices.ndim != 1 or indptr.dtype.kind not in "iu":
        raise FormatError("indptr and indices are flat arrays of integers")
    indptr = indptr.astype(np.int64, copy=False)
    if not climbs(indptr, len(indices)):
        raise FormatError(f"indptr does not run from 0 to {len(indices)} without falling")
    if indices.size and indices.dtype.kind not in "iu":
        raise FormatError(f"indices is {indices.dtype} where integers are wanted")
    if indices.size and (indices.min() < 0 or indices.max() >= dim):
        raise FormatError(f"indices run from {indices.min()} to {indices.max()}, out of 0 to {dim - 1}")
    falls = np.flatnonzero(indices[1:] <= indices[:-1]) + 1
    if not np.isin(falls, indptr).all():
        raise FormatError("indices do not ascend in each row")
    narrow = indices.astype(index_dtype(dim), copy=False)
    return {**item, "dim": dim, "indptr": indptr, "indices": narrow}


def index_dtype(dim: int) -> np.dtype[Any]:
    """The dtype of csr indices in ``dim`` columns."""
    return np.dtype("<u2" if dim <= 2**16 else "<u4")


def cells_of(grids: np.ndarray) -> int:
    """How many cells a grid [2] has, or several [S, 2] together."""
    return int(grids.prod(-1, dtype=np.int64).sum())


def climbs(pointer: np.ndarray, total: int) -> bool:
    """Whether a pointer begins at 0, never falls, and ends at ``total``."""
    return bool(len(pointer) and pointer[0] == 0 and pointer[-1] == total and (np.diff(pointer) >= 0).all())


_GRID = (Field("grid", 0, ("<i4",), (2,)), Field("transform", 0, ("<f8",), (4,)))
_POINTS = Field("geometry", 1, ("<f4",), (4,), filters="zstd")
_BOXES = Field("boxes", 1, ("<f4",), (4,))

ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding(
            "dense-map",
            1,
            (
                Field("values", 1, (*FLOATS, "|u1"), (None,), filters="zstd"),
                *_GRID,
                Field("logits", 0, ("<f4",), (None,), optional=True),
                Field("cam", 1, FLOATS, (None,), optional=True, filters="zstd"),
            ),
            gridded=True,
        ),
        Encoding(
            "pyramid",
            1,
            (
                Field("values", 1, (*FLOATS, "|u1"), (None,), filters="zstd"),
                Field("grids", 0, ("<i4",), (None, 2)),
                Field("transforms", 0, ("<f8",), (None, 4), like="grids"),
            ),
            gridded=True,
        ),
        Encoding(
            "keypoints",
            1,
            (Field("values", 1, ("|u1", *FLOATS), (None,), filters="zstd"), _POINTS, *_GRID),
        ),
        Encoding(
            "word-map",
            1,
            (
                Field("words", 1, ("<u2", "<u4"), filters="zstd"),
                replace(_POINTS, optional=True),
                Field("signatures", 1, ("<u8",), optional=True, filters="zstd"),
                *_GRID,
            ),
            gridded=True,
        ),
        Encoding(
            "weight-map",
            1,
            (
                Field("values", 1, (*FLOATS, "|u1"), (None,), filters="zstd"),
                *_GRID,
                Field("classes", 0, ("<i4",), (None,), optional=True, like="values"),
            ),
            gridded=True,
        ),
        Encoding(
            "regions",
            1,
            (
                _BOXES,
                Field("scores", 1, ("<f4",)),
                Field("masks", 1, ("|u1",), (98,), optional=True, filters="zstd"),
                Field("classes", 1, ("<i4",), optional=True),
            ),
        ),
        Encoding("vectors", 1, (Field("vectors", 1, (*FLOATS, "|u1", "|i1"), (None,)), _BOXES)),
        Encoding(
            "csr",
            1,
            (
                Field("indices", 2, ("<u2", "<u4"), filters="shuffle+zstd"),
                Field("data", 2, (*FLOATS, "|u1", "<u2"), filters="zstd"),
                _BOXES,
            ),
            pointers=("rows", "indptr"),
            sparse=True,
        ),
        Encoding("arrays", 1, (), pointers=()),
        Encoding(
            "images",
            1,
            (
                Field("name", 1, ("|u1",), filters="zstd"),
                Field("root", 0, ("<u4",)),
                Field("size", 0, ("<u4",), (2,)),
                Field("nbytes", 0, ("<i8",)),
                Field("mtime_ns", 0, ("<i8",)),
                Field("digest", 0, ("|u1",), (32,)),
            ),
        ),
    )
}
"""Every encoding that this version reads and writes, by name."""
