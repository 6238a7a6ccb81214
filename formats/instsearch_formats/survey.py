"""What lies where in an index. Anything else in the folder is not ours and is left alone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_formats.files import PARTIAL
from instsearch_formats.part import part_span

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_KINDS = frozenset({"images", "models", "pipelines", "scratch", "cache"})

_LAYER = re.compile(r".+-[0-9a-f]{12}")
_MODEL = re.compile(r".+-[0-9a-f]{12}\.h5")
_REMOVED = re.compile(r"removed-\d{10}\.h5")


def layer_folders(index: Path) -> list[Path]:
    """The folders of layers, by path."""
    kinds = [entry for entry in _folders(index) if entry.name not in NOT_KINDS]
    return [folder for kind in kinds for folder in _folders(kind) if _LAYER.fullmatch(folder.name)]


def cache_folders(index: Path) -> list[Path]:
    """The folders of what can be computed again, by path."""
    return [folder for folder in _folders(index / "cache") if _LAYER.fullmatch(folder.name)]


def model_files(index: Path) -> list[Path]:
    """The files of models, by name."""
    return [path for path in _files(index / "models") if _MODEL.fullmatch(path.name)]


def part_files(folder: Path) -> list[Path]:
    """The parts in a folder, by name."""
    return [path for path in _files(folder) if part_span(path.name) is not None]


def tombstones(index: Path) -> list[Path]:
    """The files that say which images were removed, in order."""
    return [path for path in _files(index / "images") if _REMOVED.fullmatch(path.name)]


def partials(index: Path) -> list[Path]:
    """What killed runs left, wherever they were."""
    named = [index, index / "images", index / "models", index / "pipelines"]
    folders = [*named, *layer_folders(index), *cache_folders(index)]
    return [path for folder in folders for path in _files(folder) if path.name.endswith(PARTIAL)]


def _folders(path: Path) -> list[Path]:
    return sorted(Path(entry) for entry in _entries(path) if entry.is_dir(follow_symlinks=False))


def _files(path: Path) -> list[Path]:
    return sorted(Path(entry) for entry in _entries(path) if entry.is_file(follow_symlinks=False))


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    if path.is_dir():
        with os.scandir(path) as entries:
            yield from entries
