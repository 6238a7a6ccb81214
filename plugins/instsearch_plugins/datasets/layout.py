"""What the known collections share: finding their pictures and ground truth, and reading MATLAB's files."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.components import ImageRef
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import discover
from instsearch_cli.measure.matfile import read_mat
from instsearch_cli.outside.files import read_bytes
from instsearch_cli.outside.pickles import Array
from instsearch_cli.outside.text import shown

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from instsearch_cli.data import Box

FOLDERS = ("", "gt", "groundtruth", "ground_truth", "gt_files", "gt_files_170407", "paris_120310")
MAT_LIMIT = 64 << 20
FARTHEST = 1e9  #: pixels from a picture's corner that a box may reach to
TEXT_LIMIT = 16 << 20


def need_root(root: Path | None, name: str) -> Path:
    """The folder of the collection. Raises UsageError if none was given, or it is none."""
    if root is None:
        raise UsageError(f"--dataset {name} needs --root DIR: the folder that its images are in")
    if not root.is_dir():
        raise UsageError(f"--root {root} is not a folder")
    return root


def given(root: Path, value: str) -> Path:
    """A path that the user wrote: as it is, else below ``root``. Raises InstsearchError if it is in neither."""
    for path in (Path(value), root / value):
        if path.exists():
            return path
    raise InstsearchError(f"there is no {value}, nor {root / value}")


def find_truth(root: Path, option: str, names: Sequence[str], source: str) -> Path:
    """The ground truth: the first of ``names`` (a pattern may be among them) in ``root`` or a usual subfolder.

    ``option`` is a file, returned as it is, or the folder to look in. A pattern, ``*_query.txt`` say, gives
    the folder. Raises InstsearchError saying which file is wanted and where it comes from.
    """
    places = [root / folder for folder in FOLDERS]
    if option:
        path = given(root, option)
        if path.is_file():
            return path
        places = [path]
    for name in names:
        for place in places:
            if "*" in name and any(place.glob(name)):
                return place
            if "*" not in name and (place / name).is_file():
                return place / name
    raise InstsearchError(
        f"no ground truth in {places[0]}: wanted {' or '.join(names)}, from {source}\n"
        f"Say where it is with --set dataset.ground_truth=PATH."
    )


def pictures(folder: Path, without: Collection[str] = ()) -> dict[str, Path]:
    """The pictures at any depth by their path below ``folder``, less those subfolders of it; maybe none."""
    try:
        found = discover([folder]).found
    except InstsearchError:  # no picture in it
        return {}
    named = {printable(os.fsdecode(f.name)): f.path for f in found}
    return {name: path for name, path in named.items() if name.partition("/")[0] not in without}


def distractors(root: Path, folder: str, most: int, own: Iterable[Path]) -> list[ImageRef]:
    """Pictures to rank among, by name: the first ``most`` of a folder, -1 for all, that are not the collection's own.

    Raises InstsearchError if there are fewer.
    """
    place = given(root, folder)
    taken = {path.absolute() for path in own}
    found = sorted((n, p) for n, p in pictures(place).items() if p.absolute() not in taken)
    if len(found) < (1 if most < 0 else most):
        wanted = f", {most:,} are wanted" if most > 0 and found else ""
        raise InstsearchError(f"there are {len(found):,} pictures in {place}{wanted}")
    return [ImageRef(f"distractors/{name}", path) for name, path in found[: most if most >= 0 else None]]


def corners(box: Iterable[Any]) -> Box | None:
    """x, y, w, h as corners; None for other than four numbers, negative sides, and what no picture is as large as."""
    try:
        x, y, w, h = (float(v) for v in box if not isinstance(v, bool))
    except (TypeError, ValueError, OverflowError):
        return None
    found = x, y, x + w, y + h
    return found if min(w, h) >= 0 and all(abs(v) <= FARTHEST for v in found) else None


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1, stripped.

    Names come as the file system has them (os.fsdecode). Raises InstsearchError if the file cannot be read, is
    larger than 16 MB, or is no text.
    """
    data = read_bytes(path, TEXT_LIMIT)
    if b"\0" in data:
        raise InstsearchError(f"{path} is not a text file in UTF-8")
    text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))
    numbered = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
    return [(number, line.strip()) for number, line in numbered if line.strip()]


class Stems:
    """The pictures of a collection at any depth, by their file names without suffix."""

    def __init__(self, root: Path, pattern: re.Pattern[str], without: Collection[str] = ()) -> None:
        """Raises InstsearchError if two pictures, whose names have the pattern, have the same."""
        self.paths: dict[str, Path] = {}
        for path in pictures(root, without).values():
            if not pattern.fullmatch(path.stem):
                continue
            other = self.paths.setdefault(path.stem, path)
            if other != path:
                raise InstsearchError(
                    f"two images are called {path.stem}: {other} and {path}\n"
                    "Give the folder of one set with --root, and --set dataset.ground_truth=PATH."
                )
        self._folder = next((path.parent for path in self.paths.values()), root)

    def path(self, name: str) -> Path:
        """Where the picture is, or would be, beside the others."""
        return self.paths.get(name, self._folder / f"{name}.jpg")

    def refs(self, names: Iterable[str]) -> list[ImageRef]:
        return [ImageRef(name, self.path(name)) for name in names]


@dataclass(frozen=True)
class Truth:
    """A ground-truth file of a dataset, and what it must hold; every method raises InstsearchError naming it."""

    path: Path
    dataset: str
    pattern: re.Pattern[str]  #: what the dataset's images are called
    first: int = 1  #: the number of the first image of a list; MATLAB counts from 1

    def mat(self, *keys: str) -> dict[str, Any]:
        """These variables of a MATLAB file, structs as dictionaries."""
        try:
            table = read_mat(read_bytes(self.path, MAT_LIMIT), keys)
        except ValueError as error:
            raise InstsearchError(f"{self.path} is not a MATLAB file (version 5 to 7.2): {error}") from None
        return self.need(table, *keys)

    def need(self, table: Any, *keys: str) -> dict[str, Any]:
        """``table``, which has these keys."""
        lacking = [key for key in keys if not isinstance(table, dict) or key not in table]
        if lacking:
            raise self._other(f"it has no '{lacking[0]}'")
        checked: dict[str, Any] = table
        return checked

    def entries(self, value: Any, n: int, *keys: str) -> list[Mapping[str, Any]]:
        """What is said of each of n queries, with these keys; of one alone without a list around it."""
        listed = [value] if isinstance(value, dict) else value
        if not isinstance(listed, (list, tuple)):
            raise self._other(f"what it judges is no list, but {shown(listed)}")
        if len(listed) != n:
            raise self._other(f"it has {n} queries but judges {len(listed)}")
        return [self.need(entry, *keys) for entry in listed]

    def names(self, value: Any) -> list[str]:
        """A list of image names, each once."""
        try:
            listed = value if isinstance(value, (list, tuple)) else _array(value).ravel().tolist()
        except (TypeError, ValueError):
            listed = [value]
        stray = [n for n in listed if not isinstance(n, str) or not self.pattern.fullmatch(n.strip())]
        if stray:
            raise self._other(f"{shown(stray[0])} is no image of that collection")
        listed = [name.strip() for name in listed]
        if len(set(listed)) < len(listed):
            raise InstsearchError(f"{self.path} lists an image twice")
        return listed

    def rows(self, value: Any, n: int) -> np.ndarray:
        """Places in a list of n images, as numbers counted from ``first`` -> i64, counted from 0."""
        try:
            numbers = _array(value).ravel()
            with np.errstate(invalid="ignore"):
                places: np.ndarray = numbers.astype(np.int64)
            whole = bool((places == numbers).all())
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise InstsearchError(f"{self.path}: wanted numbers of images, found {shown(value)}")
        places = np.subtract(places, self.first)
        if len(places) and not 0 <= places.min() <= places.max() < n:
            beyond = places.max() if places.max() >= n else places.min()
            raise InstsearchError(f"{self.path} names image number {beyond + self.first} of {n}")
        return places

    def box(self, value: Any) -> Box:
        """Corners x1, y1, x2, y2, whatever small type they are stored in."""
        try:
            words = isinstance(value, list) and all(isinstance(v, str) for v in value)  # of a text file
            x1, y1, x2, y2 = map(float, value if words else _array(value).ravel().tolist())
        except (TypeError, ValueError, OverflowError):
            raise InstsearchError(f"{self.path}: a box is x1, y1, x2, y2, not {shown(value)}") from None
        if not (all(abs(v) <= FARTHEST for v in (x1, y1, x2, y2)) and x1 < x2 and y1 < y2):
            raise InstsearchError(
                f"{self.path}: the box {x1:g},{y1:g},{x2:g},{y2:g} has no area (x1,y1,x2,y2)"
            )
        return x1, y1, x2, y2

    def _other(self, why: str) -> InstsearchError:
        return InstsearchError(f"{self.path} is not the ground truth of {self.dataset}: {why}")


def _array(value: Any) -> np.ndarray:
    """An array from a file as it is, a list of numbers as one. Raises TypeError, ValueError for what is neither."""
    array = np.asarray(value) if isinstance(value, (np.ndarray, Array)) else np.asarray(_numbers(value))
    if array.dtype.kind not in "biufU":
        raise TypeError("no numbers, nor names")
    return array


def _numbers(value: Any) -> Any:
    """Numbers, in lists or not. Raises TypeError for anything else, of which numpy would make something larger."""
    if isinstance(value, (list, tuple)):
        return [_numbers(inner) for inner in value]
    if not isinstance(value, (bool, int, float, np.ndarray, Array)):
        raise TypeError(f"{type(value).__name__} is no number")
    return np.asarray(value) if isinstance(value, Array) else value
