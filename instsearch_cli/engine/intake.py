"""Taking images into an index: what is new gets a row, what is there is left alone, the rest says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images import MAX_PIXELS, BadImage, Discovery, Found, Reader, content_digest, read_header
from instsearch_formats import ImageRecord

if TYPE_CHECKING:
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
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def skip_later(self, skipped: list[tuple[str, str]]) -> None:
        """Count pictures that turned out not to decode; those of earlier runs were counted as there."""
        for name, reason in skipped:
            if self.new:
                self.new -= 1
            else:
                self.there -= 1
            self.skipped.append((name, reason))


def take_in(
    index: Index, discovery: Discovery, progress: Quiet, strict: bool = False, max_pixels: int = MAX_PIXELS
) -> Intake:
    """Give every new image a row, in ranges of 256, each range a part on disk.

    A file known under its name with equal size and time is there already; with equal content too; with
    other content its old row is removed and it counts as new. Raises InstsearchError at the first image
    that cannot be taken, if strict.
    """
    table = index.images
    intake = Intake(found=len(discovery.found) + len(discovery.skipped), skipped=list(discovery.skipped))
    if strict and intake.skipped:
        raise _strict(*intake.skipped[0])
    roots = {root: table.add_root(str(root)) for root in sorted({f.root for f in discovery.found})}
    removed = table.removed()
    records = {
        row: record
        for row, record in table.records()
        if row not in removed or removed[row].startswith(SKIPPED)
    }
    rows = {(record.root, record.name): row for row, record in records.items()}

    fresh: list[Found] = []
    for found in discovery.found:
        key = (roots[found.root], found.name)
        row = rows.get(key)
        if row is None:
            fresh.append(found)
            continue
        if not unchanged(found.path, records[row]):
            table.remove([row], "changed")
            intake.changed += 1
            fresh.append(found)
        elif row in removed:
            if strict:
                raise _strict(found.display, removed[row].removeprefix(SKIPPED))
            intake.skipped.append((found.display, removed[row].removeprefix(SKIPPED)))
        else:
            intake.there += 1

    def look(found: Found) -> ImageRecord:
        header = read_header(found.path, max_pixels)
        try:
            stat = found.path.stat()
            digest = content_digest(found.path)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        return ImageRecord(
            found.name, roots[found.root], header.width, header.height, stat.st_size, stat.st_mtime_ns, digest
        )

    if fresh:
        progress.start("looking at files", len(fresh))
    pending: list[ImageRecord] = []
    with Reader(fresh, look, workers=2, ahead=64) as reader:
        for found, result in reader:
            if isinstance(result, BadImage):
                if strict:
                    raise _strict(found.display, result.reason)
                intake.skipped.append((found.display, result.reason))
            else:
                pending.append(result)
                intake.new += 1
            if len(pending) == RANGE:
                table.append(pending)
                pending = []
            progress.advance()
    if pending:
        table.append(pending)
    progress.close()
    return intake


def unchanged(path: Path, record: ImageRecord) -> bool:
    """Whether a file is what was indexed: equal size and time, or equal content."""
    try:
        stat = path.stat()
        same = record.nbytes == stat.st_size and record.mtime_ns == stat.st_mtime_ns
        return same or content_digest(path) == record.digest
    except OSError:
        return False  # looked at as new, which says what is wrong


def _strict(name: str, reason: str) -> InstsearchError:
    return InstsearchError(f"{name}: {reason} (--strict)")
