"""What a data set of a part may be: looked at before HDF5 reads a byte of it (SPEC.md, section 2).

HDF5 and its filters trust what a file says of itself. So a data set is taken only where all its bytes are in the file
itself, its numbers lie there as they will lie in memory, and each chunk is as long as what it claims to hold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from io import FileIO

CHUNK = 2**24  #: bytes of a chunk at most
SHUFFLE, FLETCHER32, ZSTD = 2, 3, 32015
FILTERS = {
    "": ((FLETCHER32,),),
    "zstd": ((FLETCHER32,), (ZSTD, FLETCHER32)),
    "shuffle+zstd": ((FLETCHER32,), (ZSTD, FLETCHER32), (SHUFFLE, ZSTD, FLETCHER32)),
}
"""The filters that a field may have, by what it is written with: those, or fewer."""

_FRAME, _FRAME_HEADER = b"\x28\xb5\x2f\xfd", 18  # how a frame of zstd begins, and the most its header has


class UnsoundError(ValueError):
    """A data set is not one that a part may have; the message says why."""


def sound(h5: h5py.File, name: str, file: FileIO, filters: str | None) -> Any:
    """The data set of a name, once it has been looked at. Raises :class:`UnsoundError`.

    file: the same file, open; filters: a key of FILTERS for one in chunks, None for one that may be memory-mapped
    """
    place = name.encode()
    if h5.id.links.get_info(place).type != h5py.h5l.TYPE_HARD:  # pyright: ignore[reportAttributeAccessIssue]
        raise UnsoundError(f"{name} is a link")
    try:
        dataset = h5py.h5d.open(h5.id, place)
    except KeyError as error:
        raise UnsoundError(f"{name} is no data set") from error
    plan = dataset.get_create_plist()
    layout = plan.get_layout()
    if layout not in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS) or plan.get_external_count():
        raise UnsoundError(f"the bytes of {name} are not in the file itself")
    shape, stored = dataset.shape, dataset.get_type()
    if shape is None:
        raise UnsoundError(f"{name} has no shape")
    dtype = stored.dtype
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.newbyteorder("<") == dtype
    if not plain or not stored.equal(h5py.h5t.py_create(dtype, logical=True)):
        raise UnsoundError(f"{name} is {dtype}")
    length = file.seek(0, 2)
    if layout == h5py.h5d.CONTIGUOUS:
        nbytes = math.prod(shape) * dtype.itemsize
        if filters is not None and nbytes:
            raise UnsoundError(f"{name} lies in no chunks, which have checksums")
        if dataset.get_storage_size() != nbytes or (nbytes and dataset.get_offset() + nbytes > length):
            raise UnsoundError(f"{name} is not all there")
    elif filters is None:
        raise UnsoundError(f"{name} lies in chunks")
    else:
        _check_chunks(dataset, name, dtype.itemsize, file, length, plan, FILTERS[filters])
    return h5py.Dataset(dataset)


def _check_chunks(
    dataset: Any, name: str, itemsize: int, file: FileIO, length: int, plan: Any, allowed: Any
) -> None:
    """Filters are those allowed, and every chunk is there once, in the file, as long as it claims."""
    shape, step = dataset.shape, plan.get_chunk()
    nbytes = math.prod(step) * itemsize
    if nbytes > CHUNK:
        raise UnsoundError(
            f"a chunk of {name} has {nbytes:,} bytes where {CHUNK:,} are the most there can be"
        )
    filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
    codes = tuple(code for code, *_ in filters)
    if codes not in allowed:
        raise UnsoundError(f"{name} has filters {', '.join(map(str, codes)) or 'none'}")
    for code, _, values, _ in filters:
        if (code == SHUFFLE and tuple(values) != (itemsize,)) or len(values) > 1:
            raise UnsoundError(f"a filter of {name} has parameters {', '.join(map(str, values))}")
    chunks: list[Any] = []
    dataset.chunk_iter(chunks.append)
    wanted = math.prod(-(-have // one) for have, one in zip(shape, step, strict=True))
    places = {chunk.chunk_offset for chunk in chunks}
    if not len(chunks) == len(places) == wanted or any(
        at >= have for place in places for at, have in zip(place, shape, strict=True)
    ):
        raise UnsoundError(f"{name} has {len(places)} of {wanted} chunks")
    if sum(chunk.size for chunk in chunks) > length:
        raise UnsoundError(f"chunks of {name} lie in the same place")
    for chunk in chunks:
        if chunk.filter_mask or not 0 <= chunk.byte_offset <= length - chunk.size:
            raise UnsoundError(f"a chunk of {name} is not all there, or not filtered as the others")
        if ZSTD in codes:
            file.seek(chunk.byte_offset)
            held = frame_content(file.read(min(_FRAME_HEADER, chunk.size)))
        else:
            held = chunk.size - 4  # behind them is the checksum
        if held != nbytes:
            raise UnsoundError(f"a chunk of {name} holds {held} bytes where {nbytes} are wanted")


def frame_content(head: bytes) -> int | None:
    """How many bytes a frame of zstd says it holds, by its first bytes; None if it does not say (RFC 8878, 3.1.1.1)."""
    if len(head) < 6 or head[:4] != _FRAME:
        return None
    descriptor = head[4]
    single, dictionary = descriptor >> 5 & 1, (0, 1, 2, 4)[descriptor & 3]
    size = (single, 2, 4, 8)[descriptor >> 6]
    at = 5 + (not single) + dictionary
    if not size or len(head) < at + size:
        return None
    return int.from_bytes(head[at : at + size], "little") + (256 if size == 2 else 0)


def finite(array: np.ndarray) -> bool:
    """Whether there is no infinity and no NaN among floats; True for other numbers."""
    if (
        array.dtype == np.float16
    ):  # by their bits, where both zeros and all numbers lie below: nine times as fast
        array = np.ascontiguousarray(array)
        return not array.size or bool(array.view("i2").max() < 0x7C00 and array.view("u2").max() < 0xFC00)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
