"""Lies in what a file says of itself: attributes, names, further contents, and HDF5's own settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from fuzzing.lies_values import Lie, UnfitError

if TYPE_CHECKING:
    from random import Random

TEXTS = ("encoding-type", "created-by", "kind", "name", "identity", "pictures", "attrs")
NUMBERS = ("encoding-version", "start", "stop")
WORDS = (
    "",
    "x" * 70_000,
    "é",
    "\0",
    "../../x",
    "dense-map",
    "csr",
    "arrays",
    "vectors",
    "99.9",
    "{}",
    "[]",
    "null",
)


def _there(file: h5py.File, names: tuple[str, ...], chance: Random) -> str:
    found = [name for name in names if name in file.attrs]
    if not found:
        raise UnfitError
    return chance.choice(found)


def _text(file: h5py.File, name: str, value: bytes) -> None:
    file.attrs.create(name, np.bytes_(value), dtype=f"S{max(1, len(value))}")


def texts(file: h5py.File, name: str, chance: Random) -> None:
    """A text that is another one."""
    attribute = _there(file, TEXTS, chance)
    was = bytes(file.attrs[attribute])
    new = chance.choice((*(w.encode() for w in WORDS), was[:-1], was + b" ", was * 2, was.swapcase()))
    if len(new) > 64_000:
        raise UnfitError
    _text(file, attribute, new)


def numbers(file: h5py.File, name: str, chance: Random) -> None:
    attribute = _there(file, NUMBERS, chance)
    was = int(file.attrs[attribute])
    file.attrs[attribute] = np.int64(chance.choice((was + 1, was - 1, -1, 0, 2**31, 2**62, was + 4, 10**6)))


def kinds(file: h5py.File, name: str, chance: Random) -> None:
    """An attribute of another type or shape, or none."""
    attribute = _there(file, TEXTS + NUMBERS, chance)
    new: Any = chance.choice(
        (
            "text of any length",
            1.5,
            np.nan,
            np.arange(4),
            np.zeros((0,), "i8"),
            h5py.Empty("S4"),
            np.array([b"a", b"b"]),
            np.bytes_(b"17"),
            np.uint64(2**64 - 1),
            np.int8(-1),
            np.complex64(1j),
            True,
            file.ref,
            None,
        )
    )
    del file.attrs[attribute]
    if new is not None:
        file.attrs[attribute] = new


def large_attributes(file: h5py.File, name: str, chance: Random) -> None:
    """Attributes that are many, or megabytes long, which HDF5 keeps in another way."""
    how = chance.randrange(3)
    if how == 0:
        for i in range(500):
            file.attrs[f"more {i}"] = i
    elif how == 1:
        file.attrs.create("more", np.zeros(4_000_000, "u1"))
    else:
        attribute = _there(file, TEXTS, chance)
        _text(file, attribute, chance.choice((b" ", b"[", b'{"a":')) * 3_000_000)


def facts(file: h5py.File, name: str, chance: Random) -> None:
    """Other facts in the JSON of named arrays, or of an identity."""
    attribute = _there(file, ("attrs", "identity"), chance)
    value = json.loads(bytes(file.attrs[attribute]))
    if not value:
        raise UnfitError
    new = chance.choice(
        (None, -1, 0, 1e308, 10**30, "x", [], {}, [[1]], True, float("nan"), "é" * 10, 10**400)
    )
    value[chance.choice(sorted(value))] = new
    _text(file, attribute, json.dumps(value).encode())


def nested(file: h5py.File, name: str, chance: Random) -> None:
    attribute = _there(file, ("attrs", "identity"), chance)
    _text(
        file,
        attribute,
        chance.choice((b"[" * 20_000, b'{"a":' * 10_000, b"[" * 900 + b"]" * 900, b"9" * 6000)),
    )


def sums(file: h5py.File, name: str, chance: Random) -> None:
    """Sums of pages that are others, none, or of another kind."""
    if "sums" not in file[name].attrs:
        raise UnfitError
    was: Any = file[name].attrs["sums"]
    del file[name].attrs["sums"]
    new: Any = chance.choice(
        (was + 1, was[:0], np.append(was, was), was.astype("f8"), "text", None, np.uint64(3))
    )
    if new is not None:
        file[name].attrs["sums"] = new


def further_data(file: h5py.File, name: str, chance: Random) -> None:
    """Data sets and groups that nobody knows, to be ignored, or refused where named arrays may have any name."""
    how = chance.randrange(7)
    if how == 0:
        for i in range(300):
            file[f"more {i}"] = np.arange(3)
    elif how == 1:
        file.create_group("more")["again"] = file["/"]
    elif how == 2:
        file["é\n\x1b[31m"] = np.arange(3)
    elif how == 3:
        file["more"] = h5py.ExternalLink("/dev/zero", "/x")
    elif how == 4:
        file.create_dataset("more", (2**40,), "f4", chunks=(2**20,), compression="gzip")
    elif how == 5:
        file["more"] = np.arange(3)
    else:
        other = chance.choice(("logits", "cam", "classes", "signatures", "geometry"))
        if other in file:
            raise UnfitError
        file[other] = np.zeros((3, 4), "f4")


def renamed(file: h5py.File, name: str, chance: Random) -> None:
    """Two data sets change their names, or one gets another."""
    names = [other for other in file if other != name]
    if names and chance.random() < 0.7:
        other = chance.choice(names)
        file.move(name, "aside")
        file.move(other, name)
        file.move("aside", other)
    else:
        file.move(name, f"{name}2")


LIES: dict[str, Lie] = {
    "other texts": texts,
    "other numbers": numbers,
    "attributes of other kinds": kinds,
    "large attributes": large_attributes,
    "nested": nested,
    "sums": sums,
    "further data": further_data,
    "renamed": renamed,
}
PLAIN: dict[str, Lie] = {"other facts": facts}
"""Statements that may be true: another answer is allowed."""
