"""Between the data types and the index's items (numpy): one function each way; and copies of codes kept elsewhere.

Torch is imported for maps alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from instsearch_cli.components import Searcher
from instsearch_cli.data import (
    MASK,
    FeatureMap,
    Grid,
    Keypoints,
    Regions,
    SparseVectors,
    Vectors,
    WeightMap,
    Words,
    is_tensor,
)
from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Features

Item = dict[str, Any]

F16_MAX = 65504.0


def to_item(encoding: str, value: Any) -> Item:
    """The encoding's datasets of one image. Raises InstsearchError where the value is not of that encoding.

    Features and weights are stored as f16, words as u16 where 65,535 or fewer, codes and logits as f32.
    """
    match encoding, value:
        case "dense-map", FeatureMap(values=x, grid=grid, logits=logits, cam=cam, levels=()):
            item = {"values": _half(_cells(x, grid)), **_grid(grid)}
            if logits is not None:
                _check(logits.ndim == 1, "logits f32[C]", logits)
                item["logits"] = _numpy(logits, np.float32)
            if cam is not None:
                item["cam"] = _half(_cells(cam, grid))
            return item
        case "pyramid", FeatureMap(logits=None, cam=None, levels=others):
            maps = (value, *others)
            widths = {len(m.values) for m in maps}
            if len(widths) > 1:
                raise InstsearchError(
                    f"made levels of {', '.join(map(str, sorted(widths)))} channels; wanted one"
                )
            return {
                "values": np.concatenate([_half(_cells(m.values, m.grid)) for m in maps]),
                "grids": np.asarray([m.grid.shape for m in maps], np.int32),
                "transforms": np.asarray([m.grid.transform for m in maps], np.float64),
            }
        case "keypoints", Keypoints(values=x, geometry=geometry, grid=grid):
            _check(x.ndim == 2 and geometry.shape == (len(x), 4), "f32[N, D] with geometry f32[N, 4]", x)
            half = np.clip(x, -F16_MAX, F16_MAX).astype(np.float16)
            return {"values": half, "geometry": geometry.astype(np.float32, copy=False), **_grid(grid)}
        case "word-map", Words(words=words, grid=grid, geometry=geometry, size=size, signatures=signatures):
            small = size <= np.iinfo(np.uint16).max
            stored = words.astype(np.int64).reshape(-1).astype(np.uint16 if small else np.uint32)
            item = {"words": stored, **_grid(grid)}  # -1 wraps to the largest value: no word
            if geometry is not None:
                item["geometry"] = geometry.astype(np.float32, copy=False)
            if signatures is not None:
                _check(signatures.shape == stored.shape, f"{len(stored)} signatures i64", signatures)
                item["signatures"] = signatures.astype(np.int64, copy=False).view(np.uint64)
            return item
        case "weight-map", WeightMap(values=a, grid=grid, classes=classes):
            item = {"values": _half(_cells(a, grid)), **_grid(grid)}
            _check(bool(a.isfinite().all()) and bool((a >= 0).all()), "finite and not negative", a)
            if classes is not None:
                _check(classes.shape == (len(a),), f"a class for each of {len(a)} maps", classes)
                item["classes"] = _numpy(classes, np.int32)
            return item
        case "regions", Regions(boxes=boxes, scores=scores, masks=masks, classes=classes):
            _check(boxes.shape == (len(scores), 4), "boxes f32[R, 4] with scores f32[R]", boxes)
            item = {"boxes": _numpy(boxes, np.float32), "scores": _numpy(scores, np.float32)}
            if masks is not None:
                _check(masks.shape == (len(boxes), MASK, MASK), f"masks bool[R, {MASK}, {MASK}]", masks)
                item["masks"] = np.packbits(_numpy(masks, np.bool_).reshape(-1, MASK * MASK), axis=1)
            if classes is not None:
                _check(classes.shape == scores.shape, f"a class for each of {len(boxes)} boxes", classes)
                item["classes"] = _numpy(classes, np.int32)
            return item
        case "vectors", Vectors(vectors=x, boxes=boxes):
            _check(x.ndim == 2 and boxes.shape == (len(x), 4), "f32[M, D] with boxes f32[M, 4]", x)
            return {"vectors": _numpy(x, np.float32), "boxes": _numpy(boxes, np.float32)}
        case "csr", SparseVectors(indices=indices, data=data, indptr=indptr, dim=dim, boxes=boxes):
            _check(
                boxes.shape == (len(indptr) - 1, 4) and len(indices) == len(data), "CSR rows with boxes", data
            )
            index = np.uint16 if dim <= np.iinfo(np.uint16).max else np.uint32
            return {
                "indices": indices.astype(index),
                "data": data.astype(np.float32, copy=False),
                "indptr": indptr.astype(np.int64, copy=False),
                "boxes": boxes.astype(np.float32, copy=False),
                "dim": dim,
            }
    raise InstsearchError(f"made a {type(value).__name__} where the encoding is {encoding}")


def from_item(encoding: str, item: Mapping[str, np.ndarray]) -> Any:
    """The data type of one stored image."""
    match encoding:
        case "dense-map":
            grid = grid_of(item)
            logits = _tensor(item["logits"]) if "logits" in item else None
            cam = _map(item["cam"], grid) if "cam" in item else None
            return FeatureMap(_map(item["values"], grid), grid, logits, cam)
        case "pyramid":
            grids = [_grid_from(*pair) for pair in zip(item["grids"], item["transforms"], strict=True)]
            ends = np.cumsum([grid.h * grid.w for grid in grids])[:-1]
            parts = np.split(item["values"], ends)
            first, *others = [FeatureMap(_map(x, grid), grid) for x, grid in zip(parts, grids, strict=True)]
            return replace(first, levels=tuple(others))
        case "keypoints":
            values, geometry = (np.asarray(item[name], np.float32) for name in ("values", "geometry"))
            return Keypoints(values, geometry, grid_of(item))
        case "word-map":
            grid, stored = grid_of(item), item["words"]
            none = np.iinfo(stored.dtype).max
            words = stored.astype(np.int64)
            words[stored == none] = -1
            words = words.astype(np.int32)
            signatures = item["signatures"].view(np.int64) if "signatures" in item else None
            if "geometry" in item:
                return Words(words, grid, np.asarray(item["geometry"], np.float32), int(none), signatures)
            return Words(words.reshape(grid.shape), grid, None, int(none), signatures)
        case "weight-map":
            grid = grid_of(item)
            classes = _tensor(item["classes"]).long() if "classes" in item else None
            return WeightMap(_map(item["values"], grid), grid, classes)
        case "regions":
            masks = None
            if "masks" in item:
                bits = np.unpackbits(item["masks"], axis=1, count=MASK * MASK)
                masks = _tensor(bits.reshape(-1, MASK, MASK)).bool()
            classes = _tensor(item["classes"]).long() if "classes" in item else None
            return Regions(_tensor(item["boxes"]).float(), _tensor(item["scores"]).float(), masks, classes)
        case "vectors":
            return Vectors(_tensor(item["vectors"]).float(), _tensor(item["boxes"]).float())
        case "csr":
            return SparseVectors(
                item["indices"].astype(np.int64),
                np.asarray(item["data"], np.float32),
                np.asarray(item["indptr"], np.int64),
                int(item["dim"]),
                np.asarray(item["boxes"], np.float32),
            )
    raise InstsearchError(f"no data type for encoding {encoding}")


def numbers(features: Features) -> int:
    """How many numbers the features of a picture are, all that they carry together."""
    if isinstance(features, Keypoints):
        return features.values.size + features.geometry.size
    carried = [features.values, features.cam, features.logits, *(level.values for level in features.levels)]
    return sum(x.numel() for x in carried if x is not None)


def blank(item: Mapping[str, Any]) -> bool:
    """Whether codes are all zero, so that no query finds what they are of."""
    values = item.get("vectors", item.get("data"))
    return values is not None and not np.any(values)


def to_state(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Named arrays ready to store."""
    return {k: np.asarray(v.detach().cpu() if is_tensor(v) else v) for k, v in state.items()}


def _check(holds: bool, wanted: str, x: Tensor | np.ndarray) -> None:
    if not holds:
        raise InstsearchError(f"made a {x.dtype} tensor of shape {tuple(x.shape)}; wanted {wanted}")


def _cells(x: Tensor, grid: Grid) -> Tensor:
    """A map as rows, one a cell: f32[D, h, w] -> f32[h w, D]."""
    _check(x.ndim == 3 and tuple(x.shape[1:]) == grid.shape, f"a map on its grid of {grid.shape}", x)
    return x.flatten(1).T


def _map(cells: np.ndarray, grid: Grid) -> Tensor:
    """The other way: [h w, D] -> f32[D, h, w]."""
    return _tensor(cells).float().T.reshape(-1, grid.h, grid.w)


def _half(x: Tensor) -> np.ndarray:
    half: np.ndarray = x.clamp(-F16_MAX, F16_MAX).half().cpu().numpy()
    return half


def _numpy(x: Tensor, dtype: Any) -> np.ndarray:
    return x.detach().cpu().numpy().astype(dtype, copy=False)


def _tensor(x: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def _grid(grid: Grid) -> Item:
    return {"grid": np.asarray(grid.shape, np.int32), "transform": np.asarray(grid.transform, np.float64)}


def grid_of(item: Mapping[str, np.ndarray]) -> Grid:
    """The grid of a stored map; of a pyramid, its first level's."""
    if "grids" in item:
        return _grid_from(item["grids"][0], item["transforms"][0])
    return _grid_from(item["grid"], item["transform"])


def _grid_from(shape: np.ndarray, transform: np.ndarray) -> Grid:
    h, w = (int(n) for n in shape)
    sx, sy, ox, oy = (float(t) for t in transform)
    return Grid(h, w, (sx, sy, ox, oy))


class Origin(NamedTuple):
    """The index that a copy of codes is of.

    place     its folder
    key       tells it, and what a pipeline searches in it, from all else: PICTURES_SEARCH, 12 hex digits each
    pictures  a digest of which pictures the rows before one are; "" where none were given out just up to there
    names     what the pictures of some rows are called below their folder, removed ones too
    """

    place: Path
    key: str
    pictures: Callable[[int], str]
    names: Callable[[range], Sequence[str]]


class Filled(NamedTuple):
    """What :meth:`Mirror.fill` did: the state that ``load`` takes, and of how many images it had to change the copy."""

    state: State
    changed: int


class Mirror(Searcher):
    """A searcher of a copy of the codes that something else keeps, a server say: one copy, of all rows.

    The index is the truth. `index` has the copy filled, `verify --mirror` compared, `gc` dropped where no pipeline
    uses it; in place of ``fit`` it has these. It is not told of removed images: it leaves out what ``data.images``
    lacks when it is asked.
    """

    @property
    def fits(self) -> bool:
        return True

    def fill(self, data: Data, origin: Origin, progress: Progress) -> Filled:
        """Make the copy what the index is, from where it stands: at every run, whether there are new rows or not.

        Raises InstsearchError for a copy of another index.
        """
        raise NotImplementedError

    def differences(self, data: Data, origin: Origin, progress: Progress) -> Sequence[str]:
        """How the copy differs from the index, every value compared: a line for each kind of difference."""
        raise NotImplementedError

    def sweep(self, origin: Origin, used: Collection[str], dry_run: bool) -> Sequence[str]:
        """Drop the copies of this index whose keys are not ``used``; what each was called, and where."""
        raise NotImplementedError
