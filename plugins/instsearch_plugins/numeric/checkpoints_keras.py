"""Weight files of Keras 1 over Theano: HDF5, one group a layer, an attribute naming its arrays in order.

Nothing is unpickled, and no array is read before its shape is what the network wants.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.networks.checkpoints import LARGEST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

NAMES = 4096  #: layers in a file, arrays in a layer
LENGTH = 256  #: bytes of a name
CHUNK = 1 << 28  #: bytes; what one compressed chunk may unfold to
UNNAMED = re.compile(r"(atrousconvolution2d|attentiveconvlstm|convolution2d|learningprior)_\d+")

Layers = dict[str, list[Any]]
"""Layers that have weights, in the file's order: their arrays as h5py datasets, not read yet."""


def is_keras(path: Path) -> bool:
    """Whether a file is HDF5, whatever its suffix; the published ones are called .pkl."""
    return bool(h5py.is_hdf5(path))


@contextlib.contextmanager
def open_layers(path: Path) -> Iterator[Layers]:
    """The layers of a weights file, or of a whole model that Keras saved (its group ``model_weights``).

    A layer without a name of its own is called after its kind and its place among that kind, ``kind_1`` and so
    on, since Keras goes on counting where the session that saved the file had stopped.

    Raises InstsearchError if the file is too large, damaged, or not Keras'; also for what HDF5 says when the
    arrays are read within.
    """
    if path.stat().st_size > LARGEST:
        raise InstsearchError(f"{path}: over {LARGEST >> 30} GB, too large for a network's weights.")
    try:
        with h5py.File(path, "r") as file:
            yield _layers(file, path)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        reason = printable((str(error).splitlines() or [""])[0] or type(error).__name__)
        raise InstsearchError(f"{path}: a damaged weights file ({reason}). Download it again.") from error


def check_layers(layers: Layers, wanted: Mapping[str, Sequence[Tensor]], network: str, path: Path) -> None:
    """Compare the layers' names and their arrays' shapes with those that ``network`` wants.

    Raises InstsearchError for the first layer that is missing, surplus or of another shape.
    """
    surplus = [name for name in layers if name not in wanted]
    if missing := [name for name in wanted if name not in layers]:
        raise InstsearchError(
            f"{path}: not the weights of {network}: {len(missing)} of its {len(wanted)} layers are missing, "
            f"{missing[0]} first; {_nearest(missing[0], surplus or layers)}."
        )
    if surplus:
        raise InstsearchError(
            f"{path}: not the weights of {network}: layer {printable(surplus[0])} is not one of its layers; "
            f"{_nearest(surplus[0], wanted)}."
        )
    for name, targets in wanted.items():
        found, expected = [x.shape for x in layers[name]], [tuple(x.shape) for x in targets]
        if len(found) != len(expected):
            raise InstsearchError(
                f"{path}: layer {name} has {len(found)} arrays, {network}'s has {len(expected)}."
            )
        for array, shape in zip(layers[name], expected, strict=True):
            if array.shape != shape:
                raise InstsearchError(
                    f"{path}: {printable(array.name)} has shape {array.shape}, {network}'s {name} has {shape}."
                )


def fill(layers: Layers, wanted: Mapping[str, Sequence[Tensor]], path: Path) -> None:
    """Read checked layers into tensors of the same shapes, kernels turned round for torch.

    Raises InstsearchError for a value that is not finite.
    """
    for name, targets in wanted.items():
        for array, target in zip(layers[name], targets, strict=True):
            values = np.asarray(array[()], array.dtype.newbyteorder("="))
            target.copy_(turned(torch.from_numpy(values)))
            if not target.isfinite().all():
                raise InstsearchError(
                    f"{path}: {printable(array.name)} has values that are not finite. Download it again."
                )


def turned(kernel: Tensor) -> Tensor:
    """A kernel of Theano's for torch, which correlates where Theano convolves: rotated by 180 degrees.

    w'(d, c, y, x) = w(d, c, kh - 1 - y, kw - 1 - x); what has not four dimensions stays.
    """
    return kernel.flip(2, 3) if kernel.ndim == 4 else kernel


def _layers(file: h5py.File, path: Path) -> Layers:
    root: Any = file
    if "layer_names" not in file.attrs and _linked(file, "model_weights", h5py.Group):
        root = file["model_weights"]
    if "layer_names" not in root.attrs:
        raise InstsearchError(f"{path}: an HDF5 file, but not the weights of a Keras network.")
    layers: Layers = {}
    counts: dict[str, int] = {}
    for name in _names(root, "layer_names"):
        if not _linked(root, name, h5py.Group):
            raise ValueError(f"there is no group {name}")
        group = root[name]
        if not (arrays := [_array(group, key) for key in _names(group, "weight_names")]):
            continue
        if unnamed := UNNAMED.fullmatch(name):
            kind = unnamed[1]
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}_{counts[kind]}"
        if name in layers:
            raise ValueError(f"two layers {name}")
        layers[name] = arrays
    return layers


def _names(group: Any, attribute: str) -> list[str]:
    """The texts of an attribute; of one without any, the empty list.

    Texts of variable length, which Keras 1 never wrote, are refused: on a damaged one HDF5 may never return.
    """
    about = group.attrs.get_id(attribute)
    shape, dtype = about.shape, about.dtype
    if shape == (0,):
        return []
    if dtype.kind != "S" or len(shape) != 1 or shape[0] > NAMES or dtype.itemsize > LENGTH:
        raise ValueError(f"{attribute} is no list of names")
    return [x.decode() for x in group.attrs[attribute].tolist()]


def _linked(group: Any, name: str, kind: type) -> bool:
    """Whether ``group`` itself has a member of that name and kind, not a link to somewhere else."""
    return (
        name not in ("", ".")
        and "/" not in name
        and isinstance(group.get(name, getlink=True), h5py.HardLink)
        and isinstance(group[name], kind)
    )


def _array(group: Any, name: str) -> Any:
    if not _linked(group, name, h5py.Dataset):
        raise ValueError(f"there is no array {name} in {group.name}")
    array = group[name]
    plan = array.id.get_create_plist()
    layout = plan.get_layout()
    here = array.dtype.kind == "f" and plan.get_external_count() == 0 and layout != h5py.h5d.VIRTUAL
    if layout == h5py.h5d.CHUNKED:
        here &= math.prod(plan.get_chunk()) * array.dtype.itemsize <= CHUNK
    if not here or (array.size and not array.id.get_storage_size()):
        raise ValueError(f"array {array.name} is not all there")
    return array


def _nearest(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0)
    return f"the nearest is {printable(close[0])}" if close else "there is none"
