"""Collecting what no pipeline needs. Only names that this package gives are ever removed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from instsearch_formats import places
from instsearch_formats.errors import writing
from instsearch_formats.part import part_span
from instsearch_formats.survey import cache_folders, layer_folders, model_files, odd, part_files, partials

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def sweep(index: Path, keep: Collection[str], dry_run: bool) -> list[Path]:
    """Remove (or only list) layers, models and caches not in ``keep``, partial files, scratch, subsumed segments.

    A layer counts as one path, and so does a cache. Named files in images/, pipelines/ and the index itself
    are never touched. Raises FormatError, and removes nothing, where a folder of the index is a link.
    """
    for path in odd(index):
        if path.parent == index:
            raise places.refusal(path)
    kept = {name.strip("/") for name in keep}
    layers, doomed = layer_folders(index), partials(index)
    for folder in layers:
        if folder.relative_to(index).as_posix() not in kept:
            doomed.append(folder)
        elif folder.parent.name == "search":
            doomed += _subsumed(part_files(folder, index))
    others = [*model_files(index), *cache_folders(index)]
    doomed += [path for path in others if path.relative_to(index).as_posix() not in kept]
    doomed += [entry.path for entry in places.entries(index / "scratch", index)]
    if not dry_run:
        for path in doomed:
            with writing(path):
                if path in layers:
                    _remove_layer(path, index)
                else:
                    places.remove(path, index, whole=path.parent in (index / "scratch", index / "cache"))
    return doomed


def _subsumed(parts: list[Path]) -> list[Path]:
    """Segments whose rows another, longer one has as well."""
    spans = {path: span for path in parts if (span := part_span(path.name))}
    return [
        path
        for path, span in spans.items()
        if any(
            len(other) > len(span) and other.start <= span.start and span.stop <= other.stop
            for other in spans.values()
        )
    ]


def _remove_layer(folder: Path, index: Path) -> None:
    for part in part_files(folder, index):
        places.remove(part, index)
    with contextlib.suppress(OSError):  # something of somebody else's is in there
        places.remove(folder, index)
