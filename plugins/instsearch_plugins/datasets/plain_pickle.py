"""Reading a pickle from outside: containers, numbers, text and arrays of these, and nothing else.

No name in the file is ever imported. The few that numpy's arrays are written with stand for functions of this
module, which check their arguments; every other name is refused, and so is an array of Python objects.
"""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251  (its opcodes only: all names are looked up in the table below)
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT = 16 << 20
DTYPE = re.compile(r"[biufcSU]\d{1,6}|\?")


class Refused(Exception):  # noqa: N818
    """What a pickle asks for and does not get."""


class _StandIn:
    """Something a pickle may hold; it cannot be given attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("attributes of " + type(self).__name__)


class _Call(_StandIn):
    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class _DType(_StandIn):
    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not DTYPE.fullmatch(name):
            raise Refused(f"an array of type {str(name)[:40]!r}")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise Refused("an array of a structured type")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class Array(_StandIn):
    """An array in a pickle; ``np.asarray`` gives it."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _values(data, dtype, shape, "F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)


def _values(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise Refused("an array that is not written as numpy writes it")
    if isinstance(data, str):  # Python 2's text, read as Latin-1
        data = data.encode("latin1")
    kind = dtype.dtype()
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize != len(data):
        raise Refused(f"an array of shape {str(shape)[:40]} in {len(data)} bytes")
    return np.ndarray(shape, kind, bytes(data), order=order).copy()


def _reconstruct(*_: Any) -> Array:
    return Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _values(data, dtype, (), "C").item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
    array = Array()
    array.values = _values(data, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"the encoding {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """How protocols 0 to 2 write b""."""
    if arguments:
        raise Refused("bytes of something")
    return b""


def _subtype(*_: Any) -> Any:
    raise Refused("an array that is not written as numpy writes it")


NAMES: dict[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _Call(_subtype),
    ("numpy", "dtype"): _Call(_DType),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(_no_bytes),
    **{
        (f"numpy.{core}.{module}", name): _Call(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Reader(pickle._Unpickler):  # the one in C allots whatever memory a file's opcodes name
    def find_class(self, module: str, name: str) -> Any:
        try:
            return NAMES[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}"[:80]) from None

    def get_extension(self, code: int) -> Any:
        raise Refused(f"extension {code}")


def load_plain(path: Path) -> Any:
    """Read a pickle of containers, numbers, text and numeric arrays (:class:`Array`).

    Raises InstsearchError naming what else it asks for, or if it is larger than 16 MB or no pickle.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise InstsearchError(f"{path} is larger than {LIMIT >> 20} MB: not a ground truth")
        data = path.read_bytes()
    except OSError as error:
        raise InstsearchError(f"cannot read {path}: {error.strerror}") from error
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except Refused as refused:
        raise InstsearchError(
            f"{path} is refused: it asks for {refused}, and only containers, numbers, text and arrays of "
            "numbers are read from a pickle"
        ) from None
    except Exception as error:  # whatever a broken file makes the reader stumble over
        raise InstsearchError(f"{path} is not a pickle: {error or type(error).__name__}") from None
