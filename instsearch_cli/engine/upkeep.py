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

from instsearch_cli.engine import drift, mirrors, records, skipped
from instsearch_cli.engine.away import Away
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.intake import REMOVED
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.pipeline import SEPARATOR
from instsearch_cli.engine.soundness import MODELS
from instsearch_cli.engine.stages import CACHE, CODES, SEARCH
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_formats import places
from instsearch_formats.changes import Change
from instsearch_formats.images import labels, location

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from instsearch_cli.engine.registry import Registry
    from instsearch_formats import Index, LayerInfo, ModelInfo
    from instsearch_formats.changes import Place


def remove_images(
    index: Index, images: Sequence[str | os.PathLike[str]], missing: bool, max_remove: str | int | None = None
) -> tuple[int, int]:
    """Put tombstones on images, by file, folder, name or pattern, or on all that are gone; how many, how many are left.

    An image with other names outside a folder stays under these. What is gone below a folder that is not there stays.
    Raises InstsearchError for one that is not there, where more are gone than ``max_remove`` allows, and where all
    folders are away.
    """
    if not images and not missing:
        raise UsageError("name images to remove, or --missing")
    names, change = Names(index), Change()
    live, roots = dict(names.live()), index.images.roots
    places = {row: names.places(row, record) for row, record in live.items()}
    for given in images:
        rows = chosen(places, given)
        try:
            rows = rows or {row: set(places[row]) for row in [names.find(given)[0]]}
        except InstsearchError:
            rows = alike(places, given)
            if not rows and not any_of(
                {row: names.places(row, r) for row, r in names.removed()}, given, roots
            ):
                raise
        _take_out(change, rows, places, REMOVED)
    if missing:
        away, gone = Away(), Change()
        absent = {
            row: {path for path, place in its.items() if away.gone(roots[place[0]], path)}
            for row, its in places.items()
        }
        _take_out(gone, absent, places, "missing")
        offline_now = offline(index, away)
        if live and sum(offline_now.values()) == len(live) and not images:
            raise InstsearchError(
                f"none of the {len(live):,} images is there: is the disk mounted?\n"
                "If the collection moved, run `instsearch relocate OLD NEW`; nothing was removed."
            )
        check_removal("remove --missing", len(gone.removed), len(live), max_remove)
        change = Change.of([gone, change])
    n = len(change.removed)
    if change:
        paths = {location(roots, live[row]): why for row, why in change.removed.items()}
        there = index.images.removed()
        for row, record in index.images.records():  # a file that is being replaced has two rows
            if row not in there and (why := paths.get(location(roots, record))):
                change.removed[row] = why
        index.images.change(change, refill=True)
    return n, len(live) - n


def _take_out(
    change: Change, rows: Mapping[int, set[bytes]], places: Mapping[int, dict[bytes, Place]], reason: str
) -> None:
    """Take some of the places of rows away, and those out that have none left."""
    for row, lost in rows.items():
        left = tuple(place for path, place in places[row].items() if path not in lost)
        if not left:
            change.removed[row] = reason
        elif lost:
            change.places[row] = left


def chosen(
    places: Mapping[int, Mapping[bytes, Place]], given: str | os.PathLike[str]
) -> dict[int, set[bytes]]:
    """The rows that a file or a folder chooses, and which of their paths: a folder those that lie in it."""
    full = os.fsencode(absolute(Path(given)))
    below = full.rstrip(b"/") + b"/"
    found = {row: set(its) for row, its in places.items() if full in its}
    for row, its in places.items() if not found else ():
        if some := {path for path in its if path.startswith(below)}:
            found[row] = some
    return found


def called(
    places: Mapping[int, Mapping[bytes, Place]], given: str | os.PathLike[str], roots: Sequence[str]
) -> dict[int, set[bytes]]:
    """The rows of a name, with the end of a root before it or without, and all their paths."""
    name, starts = os.fsencode(given), [os.fsencode(label) + b"/" for label in labels(roots)]
    return {
        row: set(its)
        for row, its in places.items()
        if any(name in (n, starts[root] + n) for root, n in its.values())
    }


def alike(
    places: Mapping[int, Mapping[bytes, Place]], given: str | os.PathLike[str]
) -> dict[int, set[bytes]]:
    """The rows of whose files or names a pattern is, ``2019/*.jpg`` say, and all their paths."""
    name, full = os.fsencode(given), os.fsencode(absolute(Path(given)))
    if not set(os.fsdecode(name)) & set("*?["):
        return {}
    fits = fnmatch.fnmatchcase
    return {
        row: set(its)
        for row, its in places.items()
        if any(fits(path, full) or fits(n, name) for path, (_, n) in its.items())
    }


def any_of(
    places: Mapping[int, Mapping[bytes, Place]], given: str | os.PathLike[str], roots: Sequence[str]
) -> dict[int, set[bytes]]:
    """The rows that a file, folder or name chooses, or else a pattern."""
    return chosen(places, given) or called(places, given, roots) or alike(places, given)


def check_removal(verb: str, n: int, total: int, most: str | int | None) -> None:
    """Raise InstsearchError where a verb would remove more images than it may.

    most  a count, or a percentage, "10%", of all there are; None: a tenth of them, and ten in any case
    """
    allowed = max(total // 10, 10) if most is None else _count(most, total)
    if n > allowed:
        raise InstsearchError(
            f"{verb} would remove {n:,} of the {total:,} images, more than {allowed:,}: nothing was changed.\n"
            f"`instsearch sync --dry-run` says which; if that is right, allow it with --max-remove {n}."
        )


def _count(most: str | int, total: int) -> int:
    """How many images a count or a percentage is."""
    text = str(most).strip()
    try:
        if text.endswith("%") and 0 <= (share := float(text[:-1])) <= 100:
            return int(total * share / 100)
        if (number := int(text)) >= 0:
            return number
    except ValueError:
        pass
    raise UsageError(
        f"--max-remove takes a number of images or a percentage of them, 50 or 10%, not '{most}'"
    )


def offline(
    index: Index, away: Away | None = None, within: Callable[[bytes], bool] | None = None
) -> dict[str, int]:
    """How many images lie in each folder that is not there now, or empty as a mount point is: none of them is gone."""
    table, away = index.images, away or Away()
    alive, roots = table.alive(), table.roots
    found: Counter[str] = Counter()
    for row, record in table.records(range(len(alive))) if any(map(away.offline, roots)) else ():
        if alive[row] and away.offline(root := roots[record.root]):
            found[root] += within is None or within(location(roots, record))
    return {root: n for root, n in found.items() if n}


def relocate(index: Index, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> tuple[str, str]:
    """Note that the photographs under ``old`` now lie under ``new``; returns both as absolute paths.

    Where that was the last thing that was noted, nothing is done.
    """
    table, before, moved = index.images, absolute(Path(old)), absolute(Path(new))
    if table.moved != (str(before), str(moved)):
        if not any(Path(root).is_relative_to(before) for root in table.roots):
            raise InstsearchError(
                f"{index.path} has no images under '{old}'.{nearest(str(old), table.roots)}"
            )
        table.move_root(before, moved)
    return str(before), str(moved)


def sweep(
    index: Index,
    registry: Registry,
    dry_run: bool = False,
    forget: Sequence[str] = (),
    cache: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path | str]:
    """Remove what no recorded pipeline uses, after forgetting some; returns what was, or would be, removed.

    Copies that are kept elsewhere are named, not paths.
    forget: names of pipelines, or patterns of them, ``eval-*`` say
    """
    there, damaged = records.read_all(index)
    gone = set(records.forgotten(index))
    names = _matching(index, forget, [*(record.pipeline.name for record in there), *damaged, *gone])
    kept = [record for record in there if record.pipeline.name not in names]
    for name in damaged.keys() - names:
        raise InstsearchError(f"{damaged[name]} Until then nothing is removed.")
    for record in kept:
        _check_models(index, record)
    others = [record for record in there if record.pipeline.name in names]
    copies = mirrors.sweep(index, registry, kept, others, dry_run, say)
    if not dry_run:
        for name in names:  # of one that a killed run forgot, the record may still be there
            records.forget(index, name)
        records.mend(index)
    used = {layer for record in kept for layer in record.layers}
    if cache:
        used = {layer for layer in used if not layer.startswith(f"{CACHE}/")}
    removed = index.gc(used, dry_run=dry_run)
    if not dry_run:
        records.collected(index)
    return [*copies, *removed]


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
    for name in (
        "skipped.txt",
        "stamps.txt",
        "names.txt",
        "replacing.json",
        "roots.json",
        "format.json",
        "lock",
    ):
        places.remove(index.path / name, index.path)
    if folder:
        with contextlib.suppress(OSError):
            index.path.rmdir()


def facts(index: Index) -> dict[str, Any]:
    """What an index holds and what made it, JSON-ready."""
    table = index.images
    alive = table.alive()
    last, layers = records.together(index), {layer.path: layer for layer in index.layers()}
    kept = records.recorded(index)
    return {
        "index": str(index.path),
        "created": _time(index.path / "format.json"),
        "added": max((_time(part) for part in (index.path / "images").glob("part-*.h5")), default=None),
        "images": int(alive.sum()),
        "removed": removals(index),
        "offline": offline(index),
        "others": sum(len(names) for names in table.others().values()),
        "skipped": skipped.count(index),
        "roots": list(dict.fromkeys(table.roots)),
        "pipelines": {
            r.pipeline.name: {**r.pipeline.plain(), "refine": [asdict(stage) for stage in r.pipeline.refine]}
            for r in kept
        },
        "last": SEPARATOR.join(each.pipeline.name for each in last) or None,
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
        "models": [_model(index, model, alive) for model in index.models()],
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
    alive, roots = table.alive(), table.roots
    live = {location(roots, record) for row, record in table.records(range(len(alive))) if alive[row]}
    reasons: Counter[str] = Counter()
    for row, record in table.records():
        if row in removed:
            there = location(roots, record) in live
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


def _count_in(attrs: Mapping[str, Any], name: str) -> int:
    """A number of images that a file states; 0 where it states none."""
    value = attrs.get(name)
    return value if type(value) is int else 0


def _model(index: Index, model: ModelInfo, alive: np.ndarray) -> dict[str, Any]:
    then, fitted_on = (_count_in(model.attrs, name) for name in ("images-then", "fitted-on"))
    since = int(alive[model.rows :].sum()) if model.rows else int(alive.sum()) - then
    not_seen = max(0, since)
    moved = drift.of_model(index, model) if not_seen else None
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "fitted_on": fitted_on,
        "fitted_in": str(model.attrs.get("fitted-in", "")),
        "not_seen": not_seen,
        "drift": moved and moved._asdict(),
        "bytes": model.nbytes,
        "identity": model.identity,
    }
