"""Files of an index that lie, with seals that fit: what a stranger could hand over."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin
import numpy as np

from fuzzing.shelf import KINDS, Shelf, verbs
from instsearch_formats import seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = "a number within its range"


def resealed(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a file through HDF5 and seal it anew. Raises what HDF5 says of a change that it does not make."""
    raw = path.with_suffix(".raw")
    raw.write_bytes(path.read_bytes())
    try:
        with h5py.File(raw, "r+", locking=False) as file:
            change(file)
        body = raw.read_bytes()[seal.SIZE :]
    finally:
        raw.unlink()
    written = seal.read(path).written_by
    path.write_bytes(seal.Seal(written, len(body), hashlib.sha256(body).hexdigest()).encode() + body)


def again(file: h5py.File, name: str, data: np.ndarray, **how: Any) -> None:
    """A data set in place of another, stored as that was unless ``how`` says otherwise."""
    old: Any = file[name]
    plain = {
        "chunks": data.shape if data.size and data.ndim else None,
        "fletcher32": bool(data.size and data.ndim),
    }
    stored = {} if old.chunks is None and not how else plain | how
    del file[name]
    file.create_dataset(name, data=data, **stored)


def value(rng: np.random.Generator, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return [np.nan, np.inf, -np.inf, -1.0, 0.0, float(np.finfo(dtype).max), 1e-30][int(rng.integers(7))]
    if dtype.kind == "b":
        return True
    info = np.iinfo(dtype)
    return [info.min, info.max, 0, 1, info.max // 2, info.max // 3][int(rng.integers(6))]


def lies(rng: np.random.Generator, file: h5py.File, tmp: Path) -> tuple[str, Callable[[h5py.File], None]]:
    """A lie about one data set or attribute."""
    names = sorted(file)
    name = names[int(rng.integers(len(names)))]
    stored: Any = file[name]
    data = np.asarray(stored[()])
    options: dict[str, Callable[[h5py.File], None]] = {}

    def put(label: str, change: Callable[[h5py.File], None]) -> None:
        options[f"{name}: {label}"] = change

    def numbers(f: h5py.File) -> None:
        array = data.copy()
        flat = array.reshape(-1)
        for _ in range(int(rng.integers(1, 4))):
            if flat.size:
                flat[int(rng.integers(flat.size))] = value(rng, array.dtype)
        again(f, name, array)

    for _ in range(4):
        put(f"numbers {rng.integers(99)}", numbers)
    put("nothing", lambda f: again(f, name, data[:0] if data.ndim else data))
    put("shorter", lambda f: again(f, name, data[:-1] if data.ndim else data))
    put("longer", lambda f: again(f, name, np.concatenate([data, data]) if data.ndim else data))
    put("turned", lambda f: again(f, name, data.T.copy()))
    put("flat", lambda f: again(f, name, data.reshape(-1)))
    put("one more axis", lambda f: again(f, name, data[None]))
    for dtype in ("f8", "i1", "u8", ">f4", ">i8", "c8", "S3"):
        put(dtype, lambda f, dtype=dtype: again(f, name, data.astype(dtype)))
    put("missing", lambda f: f.__delitem__(name))
    put(
        "text",
        lambda f: (f.__delitem__(name), f.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype()))[
            1
        ],
    )
    put("a reference", lambda f: (f.__delitem__(name), f.create_dataset(name, (3,), h5py.ref_dtype))[1])
    put(
        "a ragged array",
        lambda f: (f.__delitem__(name), f.create_dataset(name, (3,), h5py.vlen_dtype("i4")))[1],
    )
    put("a group", lambda f: (f.__delitem__(name), f.create_group(name))[1])
    put("empty space", lambda f: (f.__delitem__(name), f.create_dataset(name, data=h5py.Empty("f4")))[1])
    for label, link in (
        ("a soft link", h5py.SoftLink("/elsewhere")),
        ("a link to itself", h5py.SoftLink(f"/{name}")),
        ("an external link", h5py.ExternalLink(str(tmp / "pipe"), "/x")),
        ("a link to a device", h5py.ExternalLink("/dev/zero", "/x")),
    ):
        put(label, lambda f, link=link: (f.__delitem__(name), f.__setitem__(name, link))[1])

    def external(f: h5py.File) -> None:
        del f[name]
        f.create_dataset(
            name, data.shape or (1,), data.dtype, external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]
        )

    def virtual(f: h5py.File) -> None:
        del f[name]
        layout = h5py.VirtualLayout(data.shape or (1,), data.dtype)
        layout[...] = h5py.VirtualSource(str(tmp / "pipe"), "x", shape=data.shape or (1,))
        f.create_virtual_dataset(name, layout)

    put("external storage", external)
    put("a virtual data set", virtual)
    filters: dict[str, dict[str, Any]] = {
        "gzip": {"compression": "gzip"},
        "lzf": {"compression": "lzf"},
        "zstd": dict(hdf5plugin.Zstd()),
        "blosc": dict(hdf5plugin.Blosc()),
        "bitshuffle": dict(hdf5plugin.Bitshuffle()),
        "lz4": dict(hdf5plugin.LZ4()),
        "shuffle": {"shuffle": True},
        "none": {"fletcher32": False},
    }
    for label, how in filters.items():
        put(
            label,
            lambda f, how=how: again(
                f, name, np.atleast_1d(data), **{"chunks": np.atleast_1d(data).shape, **how}
            ),
        )

    def direct(f: h5py.File) -> None:
        """A chunk that claims much and holds little."""
        n = int(rng.choice([len(np.atleast_1d(data)), 2**12, 2**20]))
        tail = data.shape[1:] if data.ndim else ()
        width = max(1, data.dtype.itemsize * int(np.prod(tail, dtype=int)))
        rows = max(1, min(n, int(rng.choice([2**24, 2**16])) // width))
        how = [dict(hdf5plugin.Zstd()), {"fletcher32": True}, dict(hdf5plugin.Zstd()) | {"fletcher32": True}][
            int(rng.integers(3))
        ]
        del f[name]
        made = f.create_dataset(name, (n, *tail), data.dtype, chunks=(rows, *tail), **how)
        stored = [
            b"",
            b"\1\0\0\0" * 2,
            b"\x28\xb5\x2f\xfd\xe0" + (3 << 30).to_bytes(8, "little") + bytes(9),
            rng.bytes(40),
        ]
        for at in range(0, min(n, rows * 50), rows):
            chunk = stored[int(rng.integers(len(stored)))]
            made.id.write_direct_chunk((at,) + (0,) * len(tail), chunk, filter_mask=int(rng.integers(3)))

    for _ in range(4):
        put(f"chunks {rng.integers(99)}", direct)
    put(
        "a huge shape",
        lambda f: (f.__delitem__(name), f.create_dataset(name, (10**12,), data.dtype, chunks=(1024,)))[1],
    )
    attributes = sorted(file.attrs)
    attribute = attributes[int(rng.integers(len(attributes)))]
    for label, new in (
        ("1", 1),
        ("-1", -1),
        ("huge", 2**62),
        ("text", np.bytes_(b"x")),
        ("a list", [1, 2]),
        ("nan", np.nan),
        ("empty", h5py.Empty("f4")),
        ("long", np.bytes_(b"[" * 60_000)),
        ("braces", np.bytes_(b"{}")),
    ):
        options[f"attribute {attribute}: {label}"] = lambda f, new=new: f.attrs.__setitem__(attribute, new)
    options[f"attribute {attribute}: missing"] = lambda f: f.attrs.__delitem__(attribute)
    labels = list(options)
    label = labels[int(rng.integers(len(labels)))]
    return label, options[label]


def trial(shelf: Shelf, seed: int, work: Path) -> tuple[str, str]:
    """One file that lies: what was tried, and the fault, "" for none."""
    rng = np.random.default_rng((2, seed))
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    made = shelf.index(kind)
    index = shelf.copy(made, work / "index")
    files = sorted(index.rglob("*.h5"))
    path = files[int(rng.integers(len(files)))]
    with h5py.File(path, locking=False) as file:
        label, change = lies(rng, file, work)
    what = f"{kind}: {path.relative_to(index)}: {label}"
    try:
        resealed(path, change)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, IndexError):
        return f"{what} (HDF5 would not write it)", ""
    fault, answered = verbs(shelf, index, made.answer)
    if not fault and answered == "differs" and "numbers" not in label and "attribute" not in label:
        fault = "another answer without a word"
    return f"{what}{', ' + PLAIN if answered == 'differs' else ''}", fault
