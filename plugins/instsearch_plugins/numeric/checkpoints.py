"""Reading the checkpoints that other frameworks left behind: Lasagne's arrays, Caffe's models.

A container is known by its content, and nothing in it is trusted: what a length or a shape claims is compared
with the bytes that are there before anything is made of that size. Pickles are not read at all.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.checkpoints import LARGEST
from instsearch_cli.outside.archives import open_archive, read_npy
from instsearch_cli.outside.files import open_plain

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {
    "npz": "NumPy arrays",
    "torch": "a PyTorch checkpoint",
    "hdf5": "an HDF5 file",
    "caffe": "a Caffe model",
    "pickle": "a pickle, which can run code",
    "": "no checkpoint that is known here",
}
HDF5 = b"\x89HDF\r\n\x1a\n"
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # before torch 1.6; read without running anything
PICKLE = re.compile(rb"\x80[\x01-\x05]|\([dl]p|[}\]]q")
CAFFE = re.compile(rb"[\x0a\x12\x1a]|\xa2\x06")  # the net's name, else its first input or layer

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
LAYERS = {100: 1, 2: 4}  # NetParameter's field of layers -> the layer's field of its name; 2 is the older one
BLOBS = {100: 7, 2: 6}
DEEPEST = 8  # axes of a blob
MOST_FIELDS = 1_000_000  # of a model, each of which takes a microsecond or two


def recognise(path: Path) -> str:
    """What kind of file this is, by its content: a key of KINDS, "" for none of them."""
    with open_plain(path) as file:
        head = file.read(64)
    if head.startswith(b"PK"):
        with open_archive(path) as archive:
            names = archive.namelist()
        arrays = bool(names) and all(name.endswith(".npy") for name in names)
        return "npz" if arrays else "torch" if any(name.endswith("data.pkl") for name in names) else ""
    if head.startswith(HDF5):
        return "hdf5"
    if head.startswith(LEGACY_TORCH):
        return "torch"
    if PICKLE.match(head):
        return "pickle"
    return "caffe" if CAFFE.match(head) else ""


def refused(path: Path, published: str) -> InstsearchError:
    """The error for a file of a kind in which the network was not published."""
    kind = recognise(path)
    reason = (
        f"{KINDS[kind]}: refused" if kind == "pickle" else f"{KINDS[kind]}, in which it was not published"
    )
    return InstsearchError(f"{path}: {reason}.\nTake {published}.")


def read_lasagne(path: Path) -> list[np.ndarray]:
    """The arrays arr_0, arr_1, ... of an .npz file in this order, as Lasagne's models were saved.

    Raises InstsearchError if it is too large or damaged, or has other names or other than real numbers.
    """
    with open_archive(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        names = [f"arr_{i}.npy" for i in range(len(entries))]
        if strange := sorted(entries.keys() - set(names)):
            raise InstsearchError(
                f"{path}: not arrays as Lasagne saves them: {strange[0].removesuffix('.npy')!r} "
                f"is not among arr_0 to arr_{len(names) - 1}."
            )
        return [_read_npy(archive, entries[name]) for name in names]


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array f32, a copy that can be written to; raises ValueError unless its header agrees with its size."""
    with archive.open(entry) as file:
        values = read_npy(file, entry.file_size, "f", entry.filename)
    return np.array(values, np.float32, order="C")


def read_caffe(path: Path) -> dict[str, list[np.ndarray]]:
    """The blobs f32 of each layer of a .caffemodel that has any, in the file's order.

    A NetParameter of Caffe's, either with its layers of today (field 100) or the older ones (field 2).
    A blob without ``shape`` has its four older sides, num x channels x height x width.

    Raises InstsearchError if it is too large or damaged, or no such file.
    """
    if path.stat().st_size > LARGEST:
        raise InstsearchError(f"{path}: over {LARGEST >> 30} GB, too large for a network's weights.")
    layers: dict[str, list[np.ndarray]] = {}
    steps = iter(range(MOST_FIELDS))
    try:
        for field, value in _fields(np.memmap(path, np.uint8, "r").data, steps):
            if field not in LAYERS or isinstance(value, int):
                continue
            name, blobs = "", []
            for inner, content in _fields(value, steps):
                if isinstance(content, int):
                    continue
                if inner == LAYERS[field]:
                    name = bytes(content[:200]).decode()
                elif inner == BLOBS[field]:
                    blobs.append(_blob(content, steps))
            if blobs and name in layers:
                raise ValueError(f"two layers are called {name!r}")
            if blobs:
                layers[name] = blobs
    except ValueError as error:
        raise InstsearchError(
            f"{path}: not a Caffe model, or a damaged one: {error}. Download it again."
        ) from error
    if not layers:
        raise InstsearchError(
            f"{path}: a Caffe model without weights; a .caffemodel is needed, not a prototxt."
        )
    return layers


def _blob(message: memoryview, steps: Iterator[int]) -> np.ndarray:
    """A BlobProto: f32 of its shape. Raises ValueError unless the numbers are as many as it says."""
    older, shape = [0, 0, 0, 0], None
    values = np.empty(0, np.float32)
    for field, value in _fields(message, steps):
        if isinstance(value, int):
            if 1 <= field <= 4:
                older[field - 1] = value
        elif field == 7:
            shape = _dimensions(value, steps)
        elif field in (5, 8):
            with np.errstate(over="ignore"):  # what is too large for f32 is infinite, and said to be
                values = np.frombuffer(value, "<f4" if field == 5 else "<f8").astype(np.float32)
    shape = older if shape is None else shape
    if not len(values) or math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {tuple(shape)} has {len(values)} numbers")
    return values.reshape(shape)


def _dimensions(message: memoryview, steps: Iterator[int]) -> list[int]:
    """A BlobShape: field 1, packed or one by one."""
    shape: list[int] = []
    for field, value in _fields(message, steps):
        if field == 1 and isinstance(value, int):
            shape.append(value)
        elif field == 1 and not isinstance(value, int):
            at = 0
            while at < len(value) and len(shape) <= DEEPEST:
                side, at = _varint(value, at)
                shape.append(side)
        if len(shape) > DEEPEST:
            raise ValueError(f"a blob has over {DEEPEST} axes")
    return shape


def _fields(message: memoryview, steps: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field of a message: bytes where it has a length, else an integer.

    Raises ValueError where the message ends before a field does, has a wire type that no field has, or no ``steps`` are
    left to take.
    """
    at = 0
    while at < len(message):
        if next(steps, None) is None:
            raise ValueError(f"it has over {MOST_FIELDS:,} fields")
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"field {field} has wire type {wire}")
        length = 4 if wire == FIXED32 else 8
        if wire == BYTES:
            length, at = _varint(message, at)
        if length > len(message) - at:
            raise ValueError(f"field {field} claims {length} bytes where {len(message) - at} are left")
        content = message[at : at + length]
        yield field, content if wire == BYTES else int.from_bytes(content, "little")
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of at most ten bytes, seven bits each, least first; and where the next thing begins."""
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("an integer does not end")
