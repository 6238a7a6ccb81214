"""What is done to an index beside making and asking: images out of it, moved folders, what it holds, what is unused."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import drift, records
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.stages import CACHE
from instsearch_cli.errors import InstsearchError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_formats import Index, ModelInfo


def remove_images(index: Index, images: Sequence[str | os.PathLike[str]], missing: bool) -> tuple[int, int]:
    """Put tombstones on images, by file, folder or name, or on all that are gone; how many, and how many are left.

    Raises InstsearchError for one that is not there, and where all are gone, as on a disk that is not mounted.
    """
    if not images and not missing:
        raise UsageError("name images to remove, or --missing")
    table = index.images
    alive = table.alive()
    live = {row: record for row, record in table.records() if alive[row]}
    roots = table.roots
    rows: set[int] = set()
    for given in images:
        wanted = os.fsencode(given)
        full = os.fsencode(absolute(Path(given)))
        matches = set()
        for row, record in live.items():
            path = os.path.join(os.fsencode(roots[record.root]), record.name)  # noqa: PTH118 - bytes
            if wanted == record.name or path == full or path.startswith(full.rstrip(b"/") + b"/"):
                matches.add(row)
        if not matches:
            names = (table.name(row) for row in live)
            raise InstsearchError(f"no image '{given}' in {index.path}.{nearest(str(given), names)[:200]}")
        rows |= matches
    if missing:
        rows |= {row for row in live if not table.path(row).exists()}
        if live and len(rows) == len(live) and not images:
            raise InstsearchError(
                f"none of the {len(live):,} images is there: is the disk mounted?\n"
                "If the collection moved, run `instsearch relocate OLD NEW`; nothing was removed."
            )
    if rows:
        table.remove(sorted(rows), "missing" if missing and not images else "removed")
    return len(rows), len(live) - len(rows)


def relocate(index: Index, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> tuple[str, str]:
    """Note that the photographs under ``old`` now lie under ``new``; returns both as the index has them."""
    roots = index.images.roots
    for candidate in (str(old), str(absolute(Path(old)))):
        if candidate in roots:
            moved = str(absolute(Path(new)))
            index.images.move_root(candidate, moved)
            return candidate, moved
    raise InstsearchError(f"{index.path} has no images under '{old}'.{nearest(str(old), roots)}")


def sweep(index: Index, dry_run: bool = False, forget: Sequence[str] = (), cache: bool = False) -> list[Path]:
    """Remove what no recorded pipeline uses, after forgetting some; returns what was, or would be, removed."""
    kept = records.recorded(index)
    for name in forget:
        records.last(index, name)
        kept = [r for r in kept if r.pipeline.name != name]
        if not dry_run:
            records.forget(index, name)
    used = {layer for record in kept for layer in record.layers}
    if cache:
        used = {layer for layer in used if not layer.startswith(f"{CACHE}/")}
    return index.gc(used, dry_run=dry_run)


def facts(index: Index) -> dict[str, Any]:
    """What an index holds and what made it, JSON-ready."""
    table = index.images
    n_alive = int(table.alive().sum())
    last = records.last(index)
    return {
        "index": str(index.path),
        "images": n_alive,
        "removed": dict(Counter(reason.split(":")[0] for reason in table.removed().values())),
        "roots": table.roots,
        "pipelines": {
            r.pipeline.name: {**r.pipeline.plain(), "refine": [asdict(stage) for stage in r.pipeline.refine]}
            for r in records.recorded(index)
        },
        "last": last.pipeline.name if last else None,
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
            for layer in index.layers()
        ],
        "models": [_model(index, model, n_alive) for model in index.models()],
        "caches": [
            {"name": cache.name, "fingerprint": cache.fingerprint, "bytes": cache.nbytes}
            for cache in index.caches()
        ],
    }


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
