"""PyTorch's checkpoints as tensors, numbers, text and containers of these; ``torch.load`` is asked for none of it.

    torch 1.6 and later    a zip archive: ROOT/data.pkl, the containers, and ROOT/data/KEY, the numbers of a storage
    before                 pickles one after the other (a magic number, a version, the machine, the containers, the
                           keys of the storages), then of each storage how many numbers it has, and these

A tensor is a view of a storage: an offset, a shape and strides. All of it is compared with the bytes that are there.
torch is imported on use.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.errors import InstsearchError
from instsearch_cli.outside import pickles
from instsearch_cli.outside.archives import open_archive
from instsearch_cli.outside.files import open_plain
from instsearch_cli.outside.pickles import Call, Refused, StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

LARGEST = 4 * 2**30  # bytes; the largest network here has half a gigabyte
PICKLED = 64 << 20  # bytes of the containers
LINE = 1 << 16  # bytes of a name in them
REPEATED = 1 << 20  # bytes that a tensor may have beyond those of its storage, all of whose rows may be one
PLAIN = StandIn()  # the class of tensors, and of parameters
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
    **{"ComplexDouble": "complex128", "ComplexFloat": "complex64", "Untyped": "uint8"},
    **{"QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32"},
}
OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without numbers, of the device meta",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device that is written as numpy's",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
}


class Other(Exception):  # noqa: N818
    """A tensor of a kind that is not read."""


@dataclass(frozen=True, eq=False)
class _Type:
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class _Storage:
    """What a tensor is a view of: so many bytes under a key."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True, eq=False)
class _View:
    """A tensor to be: offset and strides in numbers, not in bytes."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Ordered(StandIn, dict[Any, Any]):
    """What an OrderedDict is read as; its attributes are dropped."""

    def __init__(self, *pairs: Any) -> None:
        super().__init__()
        for key, value in pairs[0] if pairs else ():
            if not isinstance(key, str):
                raise ValueError("an ordered dictionary whose keys are no text")
            self[key] = value

    def __setstate__(self, state: Any) -> None:
        pass


def load_checkpoint(path: Path, mapped: bool = False) -> Any:
    """What a checkpoint holds, its tensors on the CPU; ``mapped`` ones take no memory until they are read.

    Raises InstsearchError for a file that is too large, damaged, no checkpoint, or has code in it.
    """
    with open_plain(path) as file:
        if file.seek(0, io.SEEK_END) > LARGEST:
            raise InstsearchError(f"{path}: over {LARGEST >> 30} GB, too large for a network's weights.")
        file.seek(0)
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        content, numbers = _zipped(path) if zipped else _legacy(path)
        return _built(content, numbers, mapped, {})
    except InstsearchError:
        raise
    except Refused as refused:
        raise InstsearchError(
            f"{path} holds code, not only tensors: it asks for {refused}.\n"
            "Save the network's state_dict() alone, or take the file from a source that does."
        ) from None
    except Other as kind:
        raise InstsearchError(
            f"{path} holds {kind}, and only plain ones are read.\nSave the network's state_dict() with plain tensors."
        ) from None
    except Exception as error:  # as many as there are ways to be broken
        reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise InstsearchError(
            f"{path}: not a PyTorch checkpoint, or a damaged one ({reason}). Download it again."
        ) from error


def _zipped(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """The containers, and how to come by the bytes u8[n] of a storage."""
    with open_archive(path) as archive, open_plain(path) as file:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickled = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if any(name.rpartition("/")[2] == "constants.pkl" or "/code/" in name for name in entries):
            raise Refused("what TorchScript wrote down to be run")
        if len(pickled) != 1:
            raise ValueError("it has no data.pkl" if not pickled else "it has several data.pkl")
        root = pickled[0].removesuffix("data.pkl")
        if entries[pickled[0]].file_size > PICKLED:
            raise ValueError(f"over {PICKLED >> 20} MB of containers")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise Other("numbers in the order of bytes of another kind of machine")
        read = io.BytesIO(archive.read(pickled[0]))
        content = pickles.load(read, _names(), partial(_persistent, {}))
        places = {name.removeprefix(f"{root}data/"): _place(entry, file) for name, entry in entries.items()}
    mapped = np.memmap(path, np.uint8, mode="c")

    def numbers(storage: _Storage) -> np.ndarray:
        start, size, stored = places[storage.key]
        if storage.size > size:
            raise ValueError(f"storage {storage.key[:20]} claims {storage.size:,} bytes and has {size:,}")
        if stored:
            return mapped[start : start + storage.size]
        with open_archive(path) as archive:
            return np.frombuffer(bytearray(archive.read(f"{root}data/{storage.key}")), np.uint8)[
                : storage.size
            ]

    return content, numbers


def _place(entry: zipfile.ZipInfo, file: IO[bytes]) -> tuple[int, int, bool]:
    """Where the bytes of an entry begin, how many there are, and whether they are stored as they are."""
    stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
    file.seek(entry.header_offset)
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError("an entry that is not where it is said to be")
    name, extra = struct.unpack_from("<HH", head, 26)
    return entry.header_offset + 30 + name + extra, entry.file_size, stored


def _legacy(path: Path) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """As :func:`_zipped`, of a file from before torch 1.6."""
    with open_plain(path) as opened:
        if b"ustar" in opened.read(512)[257:]:
            raise ValueError("a tar archive, as PyTorch wrote before 2017")
        opened.seek(0)
        file = _Within(opened)
        if pickles.load(file) != MAGIC or pickles.load(file) != PROTOCOL:
            raise ValueError("it does not begin like one")
        machine = pickles.load(file)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise Other("numbers in the order of bytes of another kind of machine")
        storages: dict[str, _Storage] = {}
        content, keys = pickles.load(file, _names(), partial(_persistent, storages)), pickles.load(file)
        at, places = opened.tell(), dict[str, int]()
        for key in keys:
            storage = storages[key]
            opened.seek(at)
            [count] = struct.unpack("<q", opened.read(8))
            if count * _width(storage.dtype) != storage.size or key in places:
                raise ValueError("a storage of another size than is said")
            places[key], at = at + 8, at + 8 + storage.size
        if at > opened.seek(0, io.SEEK_END):
            raise ValueError("cut short")
    mapped = np.memmap(path, np.uint8, mode="c")
    return content, lambda storage: mapped[places[storage.key] :][: storage.size]


class _Within:
    """A file of which what is read is there: a length that is claimed makes nothing of that size."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, PICKLED

    def read(self, n: int, /) -> bytes:
        if not 0 <= n <= self.left:
            raise ValueError(f"over {PICKLED >> 20} MB of containers")
        data = self.file.read(n)
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        line = self.file.readline(min(LINE, self.left))
        self.left -= len(line)
        return line


# -- what the pickles may ask for ------------------------------------------------------------------------


def _names() -> Mapping[tuple[str, str], Any]:
    import torch

    dtypes = {name: _Type(value) for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    names: dict[tuple[str, str], Any] = {**pickles.NUMPY}
    names |= {("torch", name): kind for name, kind in dtypes.items()}
    names |= {
        ("torch", name): name for name, value in vars(torch).items() if isinstance(value, torch.qscheme)
    }
    names |= {
        (module, "set"): Call(lambda values=(): tuple(values)) for module in ("builtins", "__builtin__")
    }
    for name, dtype in STORAGES.items():
        names["torch", f"{name}Storage"] = names["torch.storage", f"{name}Storage"] = dtypes[dtype]
    names |= {
        ("collections", "OrderedDict"): Call(_Ordered),
        ("torch", "Size"): Call(lambda sides=(): tuple(sides)),
        ("torch", "device"): Call(lambda *parts: ":".join(map(str, parts[:2]))),
        ("torch._utils", "_rebuild_tensor"): Call(_view),
        ("torch._utils", "_rebuild_tensor_v2"): Call(_view),
        ("torch._utils", "_rebuild_tensor_v3"): Call(_view_of_type),
        ("torch._utils", "_rebuild_parameter"): Call(_parameter),
        ("torch._utils", "_rebuild_parameter_with_state"): Call(_parameter),
        ("torch._tensor", "_rebuild_from_type_v2"): Call(_of_class),
        ("torch", "Tensor"): PLAIN,
        ("torch.nn.parameter", "Parameter"): PLAIN,
        ("torch.serialization", "_get_layout"): Call(_other("a sparse tensor")),
    }
    return names | {("torch._utils", name): Call(_other(kind)) for name, kind in OTHER_TENSORS.items()}


def _persistent(storages: dict[str, _Storage], pid: Any) -> _Storage:
    """The storage of an id: ("storage", type, key, device, how many numbers, ...); each key has one."""
    if isinstance(pid, tuple) and pid[:1] == ("module",):
        raise Refused("the source of a module")
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Type):
        raise ValueError("an id of no storage")
    _, kind, key, device, count, *more = pid
    if not isinstance(key, str) or type(count) is not int or not 0 <= count <= LARGEST:
        raise ValueError("a storage without a size")
    if device == "meta":
        raise Other("a tensor without numbers, of the device meta")
    if more and more[0] is not None:
        raise Other("a part of a storage")
    storage = storages.setdefault(key, _Storage(key, kind.dtype, count * _width(kind.dtype)))
    if storage.size != count * _width(kind.dtype):
        raise ValueError("a storage of two sizes")
    return storage


def _view(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
) -> _View:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor of no storage")
    return _checked(storage, storage.dtype, offset, shape, strides, metadata)


def _view_of_type(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(dtype, _Type):
        raise ValueError("a tensor of no storage")
    return _checked(storage, dtype.dtype, offset, shape, strides, metadata)


def _checked(storage: _Storage, dtype: Any, offset: Any, shape: Any, strides: Any, metadata: Any) -> _View:
    """A view that its storage has the bytes for."""
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise ValueError("a tensor of no shape")
    if len(shape) > pickles.AXES or any(
        type(n) is not int or not 0 <= n <= LARGEST for n in (offset, *shape, *strides)
    ):
        raise ValueError("a tensor of no shape")
    if metadata:
        raise Other("a tensor of negated or conjugated numbers")
    width = _width(dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if prod(shape) and (last + 1) * width > storage.size:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage of {storage.size:,} bytes")
    if prod(shape) * width > storage.size + REPEATED:
        raise ValueError(
            f"a tensor of shape {shape} claims {prod(shape) * width:,} bytes of {storage.size:,}"
        )
    return _View(storage, dtype, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_class(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes of its own, which are dropped."""
    if kind is not PLAIN or not isinstance(function, Call) or not isinstance(arguments, tuple):
        raise Other("a tensor of a class of its own")
    return function.function(*arguments)


def _other(kind: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise Other(kind)

    return refuse


def _width(dtype: torch.dtype) -> int:
    return dtype.itemsize


# -- the tensors -----------------------------------------------------------------------------------------


def _built(value: Any, numbers: Callable[[_Storage], np.ndarray], mapped: bool, done: dict[int, Any]) -> Any:
    """The same containers, with tensors; what is there several times stays one."""
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, _View):
        result = _tensor(value, numbers, mapped, done)
    elif isinstance(value, dict):
        result = {key: _built(inner, numbers, mapped, done) for key, inner in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_built(inner, numbers, mapped, done) for inner in value)
    elif isinstance(value, (_Storage, _Type)) or type(value) in (Call, StandIn):
        raise ValueError("a storage without a tensor")
    elif isinstance(value, pickles.Array):
        result = np.asarray(value)
    done[id(value)] = result
    return result


def _tensor(
    view: _View, numbers: Callable[[_Storage], np.ndarray], mapped: bool, done: dict[int, Any]
) -> Tensor:
    import torch

    if view.dtype in (torch.qint8, torch.quint8, torch.qint32):
        raise Other("a quantised tensor")
    key = id(view.storage)
    if key not in done:
        flat = torch.from_numpy(numbers(view.storage))
        done[key] = flat if mapped and flat.data_ptr() % 16 == 0 else flat.clone()
    whole: Tensor = done[key]
    return whole.view(view.dtype).as_strided(view.shape, view.strides, view.offset)
