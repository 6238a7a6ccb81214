"""Reading MATLAB 5 files that nobody vouches for: numbers, text, cells and structs, everything within bounds.

SciPy's reader follows the lengths and the nesting that a file claims and dies with it (a segmentation fault) if
they are wrong; this one raises ValueError.

Reference: MathWorks, "MAT-File Format", version 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

HEADER = 128
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, NUMERIC = 1, 2, 4, range(6, 16)
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
COMPLEX = 0x0800
DEEPEST = 16
MOST_ARRAYS = 100_000
MOST_VARIABLES = 10_000  #: elements of a file's top level
MOST_FIELDS = 1_000  #: of a struct
AXES = 32
MOST_BYTES = 64 << 20  #: decompressed


def read_mat(
    data: bytes, wanted: Collection[str], most_bytes: int = MOST_BYTES, lenient: bool = False
) -> dict[str, Any]:
    """The wanted variables of a MATLAB 5 file: name -> value; those that it has not are left out.

    Numbers come as an array of the MATLAB shape, in the type they are stored in, which may be narrower than
    the class they had; text as str; a cell array as a list and a struct array as a list of dicts, both in
    column-major order.

    Raises ValueError for a file that is damaged, of another version, that decompresses to more than
    ``most_bytes``, or that holds other things, complex numbers, sparse arrays and objects say, among the wanted;
    ``lenient``, these are None.
    """
    reader = _Reader(data, lenient)
    return {name: reader.array(body) for name, body in reader.variables(data, most_bytes) if name in wanted}


def list_mat(data: bytes, most_bytes: int = MOST_BYTES) -> dict[str, tuple[int, ...]]:
    """The numeric variables of a MATLAB 5 file: name -> shape. Raises ValueError as :func:`read_mat` does."""
    reader = _Reader(data)
    found = {}
    for name, body in reader.variables(data, most_bytes):
        kind, shape = reader.kind(body)
        if kind in NUMERIC:
            found[name] = shape
    return found


class _Reader:
    def __init__(self, data: bytes, lenient: bool = False) -> None:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
        newer = " but a 7.3 one" if b"MATLAB 7.3" in data[:20] else ""
        if order is None or newer:
            raise ValueError(f"not a MATLAB 5 file{newer}")
        self.order, self.tag, self.left = order, struct.Struct(order + "II"), MOST_ARRAYS
        self.lenient = lenient

    def variables(self, data: bytes, most_bytes: int) -> Iterator[tuple[str, memoryview]]:
        """The name and the body of each variable, decompressed, ``most_bytes`` in all."""
        for number, (kind, body) in enumerate(self.elements(memoryview(data)[HEADER:])):
            if number >= MOST_VARIABLES:
                raise ValueError("too many variables")
            if kind == COMPRESSED:
                inflater = zlib.decompressobj()
                try:
                    inflated = inflater.decompress(body, most_bytes + 1)
                except zlib.error as error:
                    raise ValueError(f"damaged: {error}") from error
                most_bytes -= len(inflated)
                if most_bytes < 0:
                    raise ValueError("too large when decompressed")
                kind, body = next(self.elements(memoryview(inflated)), (0, body))
            if kind == MATRIX:
                yield self.name(body), body

    def elements(self, view: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Type and bytes of each element; those of up to 4 bytes may lie within their tag."""
        at = 0
        while at < len(view):
            if at + 8 > len(view):
                raise ValueError("cut short")
            kind, length = self.tag.unpack_from(view, at)
            start = at + 8
            if kind >> 16:
                kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
                end, at = min(start + length, start + 4), start + 4
            else:
                end = start + length
                at = end if kind == COMPRESSED else end + -length % 8
            if end > len(view) or end - start != length:
                raise ValueError("cut short")
            yield kind, view[start:end]

    def name(self, body: memoryview) -> str:
        """The name of a variable, without reading its value."""
        parts = self.elements(body)
        *_, (_, name) = (self._next(parts) for _ in range(3))
        return bytes(name).decode("latin-1")

    def kind(self, body: memoryview) -> tuple[int, tuple[int, ...]]:
        """The class of a variable, 0 where it is complex, and its shape, without reading its value."""
        if not len(body):
            return 0, (0, 0)
        parts = self.elements(body)
        flags, shape = self._integers(parts)[0], self._integers(parts)
        return 0 if flags & COMPLEX else flags & 0xFF, tuple(shape)

    def array(self, body: memoryview, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise ValueError("too many arrays, or nested too deep")
        if not len(body):
            return np.empty((0, 0))
        parts = self.elements(body)
        flags = self._integers(parts)[0]
        kind = flags & 0xFF
        if self.lenient and (flags & COMPLEX or kind not in (CELL, STRUCT, CHAR, *NUMERIC)):
            return None
        shape = self._integers(parts)
        self._next(parts)
        size = math.prod(shape)
        if flags & COMPLEX or min(shape) < 0:
            raise ValueError("complex numbers, or no shape")
        if kind in NUMERIC:
            values = self._numbers(*self._next(parts)) if size else np.empty(0)
            return values.reshape(shape, order="F")
        if kind == CHAR:
            return self._text(*self._next(parts)) if size else ""
        if kind == CELL:
            return [self._value(parts, depth) for _ in range(size)]
        if kind == STRUCT:
            width = self._integers(parts)[0]
            names = bytes(self._next(parts)[1])
            if width < 1 or len(names) > width * MOST_FIELDS:
                raise ValueError("field names without length, or too many")
            fields = [
                names[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), width)
            ]
            return [{f: self._value(parts, depth) for f in fields} for _ in range(size if fields else 0)]
        raise ValueError(f"an array of class {kind}")

    def _value(self, parts: Iterator[tuple[int, memoryview]], depth: int) -> Any:
        kind, body = self._next(parts)
        if kind != MATRIX:
            raise ValueError(f"type {kind} where an array was expected")
        return self.array(body, depth + 1)

    def _integers(self, parts: Iterator[tuple[int, memoryview]]) -> list[int]:
        numbers = self._numbers(*self._next(parts))
        if numbers.dtype.kind not in "iu" or not 0 < len(numbers) <= AXES:
            raise ValueError("whole numbers were expected")
        integers: list[int] = numbers.tolist()
        return integers

    def _numbers(self, kind: int, body: memoryview) -> np.ndarray:
        if kind not in STORED:
            raise ValueError(f"type {kind} where numbers were expected")
        return np.frombuffer(body, self.order + STORED[kind]) if len(body) else np.empty(0)

    def _text(self, kind: int, body: memoryview) -> str:
        codec = TEXT.get(kind)
        if codec is None:
            raise ValueError(f"type {kind} where text was expected")
        if codec in ("utf-16", "utf-32"):
            codec += "-le" if self.order == "<" else "-be"
        return bytes(body).decode(codec)

    @staticmethod
    def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
        part = next(parts, None)
        if part is None:
            raise ValueError("cut short")
        return part
