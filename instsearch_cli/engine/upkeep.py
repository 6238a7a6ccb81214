"""What is done to an index beside making and asking: images out of it, moved folders, what it holds, what is unused."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import drift, records
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.soundness import MODELS
from instsearch_cli.engine.stages import CACHE, CODES, SEARCH
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_formats import places
from instsearch_formats.images import location

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_formats import ImageTable, Index, LayerInfo, ModelInfo


def remove_images(index: Index, images: Sequence[str | os.PathLike[str]], missing: bool) -> tuple[int, int]:
    """Put tombstones on images, by file, folder or name, or on all that are gone; how many, and how many are left.

    Raises InstsearchError for one that is not there, and where all are gone, as on a disk that is not mounted.
    """
    if not images and not missing:
        raise UsageError("name images to remove, or --missing")
    table, names = index.images, Names(index)
    live = dict(names.live())
    roots = table.roots
    paths = {row: location(roots, record) for row, record in live.items()}
    rows: set[int] = set()
    for given in images:
        full = os.fsencode(absolute(Path(given)))
        below = full.rstrip(b"/") + b"/"
        matches = {row for row, path in paths.items() if path == full or path.startswith(below)}
        try:
            rows |= matches or {names.find(given)[0]}
        except InstsearchError:
            if not _was_removed(table, full, os.fsencode(given)):
                raise
    if missing:
        rows |= {row for row in live if not table.path(row).exists()}
        if live and len(rows) == len(live) and not images:
            raise InstsearchError(
                f"none of the {len(live):,} images is there: is the disk mounted?\n"
                "If the collection moved, run `instsearch relocate OLD NEW`; nothing was removed."
            )
    if rows:
        chosen = {
            (live[row].root, live[row].name) for row in rows
        }  # a file that is being replaced has two rows
        both = [row for row, record in table.records() if (record.root, record.name) in chosen]
        table.remove(both, "missing" if missing and not images else "removed", refill=True)
    return len(rows), len(live) - len(rows)


def _was_removed(table: ImageTable, full: bytes, name: bytes) -> bool:
    """Whether all images of a name or a path, or below it, have been removed, and there were some."""
    roots, alive = table.roots, table.alive()
    rows = [
        row
        for row, record in table.records()
        if record.name == name or (location(roots, record) + b"/").startswith(full.rstrip(b"/") + b"/")
    ]
    return bool(rows) and not alive[rows].any()


def relocate(index: Index, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> tuple[str, str]:
    """Note that the photographs under ``old`` now lie under ``new``; returns both as the index has them.

    Where that was the last thing that was noted, nothing is done.
    """
    roots, moved = index.images.roots, str(absolute(Path(new)))
    for candidate in (str(old), str(absolute(Path(old)))):
        if candidate in roots:
            index.images.move_root(candidate, moved)
            return candidate, moved
    if index.images.moved == (before := str(absolute(Path(old))), moved):
        return before, moved
    raise InstsearchError(f"{index.path} has no images under '{old}'.{nearest(str(old), roots)}")


def sweep(index: Index, dry_run: bool = False, forget: Sequence[str] = (), cache: bool = False) -> list[Path]:
    """Remove what no recorded pipeline uses, after forgetting some; returns what was, or would be, removed.

    forget: names of pipelines, or patterns of them, ``eval-*`` say
    """
    kept, damaged = records.read_all(index)
    names = _matching(index, forget, [*(record.pipeline.name for record in kept), *damaged])
    kept = [record for record in kept if record.pipeline.name not in names]
    for name in damaged.keys() - names:
        raise InstsearchError(f"{damaged[name]} Until then nothing is removed.")
    for record in kept:
        _check_models(index, record)
    if not dry_run:
        for name in names:
            records.forget(index, name)
        records.mend(index)
    used = {layer for record in kept for layer in record.layers}
    if cache:
        used = {layer for layer in used if not layer.startswith(f"{CACHE}/")}
    return index.gc(used, dry_run=dry_run)


def _check_models(index: Index, record: records.Record) -> None:
    """Raises RecordError where a record without a checksum names a model that is not there: another may be meant."""
    name = record.pipeline.name
    for path in record.layers if not record.sealed else ():
        if path.startswith(f"{MODELS}/") and not (index.path / path).exists():
            raise records.RecordError(index, name, f"it names {path}, which is not there")


def _matching(index: Index, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The recorded pipelines of these names or patterns. Raises UsageError for a name that is not there."""
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matches and not set(pattern) & set("*?["):
            records.last(index, pattern)
        found |= dict.fromkeys(matches)
    return list(found)


def remove_empty(index: Index, folder: bool) -> None:
    """Remove an index that holds no image, as one that was just created; and its ``folder``, if that is empty then."""
    if index.images.alive().any():
        return
    for folder_name in ("images", "pipelines"):
        places.remove(index.path / folder_name, index.path, whole=True)
    for name in ("skipped.txt", "stamps.txt", "replacing.json", "roots.json", "format.json", "lock"):
        places.remove(index.path / name, index.path)
    if folder:
        with contextlib.suppress(OSError):
            index.path.rmdir()


def facts(index: Index) -> dict[str, Any]:
    """What an index holds and what made it, JSON-ready."""
    table = index.images
    n_alive = int(table.alive().sum())
    last, layers = records.last(index), {layer.path: layer for layer in index.layers()}
    kept = records.recorded(index)
    return {
        "index": str(index.path),
        "created": _time(index.path / "format.json"),
        "added": max((_time(part) for part in (index.path / "images").glob("part-*.h5")), default=None),
        "images": n_alive,
        "removed": removals(index),
        "roots": table.roots,
        "pipelines": {
            r.pipeline.name: {**r.pipeline.plain(), "refine": [asdict(stage) for stage in r.pipeline.refine]}
            for r in kept
        },
        "last": last.pipeline.name if last else None,
        "measured": [r.pipeline.name for r in kept if r.by != records.INDEX],
        "searchable": {r.pipeline.name: _searchable(index, layers, r) for r in kept if r.searchable},
        "layers": [
            {
                "kind": layer.kind,
                "name": layer.name,
                "fingerprint": layer.fingerprint,
                "encoding": layer.encoding,
                "rows": layer.rows,
                "bytes": layer.nbytes,
                "identity": layer.identity,
            }
            for layer in layers.values()
        ],
        "models": [_model(index, model, n_alive) for model in index.models()],
        "caches": [
            {"name": cache.name, "fingerprint": cache.fingerprint, "bytes": cache.nbytes}
            for cache in index.caches()
        ],
    }


def removals(index: Index) -> dict[str, int]:
    """How many rows are no image any more, by reason; those whose image is there in another row are "replaced"."""
    table, removed = index.images, index.images.removed()
    if not removed:
        return {}
    alive = table.alive()
    live = {(record.root, record.name) for row, record in table.records() if alive[row]}
    reasons: Counter[str] = Counter()
    for row, record in table.records():
        if row in removed:
            there = (record.root, record.name) in live
            reasons["replaced" if there else removed[row].split(":")[0]] += 1
    return dict(reasons)


def _searchable(index: Index, layers: Mapping[str, LayerInfo], record: records.Record) -> int:
    """How many images a pipeline finds: those that its search structure reaches, or its codes where it has none."""
    own = [layers[path] for path in record.layers if path in layers]
    reach = [layer.rows for kind in (SEARCH, CODES) for layer in own if layer.kind == kind][:1]
    return int(index.images.alive()[: reach[0] if reach else 0].sum())


def _time(path: Path) -> str:
    """When a file was written, as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _model(index: Index, model: ModelInfo, n_alive: int) -> dict[str, Any]:
    not_seen = max(0, n_alive - int(model.attrs.get("images-then", 0)))
    moved = drift.of_model(index, model) if not_seen else None
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "fitted_on": int(model.attrs.get("fitted-on", 0)),
        "fitted_in": str(model.attrs.get("fitted-in", "")),
        "not_seen": not_seen,
        "drift": moved and moved._asdict(),
        "bytes": model.nbytes,
        "identity": model.identity,
    }
