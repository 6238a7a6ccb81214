"""Items into parts, with empty ones where an image has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.data import FeatureMap, Grid, Keypoints, Regions, SparseVectors, Vectors, WeightMap, Words
from instsearch_cli.storage import to_item
from instsearch_formats.encodings import ENCODINGS

if TYPE_CHECKING:
    from instsearch_cli.storage import Item
    from instsearch_formats import PartWriter


class Filling:
    """Appends items to a part, and empty ones for rows that have none (removed, or not decodable).

    An empty item takes its widths from the part's first real one.
    """

    def __init__(self, encoding: str, part: PartWriter) -> None:
        self.encoding, self.part = encoding, part
        self._empty: Item | None = None
        self._waiting = 0

    def append(self, item: Item | None) -> None:
        if item is not None and self._empty is None:
            self._empty = _emptied(self.encoding, item)
            self._flush()
        if item is not None:
            self.part.append(item)
        elif self._empty is not None:
            self.part.append(self._empty)
        else:
            self._waiting += 1

    def close(self) -> None:
        """Write what still waits for a first real item that never came."""
        if self._waiting:
            self._empty = _emptied(self.encoding, _smallest(self.encoding))
            self._flush()

    def _flush(self) -> None:
        assert self._empty is not None
        for _ in range(self._waiting):
            self.part.append(self._empty)
        self._waiting = 0


def _emptied(encoding: str, item: Item) -> Item:
    fields = {f.name: f for f in ENCODINGS[encoding].fields}
    empty = {}
    for name, array in item.items():
        if name == "indptr":
            empty[name] = np.zeros(1, np.int64)
        elif name in fields and fields[name].level:
            empty[name] = array[:0]
        else:
            empty[name] = array if name == "dim" else np.zeros_like(array)
    return empty


def _smallest(encoding: str) -> Item:
    """An item of the smallest widths there are."""
    import torch

    grid, box = Grid(1, 1, (1.0, 1.0, 0.0, 0.0)), torch.zeros(1, 4)
    one = torch.zeros(1, 1, 1)
    values: dict[str, Any] = {
        "dense-map": FeatureMap(one, grid),
        "pyramid": FeatureMap(one, grid),
        "keypoints": Keypoints(np.zeros((1, 1)), np.zeros((1, 4)), grid),
        "word-map": Words(np.zeros((1, 1)), grid),
        "weight-map": WeightMap(one, grid),
        "regions": Regions(box, torch.zeros(1)),
        "vectors": Vectors(torch.zeros(1, 1), box),
        "csr": SparseVectors(np.zeros(1), np.zeros(1), np.array([0, 1]), 1, np.zeros((1, 4))),
    }
    return to_item(encoding, values[encoding])
