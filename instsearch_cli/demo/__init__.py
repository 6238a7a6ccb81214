"""A collection to try everything on, drawn by the program: no download, and its ground truth is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from instsearch_cli.components import Progress


def make_scenes(folder: Path, n: int = 150, seed: int = 7, progress: Progress | None = None) -> Path:
    """Draw n scenes of objects, a query for each object, and the ground truth; returns the path of its manifest.json.

    The same n and seed draw the same. Raises UsageError for fewer than 8, InstsearchError for a folder of other things.
    """
    from instsearch_cli.demo import scenes

    return scenes.make_scenes(folder, n, seed, progress)
