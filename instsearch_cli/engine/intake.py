"""Taking images into an index: what is new gets a row, what is there is left alone, the rest says why not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from instsearch_cli.engine.stamps import Stamp, Stamps
from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import (
    MAX_PIXELS,
    BadImage,
    Discovery,
    Found,
    Reader,
    content_digest,
    examine,
    passing,
)
from instsearch_formats import ImageRecord
from instsearch_formats.images import location

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index

RANGE = 256
SKIPPED = "skipped: "


@dataclass
class Intake:
    """found = new + there + skipped, whatever happens.

    new counts the rows given out in this run; a picture that turns out later not to decode moves from
    ``new`` to ``skipped``.
    """

    found: int = 0
    new: int = 0
    there: int = 0
    changed: int = 0  #: among ``new``: files whose content replaced what was indexed under their name
    renamed: int = 0  #: among ``new``: files whose content was indexed under a name that is gone
    skipped: list[tuple[str, str]] = field(default_factory=list)
    places: list[Found] = field(default_factory=list)  #: of what was found, whether or not it was taken

    def skip_later(self, skipped: list[tuple[str, str]]) -> None:
        """Count pictures that turned out not to decode; those of earlier runs were counted as there."""
        for name, reason in skipped:
            if self.new:
                self.new -= 1
            else:
                self.there -= 1
            self.skipped.append((name, reason))


def take_in(
    index: Index,
    discovery: Discovery,
    progress: Quiet,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
    recheck: bool = False,
) -> Intake:
    """Give every new image a row, in ranges of 256, each range a part on disk.

    A file that is known, below whichever folder, with equal size and times is there already; with equal content too,
    which alone counts on ``recheck``; with other content it gets another row and counts as new, and its old row is
    :func:`outdated`. So does one whose content is indexed under a name that is gone, of which the old row is removed.
    Raises InstsearchError at the first image that cannot be taken, if strict.
    """
    table, stamps = index.images, Stamps(index)
    intake = Intake(len(discovery.found) + len(discovery.skipped), skipped=list(discovery.skipped))
    intake.places = discovery.found
    if strict and intake.skipped:
        raise _strict(*intake.skipped[0])
    removed = table.removed()
    records = {row: record for row, record in table.records() if row not in removed or _lasting(removed[row])}
    folders = table.roots
    rows = {location(folders, record): row for row, record in records.items()}

    def skip(found: Found, reason: str) -> None:
        if strict:
            raise _strict(found.display, reason)
        intake.skipped.append((found.display, reason))

    fresh: list[Found] = []
    if recheck:
        progress.start("checking files", len(discovery.found))
    for found in discovery.found:
        row = rows.get(os.path.join(os.fsencode(found.root), found.name))  # noqa: PTH118
        if recheck:
            progress.advance()
        if row is None:
            fresh.append(found)
            continue
        try:
            same = stamps.unchanged(row, found.path, records[row], recheck)
        except BadImage as error:
            skip(found, error.reason)
            continue
        if not same:
            intake.changed += 1
            fresh.append(found)
        elif row in removed:
            skip(found, removed[row].removeprefix(SKIPPED))
        else:
            intake.there += 1

    roots = {root: table.add_root(str(root)) for root in sorted({f.root for f in fresh})}

    def look(found: Found) -> tuple[ImageRecord, Stamp]:
        header, digest, status = examine(found.path, max_pixels)
        stamp, size = Stamp.of(status), (header.width, header.height)
        return ImageRecord(found.name, roots[found.root], *size, stamp.nbytes, stamp.mtime_ns, digest), stamp

    def give_rows() -> None:
        for row, (record, stamp) in zip(table.append([r for r, _ in pending]), pending, strict=True):
            stamps.note(row, stamp, record.digest)
        pending.clear()

    if fresh:
        progress.start("looking at files", len(fresh))
    pending: list[tuple[ImageRecord, Stamp]] = []
    digests: set[bytes] = set()
    with Reader(fresh, look, workers=2, ahead=64) as reader:
        for found, result in reader:
            if isinstance(result, BadImage):
                skip(found, result.reason)
            else:
                pending.append(result)
                digests.add(result[0].digest)
                intake.new += 1
            if len(pending) == RANGE:
                give_rows()
            progress.advance()
    if pending:
        give_rows()
    if gone := _renamed(index, records, digests):
        table.remove(gone, "renamed")
        intake.renamed = len(gone)
    stamps.save()
    progress.close()
    return intake


def outdated(index: Index) -> dict[int, int]:
    """The live rows of files that have a later row, which has their content as it is now, and that row."""
    removed, folders = index.images.removed(), index.images.roots
    newest: dict[bytes, int] = {}
    older: dict[int, bytes] = {}
    for row, record in index.images.records():
        if row not in removed or removed[row].startswith(SKIPPED):
            key = location(folders, record)
            if key in newest and newest[key] not in removed:
                older[newest[key]] = key
            newest[key] = row
    return {row: newest[key] for row, key in older.items()}


def unchanged(path: Path, record: ImageRecord) -> bool:
    """Whether a file is what was indexed: equal size and time, or equal content."""
    try:
        stamp = Stamp.of(path.stat())
        same = (stamp.nbytes, stamp.mtime_ns) == (record.nbytes, record.mtime_ns)
        return same or content_digest(path) == record.digest
    except (OSError, BadImage):
        return False  # looked at as new, which says what is wrong


def _renamed(index: Index, records: Mapping[int, ImageRecord], digests: set[bytes]) -> list[int]:
    """Live rows of the contents that came in now whose own files are gone, though their folder is there."""
    roots, alive = index.images.roots, index.images.alive()
    return [
        row
        for row, record in records.items()
        if alive[row]
        and record.digest in digests
        and os.path.isdir(roots[record.root])  # noqa: PTH112  (a disk that is not mounted is no rename)
        and not os.path.lexists(location(roots, record))
    ]


def _lasting(reason: str) -> bool:
    """Whether a row that is removed for a reason stands for what its file is until that changes."""
    return reason.startswith(SKIPPED) and not passing(reason.removeprefix(SKIPPED))


def _strict(name: str, reason: str) -> InstsearchError:
    return InstsearchError(f"{name}: {reason} (--strict)")
