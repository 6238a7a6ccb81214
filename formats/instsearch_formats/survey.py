"""What lies where in an index. Anything else in the folder is not ours and is left alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from instsearch_formats import places
from instsearch_formats.files import PARTIAL
from instsearch_formats.part import part_span

if TYPE_CHECKING:
    from pathlib import Path

NOT_KINDS = frozenset({"images", "models", "pipelines", "scratch", "cache"})
KINDS = frozenset({"features", "regions", "weights", "local", "codes", "search"})  #: those in use
FILES = frozenset({"format.json", "roots.json", "replacing.json", "lock"})

_LAYER = re.compile(r".+-[0-9a-f]{12}")
_MODEL = re.compile(r".+-[0-9a-f]{12}\.h5")
_REMOVED = re.compile(r"removed-\d{10}\.h5")


def layer_folders(index: Path) -> list[Path]:
    """The folders of layers, by path."""
    kinds = [entry for entry in _folders(index, index) if entry.name not in NOT_KINDS]
    return [folder for kind in kinds for folder in _folders(kind, index) if _LAYER.fullmatch(folder.name)]


def cache_folders(index: Path) -> list[Path]:
    """The folders of what can be computed again, by path."""
    return [folder for folder in _folders(index / "cache", index) if _LAYER.fullmatch(folder.name)]


def model_files(index: Path) -> list[Path]:
    """The files of models, by name."""
    return [path for path in _files(index / "models", index) if _MODEL.fullmatch(path.name)]


def part_files(folder: Path, index: Path) -> list[Path]:
    """The parts in a folder, by name."""
    return [path for path in _files(folder, index) if part_span(path.name) is not None]


def tombstones(index: Path) -> list[Path]:
    """The files that say which images were removed, in order."""
    return [path for path in _files(index / "images", index) if _REMOVED.fullmatch(path.name)]


def partials(index: Path) -> list[Path]:
    """What killed runs left, wherever they were."""
    named = [index, index / "images", index / "models", index / "pipelines"]
    folders = [*named, *layer_folders(index), *cache_folders(index)]
    return [path for folder in folders for path in _files(folder, index) if path.name.endswith(PARTIAL)]


def odd(index: Path) -> list[Path]:
    """What bears a name of ours and is not what it should be: a link, a pipe, a folder for a file; by path."""
    inside = [entry.path for entry in places.entries(index, index) if entry.is_folder]
    return sorted(
        entry.path
        for folder in [index, *inside, *layer_folders(index)]
        for entry in places.entries(folder, index)
        if (is_file := _is_file(entry.path, index)) is not None
        and not (entry.is_file if is_file else entry.is_folder)
    )


def _is_file(path: Path, index: Path) -> bool | None:
    """Whether what bears such a name is a file, and no folder; None: it is no name of ours."""
    name, folder = path.name, path.parent
    if folder == index:
        return name in FILES if name in FILES | NOT_KINDS | KINDS else None
    if folder.parent != index or folder.name == "images":
        return True if part_span(name) is not None or _REMOVED.fullmatch(name) else None
    if folder.name == "pipelines":
        return True if name == "LAST" or name.endswith((".toml", ".json")) else None
    if folder.name == "models":
        return True if _MODEL.fullmatch(name) else None
    return False if folder.name != "scratch" and _LAYER.fullmatch(name) else None


def _folders(path: Path, index: Path) -> list[Path]:
    return [entry.path for entry in places.entries(path, index) if entry.is_folder]


def _files(path: Path, index: Path) -> list[Path]:
    return [entry.path for entry in places.entries(path, index) if entry.is_file]
