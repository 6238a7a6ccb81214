"""Layers as numpy arrays, for those who want to look at the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import Grid, SparseVectors, is_tensor
from instsearch_cli.engine.stages import MAPPED
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.storage import to_state
from instsearch_formats.encodings import ENCODINGS
from instsearch_formats.errors import writing
from instsearch_formats.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from instsearch_cli.engine.assembly import Assembly
    from instsearch_cli.engine.collection import Collection

MAIN = ("values", "words", "vectors", "data", "boxes")
"""The array that an item is first of all, by preference."""


class Arrays(Mapping[str, np.ndarray]):
    """Named arrays of one image or of many; ``numpy.asarray`` gives the first of all: values, words, vectors, boxes.

    Of one image they have its shape, values f32[D, h, w] say; of many they are as stored, one image after another.

    kind    of layer
    images  the names of the images that it is of
    """

    def __init__(self, kind: str, images: list[str], arrays: dict[str, np.ndarray]) -> None:
        self.kind, self.images, self._arrays = kind, images, arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        main = next(self._arrays[name] for name in MAIN if name in self._arrays)
        return np.array(main, dtype, copy=copy)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {a.dtype}{list(a.shape)}" for name, a in self._arrays.items())
        of = self.images[0] if len(self.images) == 1 else f"{len(self.images):,} images"
        return f"<{self.kind} of {of}: {shapes}>"

    def matrix(self) -> Any:
        """Codes as a matrix, a row each: scipy's csr_array where they are sparse, else the vectors."""
        if "indices" not in self:
            return np.asarray(self)
        from scipy import sparse

        shape = tuple(int(n) for n in self["shape"])
        return sparse.csr_array((self["data"], self["indices"], self["indptr"]), shape=shape)

    def save(self, path: Path) -> None:
        """Write a .npz, whole or not at all, with the names of the images as ``images``."""
        names = np.array(self.images, np.str_)
        with replacing(path) as aside, writing(path), aside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self._arrays, images=names)


def check_kind(assembly: Assembly, kind: str) -> None:
    """Raise UsageError for what is no layer of images, InstsearchError for one that the pipeline does not make."""
    kinds = [row.kind for row in MAPPED]
    if kind not in kinds:
        raise UsageError(f"no layer is called '{kind}'.{nearest(kind, kinds)}")
    if not assembly.makes(kind):
        layers = ", ".join(assembly.kinds)
        raise InstsearchError(f"pipeline '{assembly.pipeline.name}' makes no {kind}; it makes {layers}")


def of_one(kind: str, image: str, item: Any) -> Arrays:
    """A data type of data.py as arrays; a grid as its shape and its transform."""
    arrays: dict[str, np.ndarray] = {}
    for field in fields(item):
        value = vars(item)[field.name]
        if isinstance(value, Grid):
            arrays |= {"grid": np.array(value.shape), "transform": np.array(value.transform)}
        elif isinstance(value, np.ndarray) or is_tensor(value):
            arrays |= to_state({field.name: value})
    if isinstance(item, SparseVectors):
        arrays["shape"] = np.array([len(item.indptr) - 1, item.dim])
    return Arrays(kind, [image], at_the_door(arrays))


def of_all(data: Collection, kind: str) -> Arrays:
    """A stored layer of every live image: its encoding's arrays, one image after another (formats/SPEC.md).

    Boxes alone are other than stored: x, y, width and height.

    ``image`` is the number, among ``images``, of the image that each vector, region, cell or point is of. Raises
    InstsearchError for a layer that is not kept.
    """
    encoding = ENCODINGS[data.assembly.encoding(kind)]
    blocks = [block for run in _runs(data.images) for block in data.blocks(kind, run)]
    joined = {
        field.name: np.concatenate([block[field.name] for block in blocks])
        for field in encoding.fields
        if blocks and field.name in blocks[0]
    }
    for pointer in encoding.pointers:
        steps = [np.diff(block[pointer]) for block in blocks]
        joined[pointer] = np.concatenate([[0], *steps]).cumsum().astype(np.int64)
    each = np.diff(joined[encoding.pointers[0]])
    joined["image"] = np.repeat(np.arange(len(each)), each)
    if encoding.sparse:
        joined["shape"] = np.array([len(joined["image"]), blocks[0]["dim"] if blocks else 0])
    names = [data.names.of(data.record(int(row))) for row in data.images]
    return Arrays(kind, names, at_the_door(joined))


def at_the_door(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Boxes (x0, y0, x1, y1) as x, y, width and height, as they are outside."""
    if "boxes" in arrays:
        low, high = arrays["boxes"][:, :2], arrays["boxes"][:, 2:]
        arrays["boxes"] = np.concatenate([low, high - low], axis=1)
    return arrays


def _runs(rows: np.ndarray) -> Iterator[range]:
    """Ascending rows as ranges without a gap."""
    if len(rows):
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            yield range(int(run[0]), int(run[-1]) + 1)
