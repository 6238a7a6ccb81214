"""Lies in the numbers of a data set: their values, kind and number. Each changes one data set of an open file."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import h5py
import numpy as np


class UnfitError(Exception):
    """A lie that cannot be put into this data set."""


Lie = Callable[[h5py.File, str, Random], None]


def put(file: h5py.File, name: str, array: Any, **how: Any) -> Any:
    """Put an array in the place of a data set, stored as its file stores them if nothing else is said."""
    arrays = file.attrs["encoding-type"] == b"arrays"
    if name in file:
        del file[name]
    if not how and not arrays and array.size and array.ndim:
        how = {"chunks": array.shape, "fletcher32": True}
    return file.create_dataset(name, data=array, **how)


def values(file: h5py.File, name: str) -> np.ndarray:
    """The numbers of a data set. Raises UnfitError where there are none."""
    data: Any = file[name]
    array = np.asarray(data[()])
    if not array.size or array.ndim == 0:
        raise UnfitError
    return array


def _floats(file: h5py.File, name: str) -> np.ndarray:
    array = values(file, name)
    if array.dtype.kind != "f":
        raise UnfitError
    return array


def _some(array: np.ndarray, chance: Random) -> np.ndarray:
    """A flat view's places: one, a few, or all."""
    n = chance.choice((1, 1, 3, array.size))
    return np.array([chance.randrange(array.size) for _ in range(min(n, array.size))])


def _set(file: h5py.File, name: str, array: np.ndarray, value: Any, chance: Random) -> None:
    array.reshape(-1)[_some(array, chance)] = value
    put(file, name, array)


def not_finite(file: h5py.File, name: str, chance: Random) -> None:
    _set(file, name, _floats(file, name), chance.choice((np.nan, np.inf, -np.inf)), chance)


def extreme(file: h5py.File, name: str, chance: Random) -> None:
    """The largest, least or oddest whole number; but for the one that says of a feature that it has no word."""
    array = values(file, name)
    if array.dtype.kind not in "iu":
        raise UnfitError
    most = np.iinfo(array.dtype)
    found = (most.min, most.max, -1, 2**31, 2**31 - 1, 2**32, 2**40, 2**62, 65535, most.max - 1)
    fitting = [value for value in found if most.min <= value <= most.max - (name == "words")]
    _set(file, name, array, chance.choice(fitting), chance)


def off_by_little(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    if array.dtype.kind not in "iu":
        raise UnfitError
    at = _some(array, chance)
    array.reshape(-1)[at] += np.array(chance.choice((1, 2, 5, 100))).astype(array.dtype)
    put(file, name, array)


def large_floats(file: h5py.File, name: str, chance: Random) -> None:
    """Finite, and near the end of what there is."""
    array = _floats(file, name)
    most = float(np.finfo(array.dtype).max)
    value = chance.choice((most, -most, 1e-40, -1e-40, most / 2, 0.0, -1.0, 1e6, -0.0))
    _set(file, name, array, np.array(value).astype(array.dtype), chance)


def shuffled(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    order = list(range(len(array)))
    chance.shuffle(order)
    put(file, name, array[order])


def of_its_range(file: h5py.File, name: str, chance: Random) -> None:
    """Numbers between the least and the most that the data set has."""
    array = values(file, name)
    if array.dtype.kind == "b":
        raise UnfitError
    least, most = float(array.min()), float(array.max())
    value = np.array(chance.uniform(least, most)).astype(array.dtype)
    _set(file, name, array, value, chance)


def any_bytes(file: h5py.File, name: str, chance: Random) -> None:
    """Bytes at random, as many: of a structure that is kept as bytes, faiss's say, or of numbers."""
    array = values(file, name)
    if array.dtype.kind == "b":
        raise UnfitError
    data = bytearray(array.tobytes())
    for _ in range(chance.choice((1, 1, 2, 5, 50))):
        at = chance.randrange(len(data))
        n = chance.choice((1, 1, 4, 8))
        word = chance.choice((b"\xff" * n, b"\0" * n, chance.randbytes(n), b"\xff" * (n - 1) + b"\x7f"))
        data[at : at + n] = word[: len(data) - at]
    put(file, name, np.frombuffer(bytes(data), array.dtype).reshape(array.shape))


def falling(file: h5py.File, name: str, chance: Random) -> None:
    """Pointers that fall, jump, begin late or end far away."""
    if "ptr" not in name and "pointers" not in name and name != "rows":
        raise UnfitError
    array = values(file, name)
    flat = array.reshape(-1)
    at = chance.choice((0, len(flat) - 1, len(flat) // 2))
    flat[at] = chance.choice((-1, flat[-1] + 1, flat[-1] + 10**6, 2**40 if array.itemsize == 8 else 2**30, 1))
    put(file, name, array)


def shorter(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    put(file, name, array[: chance.choice((0, 1, len(array) - 1, len(array) // 2))])


def longer(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    put(file, name, np.concatenate([array] * chance.choice((2, 3, 50))))


def narrower(file: h5py.File, name: str, chance: Random) -> None:
    """Fewer columns, more, or none."""
    array = values(file, name)
    if array.ndim < 2:
        raise UnfitError
    n = array.shape[-1]
    columns = chance.choice(([], [0], list(range(n - 1)), [*range(n), 0], [*range(n)] * 2))
    put(file, name, array[..., np.array(columns, int)])


def other_axes(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    turned = (array.reshape(-1), array[None], array[..., None], np.array(array.T), array.sum()[...])
    put(file, name, chance.choice([other for other in turned if other.shape != array.shape]))


def other_dtype(file: h5py.File, name: str, chance: Random) -> None:
    array = values(file, name)
    names = (
        "f2",
        "f4",
        "f8",
        "i1",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        ">f4",
        ">i8",
        ">u2",
        "?",
        "c8",
        "f16",
        "S5",
    )
    with np.errstate(all="ignore"):
        put(file, name, array.astype(chance.choice(names)))


def odd_dtype(file: h5py.File, name: str, chance: Random) -> None:
    """Types that numpy has no plain one for: text, references, records, lists, floats and integers of other bits."""
    array = values(file, name)
    shape, how = array.shape, chance.randrange(10)
    del file[name]
    if how == 0:
        file.create_dataset(name, shape, h5py.string_dtype())[...] = "text"
    elif how == 1:
        file.create_dataset(name, shape, h5py.ref_dtype)[...] = file.ref
    elif how == 2:
        file.create_dataset(name, shape, h5py.regionref_dtype)
    elif how == 3:
        file.create_dataset(name, shape, h5py.vlen_dtype(array.dtype))
    elif how == 4:
        file.create_dataset(name, shape, np.dtype([("x", array.dtype), ("y", "f4")]))
    elif how == 5:
        file.create_dataset(name, shape, h5py.enum_dtype({"a": 1, "b": 2}, basetype="i4"))
    elif how == 6:
        file.create_dataset(name, shape, h5py.opaque_dtype(np.dtype("M8[s]")))
    elif how == 7:
        file.create_dataset(name, shape, np.dtype((array.dtype, (3,))))
    elif how == 8:
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(31, 23, 8, 0, 23)
        kind.set_ebias(chance.choice((0, 100, 128)))
        _raw(file, name, kind, shape)
    else:
        kind = h5py.h5t.STD_I32LE.copy()
        kind.set_precision(chance.choice((7, 17, 31)))
        kind.set_offset(chance.choice((0, 1)))
        _raw(file, name, kind, shape)


def _raw(file: h5py.File, name: str, kind: Any, shape: tuple[int, ...]) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), plan)


def nothing(file: h5py.File, name: str, chance: Random) -> None:
    """No numbers at all: the data set is gone, or has no shape."""
    data: Any = file[name]
    dtype = data.dtype
    del file[name]
    if chance.random() < 0.5:
        file[name] = h5py.Empty(dtype)


LIES: dict[str, Lie] = {
    "not finite": not_finite,
    "extreme numbers": extreme,
    "pointers": falling,
    "shorter": shorter,
    "longer": longer,
    "other columns": narrower,
    "other axes": other_axes,
    "other dtype": other_dtype,
    "odd dtype": odd_dtype,
    "nothing there": nothing,
}
PLAIN: dict[str, Lie] = {
    "off by little": off_by_little,
    "large floats": large_floats,
    "shuffled": shuffled,
    "numbers of its range": of_its_range,
    "any bytes": any_bytes,
}
"""Numbers that may be true: another answer is allowed."""
