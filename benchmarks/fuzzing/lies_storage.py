"""Lies in how a data set is stored: links, filters, chunks, layouts, places outside the file, claims of length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin
import numpy as np

from fuzzing.lies_values import Lie, UnfitError, put, values

if TYPE_CHECKING:
    from random import Random

FILTERS: tuple[dict[str, Any], ...] = (
    {"compression": "gzip", "compression_opts": 9},
    {"compression": "lzf"},
    {"compression": "szip"},
    {"shuffle": True},
    {"fletcher32": True},
    {"scaleoffset": 2},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    dict(hdf5plugin.Blosc()),
    dict(hdf5plugin.Blosc2()),
    dict(hdf5plugin.Bitshuffle()),
    dict(hdf5plugin.LZ4()),
    dict(hdf5plugin.BZip2()),
    dict(hdf5plugin.Zfp(reversible=True)),
    dict(hdf5plugin.SZ(absolute=1e-4)),
    dict(hdf5plugin.SZ3()),
    dict(hdf5plugin.Sperr()),
    {**hdf5plugin.Zstd(clevel=19), "fletcher32": True},
    {**hdf5plugin.Zstd(), "shuffle": True},
    {"fletcher32": True, "chunks": "ones"},
)


def other_filters(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    how = dict(chance.choice(FILTERS))
    chunks = array.shape if how.get("chunks") != "ones" else (1, *array.shape[1:])
    try:
        put(file, name, array, **{**how, "chunks": chunks})
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UnfitError from error


def raw_chunks(file: h5py.File, name: str, chance: Random) -> None:
    """Chunks of bytes that are shorter, longer or other than they claim, with and without a mask of filters."""
    array = values(file, name)
    filters: dict[str, Any] = chance.choice(
        (
            {"fletcher32": True},
            {**hdf5plugin.Zstd(clevel=1), "fletcher32": True},
            {"shuffle": True, **hdf5plugin.Zstd(clevel=1), "fletcher32": True},
            dict(hdf5plugin.Zstd(clevel=1)),
        )
    )
    data = put(file, name, array, chunks=array.shape, **filters)
    data.flush()
    start = (0,) * array.ndim
    _, whole = data.id.read_direct_chunk(start)
    content = bytearray(whole)
    how = chance.randrange(7)
    if how == 0:
        content = content[: chance.choice((0, 1, 4, 8, len(content) // 2, len(content) - 1))]
    elif how == 1:
        content += b"\0" * chance.choice((1, 4, 1000, 2**20))
    elif how == 2:
        content = bytearray(chance.randbytes(chance.choice((4, len(content), 100_000))))
    elif how == 3:
        content = bytearray(b"\1\0\0\0\1\0\0\0")
    elif how == 4:  # another length in the frame's head
        at = content.find(b"\x28\xb5\x2f\xfd")
        if at < 0:
            raise UnfitError
        content[at + 4 : at + 4 + chance.choice((1, 2, 9))] = chance.randbytes(1) * chance.choice((1, 2, 9))
    elif how == 5:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        content = bytearray(_empty_frame(chance))
    data.id.write_direct_chunk(start, bytes(content), filter_mask=chance.choice((0, 0, 0, 1, 2, 3, 7, 2**31)))


def _empty_frame(chance: Random) -> bytes:
    """A frame of zstd that states a large content, or none, in front of nothing much."""
    size = chance.choice((2**20, 2**30, 2**40, 2**63))
    sized = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\0\0"
    runs = b"".join(((2**17 << 3) | 2).to_bytes(3, "little") + b"\0" for _ in range(200))
    return chance.choice((sized, b"\x28\xb5\x2f\xfd\x00\x58" + runs + b"\x01\0\0", sized[:13] + runs))


def claims(file: h5py.File, name: str, chance: Random) -> None:
    """A shape of up to 2^40 rows, with the chunks that there were, or in one large chunk."""
    array = values(file, name)
    rows = chance.choice((len(array) + 1, 2**20, 2**31, 2**33, 2**40))
    tail = array.shape[1:]
    how: dict[str, Any] = {"fletcher32": True} if chance.random() < 0.5 else dict(hdf5plugin.Zstd())
    step = chance.choice((array.shape[0], min(rows, 2**22 // max(1, array[0].nbytes)), 1))
    del file[name]
    data = file.create_dataset(name, (rows, *tail), array.dtype, chunks=(max(1, step), *tail), **how)
    data[:1] = array[:1]


def empty_claims(file: h5py.File, name: str, chance: Random) -> None:
    """Contiguous, of a great length, and without a byte on the disk."""
    array = values(file, name)
    rows = chance.choice((len(array), 2**20, 2**33, 2**45))
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    del file[name]
    space = h5py.h5s.create_simple((rows, *array.shape[1:]))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(array.dtype), space, plan)


def same_chunks(file: h5py.File, name: str, chance: Random) -> None:
    """Many chunks that lie in one place would be one: many equal small chunks that claim 16 MiB each."""
    array = values(file, name)
    step = 2**22 // array.dtype.itemsize
    tail = array.shape[1:]
    n = chance.choice((3, 300))
    del file[name]
    rows = max(1, step // max(1, int(np.prod(tail))))
    data = file.create_dataset(
        name, (rows * n, *tail), array.dtype, chunks=(rows, *tail), **hdf5plugin.Zstd(), fletcher32=True
    )
    data[:rows] = 0
    data.flush()
    _, stored = data.id.read_direct_chunk((0,) * array.ndim)
    for i in range(1, n):
        data.id.write_direct_chunk((i * rows,) + (0,) * len(tail), stored)


def links(file: h5py.File, name: str, chance: Random) -> None:
    """A link of another kind: out of the file, to itself, to nothing, to another data set."""
    names = [other for other in file if other != name]
    targets = (
        h5py.ExternalLink("/etc/passwd", "/x"),
        h5py.ExternalLink(file.filename, f"/{name}"),
        h5py.ExternalLink("/dev/zero", "/x"),
        h5py.SoftLink(f"/{name}"),
        h5py.SoftLink("/nothing"),
        h5py.SoftLink(f"/{chance.choice(names)}" if names else "/"),
    )
    target = chance.choice(targets)
    if chance.random() < 0.5:
        file.move(name, "elsewhere")
        target = chance.choice((h5py.SoftLink("/elsewhere"), h5py.ExternalLink(file.filename, "/elsewhere")))
    else:
        del file[name]
    file[name] = target


def hard_links(file: h5py.File, name: str, chance: Random) -> None:
    """Two names for one data set, or the name of a data set for the root group."""
    names = [other for other in file if other != name]
    if not names:
        raise UnfitError
    del file[name]
    file[name] = file[chance.choice(names)] if chance.random() < 0.8 else file["/"]


def virtual(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    source = chance.choice((".", file.filename, "/etc/passwd", "nothing.h5"))
    layout[...] = h5py.VirtualSource(source, chance.choice((name, "elsewhere")), array.shape, array.dtype)
    file.move(name, "elsewhere")
    file.create_virtual_dataset(name, layout)


def outside(file: h5py.File, name: str, chance: Random) -> None:
    """The bytes lie in another file."""
    array = values(file, name)
    del file[name]
    place = [(chance.choice(("/etc/passwd", "/dev/zero", "lock", "nothing")), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(name, array.shape, array.dtype, external=place)


def compact(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    if array.nbytes > 60_000:
        raise UnfitError
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    del file[name]
    kind, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
    h5py.h5d.create(file.id, name.encode(), kind, space, plan).write(h5py.h5s.ALL, h5py.h5s.ALL, array)


def other_layout(file: h5py.File, name: str, chance: Random) -> None:
    """Contiguous where chunks are wanted, and the other way round."""
    array = values(file, name)
    arrays = file.attrs["encoding-type"] == b"arrays"
    del file[name]
    more: dict[str, Any] = {"chunks": True, "maxshape": (None, *array.shape[1:])} if arrays else {}
    file.create_dataset(name, data=array, **more)


def other_things(file: h5py.File, name: str, chance: Random) -> None:
    """A group, or a type, in the place of the data set."""
    del file[name]
    if chance.random() < 0.5:
        file.create_group(name)["x"] = np.arange(3)
    else:
        file[name] = np.dtype("f4")


def committed(file: h5py.File, name: str, chance: Random) -> None:
    """The data set's type is one that has a name of its own."""
    array = values(file, name)
    file["the type"] = array.dtype
    how = {} if file.attrs["encoding-type"] == b"arrays" else {"chunks": array.shape, "fletcher32": True}
    del file[name]
    file.create_dataset(name, array.shape, file["the type"], **how)[...] = array


def filled(file: h5py.File, name: str, chance: Random) -> None:
    """Chunks that are not there, which HDF5 would make of a fill value."""
    array = values(file, name)
    del file[name]
    step = (1, *array.shape[1:])
    data = file.create_dataset(name, array.shape, array.dtype, chunks=step, fletcher32=True, fillvalue=7)
    if len(array) > 1:
        data[:1] = array[:1]


LIES: dict[str, Lie] = {
    "other filters": other_filters,
    "raw chunks": raw_chunks,
    "claims": claims,
    "claims without bytes": empty_claims,
    "many small chunks": same_chunks,
    "links": links,
    "hard links": hard_links,
    "virtual": virtual,
    "outside the file": outside,
    "compact": compact,
    "other layout": other_layout,
    "no data set": other_things,
    "committed type": committed,
    "missing chunks": filled,
}
