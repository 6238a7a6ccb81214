"""Between the data types (torch) and the index's items (numpy): one function each way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instsearch_cli.data import (
    FeatureMap,
    Grid,
    Keypoints,
    Regions,
    SparseVectors,
    Vectors,
    WeightMap,
    Words,
)
from instsearch_cli.errors import InstsearchError
from instsearch_formats.encodings import ENCODINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from instsearch_cli.data import Features
    from instsearch_formats import PartWriter

Item = dict[str, Any]

F16_MAX = 65504.0


def to_item(encoding: str, value: Any) -> Item:
    """The encoding's datasets of one image. Raises InstsearchError where the value is not of that encoding.

    Features and weights are stored as f16, words as u16 where 65,535 or fewer, codes as f32.
    """
    match encoding, value:
        case "dense-map", FeatureMap(values=x, grid=grid):
            _check(x.ndim == 3 and tuple(x.shape[1:]) == grid.shape, "f32[D, h, w] on its grid", x)
            return {"values": _half(x.flatten(1).T), **_grid(grid)}
        case "keypoints", Keypoints(values=x, geometry=geometry, grid=grid):
            _check(x.ndim == 2 and geometry.shape == (len(x), 4), "f32[N, D] with geometry f32[N, 4]", x)
            return {"values": _half(x), "geometry": _numpy(geometry, np.float32), **_grid(grid)}
        case "word-map", Words(words=words, grid=grid, geometry=geometry, size=size):
            small = size <= np.iinfo(np.uint16).max
            stored = np.asarray(_numpy(words, np.int64).reshape(-1), np.uint16 if small else np.uint32)
            item = {"words": stored, **_grid(grid)}  # -1 wraps to the largest value: no word
            if geometry is not None:
                item["geometry"] = _numpy(geometry, np.float32)
            return item
        case "weight-map", WeightMap(values=a, grid=grid):
            _check(a.ndim == 3 and tuple(a.shape[1:]) == grid.shape, "f32[Z, h, w] on its grid", a)
            _check(bool(torch.isfinite(a).all()) and bool((a >= 0).all()), "finite and not negative", a)
            return {"values": _half(a.flatten(1).T), **_grid(grid)}
        case "regions", Regions(boxes=boxes, scores=scores):
            _check(boxes.shape == (len(scores), 4), "boxes f32[R, 4] with scores f32[R]", boxes)
            return {"boxes": _numpy(boxes, np.float32), "scores": _numpy(scores, np.float32)}
        case "vectors", Vectors(vectors=x, boxes=boxes):
            _check(x.ndim == 2 and boxes.shape == (len(x), 4), "f32[M, D] with boxes f32[M, 4]", x)
            return {"vectors": _numpy(x, np.float32), "boxes": _numpy(boxes, np.float32)}
        case "csr", SparseVectors(indices=indices, data=data, indptr=indptr, dim=dim, boxes=boxes):
            _check(
                boxes.shape == (len(indptr) - 1, 4) and len(indices) == len(data), "CSR rows with boxes", data
            )
            index = np.uint16 if dim <= np.iinfo(np.uint16).max else np.uint32
            return {
                "indices": _numpy(indices, index),
                "data": _numpy(data, np.float32),
                "indptr": _numpy(indptr, np.int64),
                "boxes": _numpy(boxes, np.float32),
                "dim": dim,
            }
    raise InstsearchError(f"made a {type(value).__name__} where the encoding is {encoding}")


def from_item(encoding: str, item: Mapping[str, np.ndarray]) -> Any:
    """The data type of one stored image."""
    match encoding:
        case "dense-map":
            grid = grid_of(item)
            values = _tensor(item["values"], torch.float32)
            return FeatureMap(values.T.reshape(-1, grid.h, grid.w), grid)
        case "keypoints":
            return Keypoints(
                _tensor(item["values"], torch.float32),
                _tensor(item["geometry"], torch.float32),
                grid_of(item),
            )
        case "word-map":
            grid, stored = grid_of(item), item["words"]
            none = np.iinfo(stored.dtype).max
            words = stored.astype(np.int64)
            words[stored == none] = -1
            tensor = torch.from_numpy(words.astype(np.int32))
            if "geometry" in item:
                return Words(tensor, grid, _tensor(item["geometry"], torch.float32), int(none))
            return Words(tensor.reshape(grid.shape), grid, None, int(none))
        case "weight-map":
            grid = grid_of(item)
            return WeightMap(_tensor(item["values"], torch.float32).T.reshape(-1, grid.h, grid.w), grid)
        case "regions":
            return Regions(_tensor(item["boxes"], torch.float32), _tensor(item["scores"], torch.float32))
        case "vectors":
            return Vectors(_tensor(item["vectors"], torch.float32), _tensor(item["boxes"], torch.float32))
        case "csr":
            return SparseVectors(
                _tensor(item["indices"].astype(np.int64), torch.int64),
                _tensor(item["data"], torch.float32),
                _tensor(item["indptr"], torch.int64),
                int(item["dim"]),
                _tensor(item["boxes"], torch.float32),
            )
    raise InstsearchError(f"no data type for encoding {encoding}")


def as_stored(features: Features) -> Features:
    """Features at the precision of the index (f16), so that it makes no difference whether they were kept."""
    return replace(
        features, values=features.values.clamp(-F16_MAX, F16_MAX).to(torch.float16).to(torch.float32)
    )


def to_state(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Named arrays ready to store."""
    return {
        k: v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v)
        for k, v in state.items()
    }


def _check(holds: bool, wanted: str, got: Tensor) -> None:
    if not holds:
        raise InstsearchError(f"made a {got.dtype} tensor of shape {tuple(got.shape)}; wanted {wanted}")


def _half(x: Tensor) -> np.ndarray:
    return x.clamp(-F16_MAX, F16_MAX).to(torch.float16).cpu().numpy()


def _numpy(x: Tensor, dtype: Any) -> np.ndarray:
    return x.detach().cpu().numpy().astype(dtype, copy=False)


def _tensor(x: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


def _grid(grid: Grid) -> Item:
    return {"grid": np.asarray(grid.shape, np.int32), "transform": np.asarray(grid.transform, np.float64)}


def grid_of(item: Mapping[str, np.ndarray]) -> Grid:
    """The grid of a stored map."""
    h, w = (int(n) for n in item["grid"])
    sx, sy, ox, oy = (float(t) for t in item["transform"])
    return Grid(h, w, (sx, sy, ox, oy))


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
    grid, box = Grid(1, 1, (1.0, 1.0, 0.0, 0.0)), torch.zeros(1, 4)
    one = torch.zeros(1, 1, 1)
    values: dict[str, Any] = {
        "dense-map": FeatureMap(one, grid),
        "keypoints": Keypoints(torch.zeros(1, 1), torch.zeros(1, 4), grid),
        "word-map": Words(torch.zeros(1, 1), grid),
        "weight-map": WeightMap(one, grid),
        "regions": Regions(box, torch.zeros(1)),
        "vectors": Vectors(torch.zeros(1, 1), box),
        "csr": SparseVectors(torch.zeros(1), torch.zeros(1), torch.tensor([0, 1]), 1, box),
    }
    return to_item(encoding, values[encoding])
