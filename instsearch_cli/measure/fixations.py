"""Pictures and where people looked in them, from a folder in one of two layouts, told apart by what is there.

    DIR/fixations.json, DIR/images/NAME        {NAME: {"size": [w, h], "fixations": [one list of [x, y] a person]}}
    DIR/images/SPLIT/STEM.jpg, DIR/fixations/SPLIT/STEM.mat, DIR/maps/SPLIT/STEM.png (optional)       SALICON's

SPLIT is train or val. A SALICON .mat holds ``gaze``, a struct with a field ``fixations`` [n, 2] for each
person, (x, y) counted from 1, and ``resolution`` [h, w]; the .png is the density. Nothing in a file is trusted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import BadImage, read_image, suffixes
from instsearch_cli.measure.matfile import read_mat
from instsearch_cli.outside.files import nameable, read_bytes
from instsearch_cli.outside.text import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGMA = 0.0375  #: of a blurred fixation, over the longer side: 24 pixels at 640, about one degree as SALICON was shown
MOST_PIXELS = 16_000_000  #: of a picture that maps are scored on
MOST_JSON = 256 << 20  #: bytes
MOST_MAT = 64 << 20  #: bytes of a .mat, and of what it decompresses to
SPLITS = ("train", "val")
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and where people looked.

    pixels     u8[H, W, 3], upright RGB, at the picture's own size
    points     one f32[n, 2] a person: x, y in pixels; pixel (0, 0) covers [0, 1) x [0, 1)
    fixations  bool[H, W]: the pixels that hold a point
    density    f32[H, W], largest value 1: the one that came with the data, else the points, blurred
    sigma      of that blur, in pixels
    outside    points that lay outside the picture, and were dropped
    """

    name: str
    path: Path
    pixels: np.ndarray
    points: tuple[np.ndarray, ...]
    fixations: np.ndarray
    density: np.ndarray
    sigma: float
    outside: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def blurred(points: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Points, each spread to a Gaussian: f64[H, W], not normalised.

    q(y, x) = sum_n exp(-((x + 1/2 - x_n)^2 + (y + 1/2 - y_n)^2) / (2 sigma^2))

    where points: f[n, 2] holds x, y in pixels, and size is (W, H). Exact: nothing is cut off, nothing wraps.
    """
    q = np.zeros((size[1], size[0]))
    for start in range(0, len(points), CHUNK):
        x, y = points[start : start + CHUNK].T.astype(np.float64)
        gx, gy = (
            np.exp(-((np.arange(n) + 0.5 - at[:, None]) ** 2) / (2 * sigma**2))
            for n, at in ((size[0], x), (size[1], y))
        )
        q += gy.T @ gx
    return q


def fixated(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: the pixels that hold one of the points f[n, 2], all inside the picture."""
    F = np.zeros((size[1], size[0]), bool)
    x, y = np.floor(points).astype(np.int64).T
    F[y, x] = True
    return F


def split(names: Sequence[str], held_out: int = 100) -> tuple[list[str], list[str]]:
    """Part names into those to train on and the last ``held_out`` of them, by sorted name: always the same.

    Raises UsageError unless both parts hold at least one.
    """
    if not 0 < held_out < len(names):
        raise UsageError(f"{held_out} of {len(names)} images cannot be held out: give 1 to {len(names) - 1}")
    ordered = sorted(names)
    return ordered[:-held_out], ordered[-held_out:]


class _Layout(Protocol):
    names: list[str]

    def path(self, name: str) -> Path: ...

    def recorded(self, name: str) -> tuple[tuple[int, int], list[np.ndarray]]:
        """(width, height) that the points f64[n, 2] of each person were measured in, and these."""
        ...

    def density(self, name: str) -> Path | None: ...


class Fixations:
    """A folder of pictures with fixations, read one by one.

    split       SALICON's train or val; without it the one that is there, val if both are
    sigma       of a blurred fixation, in pixels, by default SIGMA of the longer side; giving it makes even
                densities that came with the data anew
    max_pixels  of a picture; larger ones cannot be read

    Raises InstsearchError if the folder has neither layout, is damaged, or lacks pictures; UsageError for a
    split that is not there.
    """

    def __init__(
        self,
        folder: Path,
        split: str | None = None,
        sigma: float | None = None,
        max_pixels: int = MOST_PIXELS,
    ) -> None:
        self.folder, self.sigma, self.max_pixels = folder, sigma, max_pixels
        self._layout = _layout(folder, split)
        self.names = sorted(self._layout.names)
        if not self.names:
            raise InstsearchError(f"{folder} has no picture with fixations")
        missing = [name for name in self.names if not os.path.isfile(self._layout.path(name))]  # noqa: PTH113
        if missing:
            first = ", ".join(printable(name)[:80] for name in missing[:5]) + (
                ", …" if len(missing) > 5 else ""
            )
            raise InstsearchError(
                f"{len(missing):,} of the {len(self.names):,} pictures of {folder} are not there: {first}\n"
                f"They belong in {self._layout.path(missing[0]).parent}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> Scene:
        """Read one picture and its fixations. Raises BadImage for whatever is wrong with them."""
        path = self._layout.path(name)
        pixels = read_image(path, max_pixels=self.max_pixels, name=name).pixels
        size = pixels.shape[1], pixels.shape[0]
        measured, people = self._layout.recorded(name)
        if measured != size:
            raise BadImage(
                f"is {size[0]} x {size[1]} pixels, and its fixations were recorded on {measured[0]} x {measured[1]}"
            )
        with np.errstate(over="ignore"):  # what is too large for f32 is infinite, and so outside
            people = [p.astype(np.float32) for p in people]
        inside = tuple(p[((p >= 0) & (p < size)).all(1)] for p in people)
        points = np.concatenate([np.empty((0, 2), np.float32), *inside])
        sigma = self.sigma or SIGMA * max(size)
        given = self._layout.density(name) if self.sigma is None else None
        density = blurred(points, size, sigma) if given is None else _density(given, size, self.max_pixels)
        peak = density.max()
        return Scene(
            name,
            path,
            pixels,
            inside,
            fixated(points, size),
            (density / peak if peak > 0 else density).astype(np.float32),
            sigma,
            sum(map(len, people)) - len(points),
        )


def _layout(folder: Path, split: str | None) -> _Layout:
    table = folder / "fixations.json"
    if table.is_file():
        if split is not None:
            raise UsageError(f"{table} has no splits: leave --split out, or hold out the last N images")
        return _Table(table)
    if (folder / "fixations").is_dir() and (folder / "images").is_dir():
        return _Salicon(folder, split)
    raise InstsearchError(
        f"{folder} holds no fixations.\nWanted is fixations.json with a folder images, or SALICON's folders "
        "images, fixations and maps, with train or val in each."
    )


class _Table:
    """fixations.json and images/."""

    def __init__(self, path: Path) -> None:
        self._images = path.parent / "images"
        self._entries = {}
        for name, entry in _load(path).items():
            pure = PurePosixPath(name)
            if not pure.parts or pure.is_absolute() or ".." in pure.parts or not nameable(name):
                raise InstsearchError(f"{path}: {name!a:.80} names no file below {self._images}")
            self._entries[name] = _entry(entry, f"{path}: {printable(name)}")
        self.names = list(self._entries)

    def path(self, name: str) -> Path:
        return self._images / name

    def recorded(self, name: str) -> tuple[tuple[int, int], list[np.ndarray]]:
        return self._entries[name]

    def density(self, name: str) -> Path | None:
        return None


def _load(path: Path) -> dict[str, Any]:
    table = read_json(path, MOST_JSON, finite=False)
    if not isinstance(table, dict):
        raise InstsearchError(f"{path}: wanted an object with an entry for each image")
    return table


def _entry(entry: Any, where: str) -> tuple[tuple[int, int], list[np.ndarray]]:
    try:
        w, h = entry["size"]
        if type(w) is not int or type(h) is not int or min(w, h) < 1:
            raise ValueError("size is two whole numbers above 0")
        people = []
        for person in entry["fixations"]:
            points = np.array(person, np.float64) if len(person) else np.empty((0, 2))
            if points.shape != (len(person), 2):
                raise ValueError("a fixation is [x, y]")
            people.append(points)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InstsearchError(
            f'{where}: wanted {{"size": [w, h], "fixations": [[[x, y], ...] of each person]}}\n'
            f"({type(error).__name__}: {str(error)[:100]})"
        ) from error
    return (w, h), people


class _Salicon:
    """images/SPLIT, fixations/SPLIT and maps/SPLIT."""

    def __init__(self, folder: Path, split: str | None) -> None:
        there = [s for s in SPLITS if (folder / "fixations" / s).is_dir()]
        if split not in (None, *there):
            raise UsageError(f"{folder / 'fixations'} has no folder '{split}': {_among(there)}")
        if not there:
            raise InstsearchError(f"{folder / 'fixations'} has neither a folder train nor val")
        self._images, self._gaze, self._maps = (
            folder / kind / (split or there[-1]) for kind in ("images", "fixations", "maps")
        )
        self._suffix = {p.stem: p.suffix for p in _files(self._images) if p.suffix.lower() in suffixes()}
        self._densities = {p.stem for p in _files(self._maps) if p.suffix == ".png"}
        self._stems = {
            p.stem + self._suffix.get(p.stem, ".jpg"): p.stem
            for p in _files(self._gaze)
            if p.suffix == ".mat"
        }
        self.names = list(self._stems)

    def path(self, name: str) -> Path:
        return self._images / name

    def recorded(self, name: str) -> tuple[tuple[int, int], list[np.ndarray]]:
        return _read_gaze(self._gaze / f"{self._stems[name]}.mat")

    def density(self, name: str) -> Path | None:
        stem = self._stems[name]
        return self._maps / f"{stem}.png" if stem in self._densities else None


def _among(names: list[str]) -> str:
    return f"there is {' and '.join(names)}" if names else "there is neither train nor val"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []


def _read_gaze(path: Path) -> tuple[tuple[int, int], list[np.ndarray]]:
    """Size and points of a SALICON .mat, counted from 1 there: pixel 1 has its centre at 1/2 here."""
    try:
        data = read_bytes(path, MOST_MAT)
        table = read_mat(data, ("gaze", "resolution"), MOST_MAT)
        h, w = (int(v) for v in np.ravel(table["resolution"]))
        people = []
        for person in table["gaze"]:
            points = np.asarray(person["fixations"])
            if points.dtype.kind not in "uif" or (points.size and points.shape != (len(points), 2)):
                raise ValueError("fixations are [n, 2]")
            people.append(points.reshape(-1, 2).astype(np.float64) - 0.5)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise BadImage(f"its fixations {path} cannot be read: {reason}") from error
    except InstsearchError as error:
        raise BadImage(f"its fixations: {error}") from error
    return (w, h), people


def _density(path: Path, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    try:
        read = read_image(path, max_pixels=max_pixels)
    except BadImage as error:
        raise BadImage(f"its density {path}: {error.reason}") from error
    if read.size != size:
        raise BadImage(f"is {size[0]} x {size[1]} pixels, and its density {read.size[0]} x {read.size[1]}")
    return read.pixels[..., 0].astype(np.float64)
