"""Images that were removed, brought back as they were: nothing is computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from instsearch_cli.engine import skipped
from instsearch_cli.engine.away import Away
from instsearch_cli.engine.intake import REMOVED
from instsearch_cli.engine.names import Names
from instsearch_cli.engine.records import recorded
from instsearch_cli.engine.stages import CACHE, REGIONS, SEARCH
from instsearch_cli.engine.stamps import Stamps
from instsearch_cli.engine.upkeep import any_of
from instsearch_cli.errors import InstsearchError, UsageError, nearest, printable
from instsearch_cli.images import BadImage
from instsearch_formats.changes import Change
from instsearch_formats.images import location

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_formats import ImageRecord, Index, Layer

REASONS = (REMOVED, "missing")  #: why images were removed that may come back
CHANGED = "its file holds something else now: run `instsearch sync`"
GONE = "its file is not there"


class Restored(NamedTuple):
    """What came back: the files of these images, those that did not and why, and how many images there are."""

    restored: list[str]
    left: list[tuple[str, str]]
    images: int

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        left = [{"image": name, "reason": reason} for name, reason in self.left]
        return {"restored": self.restored, "left": left, "images": self.images}


def restore(index: Index, images: Sequence[str | os.PathLike[str]], everything: bool = False) -> Restored:
    """Bring back images that were removed, by file, folder, name or pattern, or all that can be.

    One that is there already is none to bring back. Raises InstsearchError for one that is not there, and, where it was
    named, for one that cannot be brought back; nothing comes back then.
    """
    if bool(images) == everything:
        raise UsageError("name images to restore, or --all")
    names, table = Names(index), index.images
    roots, removed = table.roots, table.removed()
    gone = {row: record for row, record in names.removed() if removed[row] in REASONS}
    places = {row: names.places(row, record) for row, record in gone.items()}
    rows = set(gone) if everything else set()
    for given in images:
        matches = any_of(places, given, roots)
        if not matches and not any_of({row: names.places(row, r) for row, r in names.live()}, given, roots):
            shown = printable(os.fspath(given))
            near = nearest(shown, [printable(os.fsdecode(record.name)) for record in gone.values()])[:200]
            raise InstsearchError(f"no image '{shown}' was removed from {index.path}.{near}")
        rows |= matches.keys()
    judge = _Judge(index)
    there = {location(roots, record) for _, record in names.live()}
    back: dict[bytes, int] = {}
    left: dict[bytes, str] = {}
    for row in sorted(rows, reverse=True):  # of one place the last one, if it is what lies there
        path = location(roots, gone[row])
        if path in there or path in back:
            continue
        if why := judge.why_not(row, gone[row]):
            left.setdefault(path, why)
        else:
            back[path] = row
    refused = [(_shown(path), why) for path, why in sorted(left.items()) if path not in back]
    if refused and not everything:
        more = f" (and {len(refused) - 1:,} more)" if len(refused) > 1 else ""
        raise InstsearchError(
            f"{refused[0][0]} cannot be brought back: {refused[0][1]}{more}\nNothing was changed."
        )
    table.change(Change(restored=set(back.values())))
    skipped.note(index, (), map(os.fsdecode, back))
    return Restored(sorted(map(_shown, back)), refused, int(table.alive().sum()))


class _Judge:
    """Whether rows may come back: their files are as they were, and all pipelines hold what was computed of them."""

    def __init__(self, index: Index) -> None:
        self.roots, self.stamps, self.away = index.images.roots, Stamps(index), Away()
        self.layers = list(_layers(index))

    def why_not(self, row: int, record: ImageRecord) -> str:
        """Why a row cannot come back; "" where it can. What is on a disk that is not there cannot be looked at."""
        root, path = self.roots[record.root], location(self.roots, record)
        if self.away.gone(root, path):
            return GONE
        try:
            if not self.stamps.unchanged(row, Path(os.fsdecode(path)), record):
                return CHANGED
        except BadImage as error:
            if not self.away.offline(root):
                return error.reason
        for pipeline, layer in self.layers:
            if layer.covers(row) and _emptied(layer, row):
                return (
                    f"too late, pipeline '{pipeline}' was made after it was removed: "
                    "`instsearch add` it, which computes it again"
                )
        return ""


def _layers(index: Index) -> Iterator[tuple[str, Layer]]:
    """The layers of recorded pipelines that have an item for each image; regions may have none of one that is there."""
    there = {info.path: info for info in index.layers() if info.kind not in (SEARCH, CACHE, REGIONS)}
    seen: set[str] = set()
    for record in recorded(index):
        for path in set(record.layers) & there.keys() - seen:
            seen.add(path)
            info = there[path]
            if info.encoding:
                layer = index.layer(info.kind, info.name, info.encoding, info.identity)
                yield record.pipeline.name, layer


def _emptied(layer: Layer, row: int) -> bool:
    """Whether a layer has the item of an image that was removed when it was made: cells of no grid, codes of no box."""
    head = layer.head(row)
    for grid in ("grid", "grids"):
        if grid in head:
            return not head[grid].any()
    return layer.encoding in ("vectors", "csr") and not len(layer.read(row)["boxes"])


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
