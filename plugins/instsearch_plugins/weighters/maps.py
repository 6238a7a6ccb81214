"""Saliency maps that are ready in a folder, made by whatever program (Mohedano et al. 2018, section 3.3)."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsearch_cli.components import Weighter, option
from instsearch_cli.data import WeightMap
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import BadImage, read_image
from instsearch_cli.measure.matfile import list_mat, read_mat
from instsearch_cli.outside.archives import read_npy
from instsearch_cli.outside.files import open_plain, read_bytes
from instsearch_plugins.numeric.blocks import block_max

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from instsearch_cli.components import Data, Progress, State
    from instsearch_cli.data import Inputs

PICTURES = (".png", ".jpg", ".jpeg")
SUFFIXES = (*PICTURES, ".npy", ".mat")
MAX_PIXELS = 64_000_000  #: of a map, far above what any saliency model makes
MAX_BYTES = 1 << 30  #: of a map's file
MAX_VARIABLES = 10_000  #: in an HDF5 file
MAX_MAT = 1 << 30  #: of what a .mat decompresses to
NUMERIC = frozenset(
    ["double", "single", "logical"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)  #: MATLAB's classes that can be a map


@dataclass
class Folder:
    """The maps of a folder and those below it, by name: the path from the folder, without the suffix.

    Hidden files and links to folders are passed over.
    """

    path: Path
    maps: dict[str, Path] = field(default_factory=dict)
    by_stem: dict[str, list[str]] = field(default_factory=dict)
    digest: str = ""  #: sha256 of every file's name, size and time of change

    @classmethod
    def scan(cls, path: Path) -> Folder:
        """List the maps.

        Raises InstsearchError if there is no such folder, it has no map, or two of one name.
        """
        if not path.is_dir():
            raise InstsearchError(
                f"there is no folder of saliency maps '{printable(path)}': name it by --set weighting.folder=DIR"
            )
        folder, listing = cls(path), hashlib.sha256()
        for file in sorted(_files(path)):
            name = file.relative_to(path)
            stat = file.stat()
            listing.update(os.fsencode(name) + b"\0%d\0%d\0" % (stat.st_size, stat.st_mtime_ns))
            key = key_of(name.as_posix())
            if key in folder.maps:
                raise InstsearchError(
                    f"two saliency maps have one name but for the suffix: {printable(folder.maps[key])} and "
                    f"{printable(file)}; remove one"
                )
            folder.maps[key] = file
            folder.by_stem.setdefault(name.stem, []).append(key)
        if not folder.maps:
            raise InstsearchError(f"there is no saliency map in '{printable(path)}' ({', '.join(SUFFIXES)})")
        folder.digest = listing.hexdigest()
        return folder

    def find(self, name: str) -> str | None:
        """The name of a picture's map: the picture's own without suffix, else the only one of that stem."""
        key = key_of(name)
        if key in self.maps:
            return key
        same = self.by_stem.get(PurePosixPath(name).stem, [])
        return same[0] if len(same) == 1 else None

    def why_not(self, name: str) -> str:
        """Why a picture has no map, in one line."""
        same = self.by_stem.get(PurePosixPath(name).stem, [])
        if same:
            return f"{len(same):,} maps are called {printable(PurePosixPath(name).stem)}, none of them in its folder"
        return f"expected {printable(key_of(name))} + {' or '.join(SUFFIXES)}"


def key_of(name: str) -> str:
    """A relative path without its suffix."""
    path = PurePosixPath(name)
    return str(path.parent / path.stem)


def _files(path: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(SUFFIXES) and Path(folder, name).is_file()
        ]
    return found


def read_map(path: Path, variable: str = "") -> np.ndarray:
    """A saliency map: u8[H, W] as it is, other numbers over the largest as f32[H, W].

    Of pictures the first channel counts, at 8 bits. ``variable`` names the array in a .mat file with several.
    Raises InstsearchError naming the file if it holds no such thing.
    """
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _MapError(f"a file of more than {MAX_BYTES >> 20:,} MiB is no saliency map")
        if suffix in PICTURES:
            s = read_image(path, max_pixels=MAX_PIXELS).pixels[..., 0]
        else:
            s = _load_npy(path) if suffix == ".npy" else _load_mat(path, variable)
        return _checked(s)
    except BadImage as error:
        raise InstsearchError(f"saliency map {printable(path)}: {error.reason}") from error
    except _MapError as error:
        raise InstsearchError(f"saliency map {printable(path)}: {error}") from error
    except Exception as error:  # whatever a damaged file makes of the libraries
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InstsearchError(f"saliency map {printable(path)} cannot be read: {reason}") from error


class _MapError(Exception):
    """What is wrong with a map, without its name."""


def _checked(s: np.ndarray) -> np.ndarray:
    if s.ndim != 2 or s.size == 0 or s.dtype.kind not in "buif":
        raise _MapError(f"wanted numbers in two dimensions (height, width), not {s.dtype} of shape {s.shape}")
    if s.size > MAX_PIXELS:
        raise _MapError(f"{s.shape[1]:,} x {s.shape[0]:,} is too large for a saliency map; make it smaller")
    low, high = s.min(), s.max()  # NaN if there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _MapError("there are values that are not finite")
    if low < 0:
        raise _MapError(f"there are negative values, down to {low:g}; weights are 0 or more")
    return s if s.dtype == np.uint8 else np.divide(s, high or 1, dtype=np.float64).astype(np.float32)


def _load_npy(path: Path) -> np.ndarray:
    with open_plain(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(2) == b"PK":
            raise _MapError("an archive of arrays, not one array; save the map by numpy.save")
        file.seek(0)
        return read_npy(file, size, kinds="biufcSU", name="the map")


def _load_mat(path: Path, variable: str) -> np.ndarray:
    import h5py

    if not h5py.is_hdf5(path):
        data = read_bytes(path, MAX_BYTES)
        name = _choose(list_mat(data, MAX_MAT), variable)
        return np.asarray(read_mat(data, [name], MAX_MAT)[name])
    with h5py.File(path, "r") as file:  # MATLAB 7.3
        if len(file) > MAX_VARIABLES:
            raise _MapError(f"has {len(file):,} variables; save the map alone")
        arrays: dict[str, Any] = {
            str(name): file[name] for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)
        }
        shapes = {name: x.shape[::-1] for name, x in arrays.items() if _numeric(x)}
        return np.asarray(arrays[_choose(shapes, variable)][()]).T  # columns first in MATLAB


def _numeric(x: Any) -> bool:
    """Whether something in an HDF5 file is numbers that are in this file; on damaged text HDF5 may never return."""
    import h5py

    if (
        not isinstance(x, h5py.Dataset)
        or x.dtype.kind not in "biuf"
        or x.is_virtual
        or x.external is not None
    ):
        return False
    if x.chunks and math.prod(x.chunks) * x.dtype.itemsize > MAX_BYTES:
        return False
    if "MATLAB_class" not in x.attrs:
        return True
    about, kinds = x.attrs.get_id("MATLAB_class"), [kind.encode() for kind in NUMERIC]
    return about.shape == () and about.dtype.kind == "S" and x.attrs["MATLAB_class"] in kinds


def _choose(shapes: Mapping[str, tuple[int, ...]], variable: str) -> str:
    """The named variable, or the only one that has a height and a width above 1."""
    named = [f"{printable(name)} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    listed = ", ".join(named[:12] + ["..."] * (len(named) > 12)) or "none"
    maps = [name for name, shape in shapes.items() if len(shape) == 2 and min(shape) > 1]
    if variable and variable not in shapes:
        raise _MapError(f"has no numeric array '{variable}'; there is: {listed}")
    if not variable and len(maps) != 1:
        raise _MapError(
            f"has {len(maps) or 'no'} arrays that could be the map; name one by --set weighting.variable=NAME; "
            f"there is: {listed}"
        )
    name = variable or maps[0]
    if np.prod(shapes[name], dtype=float) > MAX_PIXELS:
        raise _MapError(f"{name} is too large for a saliency map: {listed}")
    return name


class Maps(Weighter):
    """Weights from saliency maps on disk: PNG, JPEG, NPY or MAT, of any size, each laid over its picture.

    A picture's map is the file of its relative path, other suffixes notwithstanding, or else the only one
    of its file name. The maps' names, sizes and times are part of a layer's identity: other maps, another layer.
    """

    concurrent: bool = True
    by_name: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """Options of ``maps``."""

        folder: str = option("", digested=True)  #: the folder with the maps
        variable: str = ""  #: the array's name in .mat files that hold several

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self._scanning = threading.Lock()
        self._scanned: Folder | None = None

    @property
    def _folder(self) -> Folder:
        """The folder's maps, listed on first use."""
        with self._scanning:
            if self._scanned is None:
                if not self.config.folder:
                    raise UsageError("the maps weighting needs --set weighting.folder=DIR, the saliency maps")
                self._scanned = Folder.scan(Path(self.config.folder).expanduser())
            return self._scanned

    def identity(self) -> dict[str, str]:
        """A digest of the maps' names, sizes and times."""
        return {"maps": self._folder.digest}

    def fit(self, data: Data, progress: Progress) -> State:
        """Check that every picture has a map of its own before any is computed with.

        Raises InstsearchError that counts those without, or names two pictures that share one.
        """
        folder, missing = self._folder, []
        taken: dict[str, str] = {}
        progress.start("matching saliency maps", len(data.images))
        for inputs in data.inputs(()):
            key = folder.find(inputs.name)
            if key is None:
                missing.append(inputs.name)
            elif key in taken:
                raise InstsearchError(
                    f"{printable(taken[key])} and {printable(inputs.name)} both go by the saliency map "
                    f"{printable(folder.maps[key])}\n"
                    "Each picture needs its own: put the maps into folders named like the pictures'."
                )
            else:
                taken[key] = inputs.name
            progress.advance()
        if missing:
            named = ", ".join(printable(name) for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InstsearchError(
                f"{len(missing):,} of {len(data.images):,} pictures have no saliency map among the "
                f"{len(folder.maps):,} in {printable(folder.path)}: {named}\n"
                f"{printable(missing[0])}: {folder.why_not(missing[0])}"
            )
        return {"maps": np.frombuffer(bytes.fromhex(folder.digest), np.uint8)}

    def load(self, state: State) -> None:
        """Nothing to take over: that the state is there says that the names were checked."""

    def weigh(self, inputs: Inputs) -> WeightMap:
        """Weights f32[1, h, w] on ``inputs.grid``. Raises InstsearchError for a missing or a bad map."""
        assert inputs.grid is not None
        key = self._folder.find(inputs.name)
        if key is None:
            raise InstsearchError(
                f"{printable(inputs.name)} has no saliency map among the {len(self._folder.maps):,} in "
                f"{printable(self._folder.path)}: {self._folder.why_not(inputs.name)}"
            )
        s = read_map(self._folder.maps[key], self.config.variable)
        return WeightMap(block_max(s, *inputs.grid.shape)[None].to(self.device), inputs.grid)
