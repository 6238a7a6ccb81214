"""Reading a pickle from outside: containers, numbers, text, arrays of these, and nothing else.

No name in the file is ever imported. Those that a reader knows stand for functions that check their arguments;
every other name is refused. What is read counts as often as it is named, so that none of it, written out or walked
through, is more than its bounds.
"""

from __future__ import annotations

import math
import pickle  # noqa: TID251  (its opcodes only: all names are looked up in a table)
import re
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, n: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


MOST_STEPS = 1_000_000  #: opcodes of a pickle
MOST_VALUES = 2_000_000  #: values in what it holds, counted as often as they are named
MOST_TEXT = 64 << 20  #: characters and bytes in it, so counted
DEEPEST = 32  #: containers within each other
AXES = 32  #: of an array
BITS = 256  #: of a whole number
DTYPE = re.compile(r"[biufcSU]\d{1,6}|\?")
NAME = re.compile(r"[A-Za-z0-9_.]{1,80}")  #: of a function or a class, with its module
SCALARS = (str, bytes, int, float, type(None))  #: what a key may be: hashing it takes no time


class Refused(Exception):  # noqa: N818
    """What a pickle asks for and does not get."""


class StandIn:
    """Something a pickle may hold; it cannot be given attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("attributes of " + type(self).__name__)


class Call(StandIn):
    """A function that a pickle may call."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class _DType(StandIn):
    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not DTYPE.fullmatch(name):
            raise Refused(f"an array of type {_brief(name)}")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise Refused("an array of a structured type")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.name)


class Array(StandIn):
    """An array in a pickle; ``np.asarray`` gives it."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _values(data, dtype, shape, "F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)


def _brief(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


def _values(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise Refused("an array that is not written as numpy writes it")
    if isinstance(data, str):  # Python 2's text, read as Latin-1
        data = data.encode("latin1")
    kind = dtype.dtype()
    sides = len(shape) <= AXES and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    if not sides or math.prod(shape) * kind.itemsize != len(data):
        described = f"shape {shape}" if sides else "a shape without end"
        raise Refused(f"an array of {described[:60]} in {len(data)} bytes")
    return np.ndarray(shape, kind, bytes(data), order=order).copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _values(data, dtype, (), "C").item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
    array = Array()
    array.values = _values(data, dtype, shape, order)
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"the encoding {_brief(encoding)}")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    """How protocols 0 to 2 write b""."""
    if arguments:
        raise Refused("bytes of something")
    return b""


def _subtype(*_: Any) -> Any:
    raise Refused("an array that is not written as numpy writes it")


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Call(_subtype),
    ("numpy", "dtype"): Call(_DType),
    ("_codecs", "encode"): Call(_encode),
    ("__builtin__", "bytes"): Call(_no_bytes),
    **{
        (f"numpy.{core}.{module}", name): Call(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", lambda *_: Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
"""The names that numpy's arrays are written with."""


class _Steps(dict[int, Any]):
    """The opcodes, of which so many may be taken."""

    left = MOST_STEPS

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"over {MOST_STEPS:,} steps")
        if opcode not in self:
            raise ValueError(f"no pickle of plain values: step {opcode:#x}")
        return super().__getitem__(opcode)


LEFT_OUT = (
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),  # which are not in the file
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),  # which hash what they hold
    *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ),  # which make objects
)


class _Reader(pickle._Unpickler):  # the one in C allots whatever memory a file's opcodes name
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    # the steps as the standard library takes them, and those below
    taken: ClassVar[dict[int, Any]] = {
        op: step for op, step in pickle._Unpickler.dispatch.items() if bytes([op]) not in LEFT_OUT
    }

    def __init__(self, file: Readable, names: Mapping[tuple[str, str], Any], persistent: Any) -> None:
        super().__init__(file, encoding="latin1")
        self.names, self.persistent = names, persistent
        vars(self)["dispatch"] = _Steps(self.taken)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            if not NAME.fullmatch(f"{module}.{name}"):
                raise ValueError("a name that nothing can have") from None
            raise Refused(f"{module}.{name}") from None

    def get_extension(self, code: int) -> Any:
        raise Refused(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise Refused("something that is not in it")
        return self.persistent(pid)

    def _global(self) -> None:
        module, name = (self._line() for _ in range(2))
        self.stack.append(self.find_class(module, name))

    def _line(self) -> str:
        line = self.readline()
        if not line.endswith(b"\n"):  # the beginning of a name is another name
            raise EOFError("cut short")
        return line[:-1].decode("utf-8")

    def _bytearray(self) -> None:  # the library's allots what is named, whether it is there or not
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        self.stack[-1] = function.function(*arguments)

    def _build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if not isinstance(built, StandIn):
            raise Refused("attributes of " + type(built).__name__)
        built.__setstate__(state)

    def _item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(key, value)

    def _items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put(key, value)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put(key, value)

    def _put(self, key: Any, value: Any) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict) or not isinstance(key, SCALARS) or not _small(key):
            raise ValueError("a key that is neither text nor a number")
        table[key] = value

    taken |= {
        pickle.GLOBAL[0]: _global,
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.REDUCE[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _item,
        pickle.SETITEMS[0]: _items,
        pickle.DICT[0]: _dict,
    }


def load(
    file: Readable,
    names: Mapping[tuple[str, str], Any] = NUMPY,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle of containers, numbers, text and numeric arrays (:class:`Array`).

    names       what each (module, name) in it stands for
    persistent  what it is asked for by an id of the file's own; None: refused

    Raises Refused naming what else it asks for, and any Exception for what is no pickle, or not within the bounds.
    """
    value = _Reader(file, names, persistent).load()
    _check(value)
    return value


def _small(value: Any) -> bool:
    return not isinstance(value, int) or value.bit_length() <= BITS


def _check(root: Any) -> None:
    """Raises ValueError for what is too much, nested too deep, or contains itself."""
    sums: dict[
        int, tuple[int, int, int] | None
    ] = {}  # values, text and depth of what was seen; None: within it
    pending = [root]
    while pending:
        value = pending[-1]
        below = _below(value)
        if sums.get(id(value)) is not None:
            pending.pop()
        elif id(value) not in sums and below:
            sums[id(value)] = None
            for inner in below:
                if id(inner) not in sums:
                    pending.append(inner)
                elif sums[id(inner)] is None:
                    raise ValueError("a container that contains itself")
        else:
            pending.pop()
            sums[id(value)] = _sum(value, [sums[id(inner)] or (0, 0, 0) for inner in below])


def _below(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


def _sum(value: Any, below: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    values, text, depth = 1, 0, 0
    if isinstance(value, Array):
        values, text = value.values.size, value.values.nbytes
    elif isinstance(value, (str, bytes)):
        text = len(value)
    elif not _small(value):
        raise ValueError("a number of over 256 bits")
    for v, t, d in below:
        values, text, depth = values + v, text + t, max(depth, d + 1)
    if values > MOST_VALUES or text > MOST_TEXT or depth > DEEPEST:
        raise ValueError("too many values, or nested too deep")
    return values, text, depth
