"""Taking images into an index: what is new gets a row, what is there is left alone, the rest says why not."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from instsearch_cli.engine.matching import SKIPPED, Matching, equal, path_of
from instsearch_cli.engine.name_hashes import note_names
from instsearch_cli.engine.records import recorded
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.stamps import Stamp, Stamps
from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images import MAX_PIXELS, BadImage, Discovery, Found, Reader, examine
from instsearch_formats import ImageRecord
from instsearch_formats.changes import Change
from instsearch_formats.images import located, location

if TYPE_CHECKING:
    from collections.abc import Callable

    from instsearch_cli.progress import Quiet
    from instsearch_formats import Index
    from instsearch_formats.changes import Place

RANGE = 256
REMOVED = "removed"  #: why a row is no image any more that somebody took out
OUT = "taken out before: `instsearch restore` brings it back"


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
    renamed: int = 0  #: among ``there``: files that were indexed under a name that is gone
    others: int = 0  #: found files that are other names of photographs that are there
    skipped: list[tuple[str, str]] = field(default_factory=list)
    places: list[Found] = field(default_factory=list)  #: of what was found, whether or not it was taken
    folders: frozenset[Path] = frozenset()  #: those that were walked
    change: Change = field(
        default_factory=Change
    )  #: what becomes of the rows that were there, yet to be written

    def skip_later(self, skipped: list[tuple[str, str]]) -> None:
        """Count pictures that turned out not to decode, by their paths; those of earlier runs were counted as there."""
        shown = {
            printable(os.fsdecode(path_of(found))): found.display
            for found in (self.places if skipped else ())
        }
        for name, reason in skipped:
            if self.new:
                self.new -= 1
            else:
                self.there -= 1
            self.skipped.append((shown.get(name, name), reason))


class Fresh(NamedTuple):
    """A file that gets a row of its own; the number of the record's root is yet to be put in."""

    found: Found
    record: ImageRecord
    stamp: Stamp


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
    :func:`outdated`. One that was moved keeps its row, and so does one that has several names: the ``change`` of what
    is returned says so, and is for the caller to write.
    Raises InstsearchError at the first image that cannot be taken, if strict.
    """
    taking = Taking(index, discovery, progress, strict, max_pixels, recheck)
    taking.look(at_once=True)
    return taking.finish()


class Taking:
    """One intake: :meth:`look` at the files, which writes nothing unless it is told to, then :meth:`finish`."""

    def __init__(
        self,
        index: Index,
        discovery: Discovery,
        progress: Quiet,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
        recheck: bool = False,
    ) -> None:
        self.index, self.discovery, self.progress = index, discovery, progress
        self.strict, self.max_pixels, self.recheck = strict, max_pixels, recheck
        self.stamps = Stamps(index)
        self.matching = Matching(index, self.stamps, recheck, depends_on_names(index))
        self.intake = Intake(len(discovery.found) + len(discovery.skipped), skipped=list(discovery.skipped))
        self.intake.places, self.intake.folders = discovery.found, discovery.folders
        self.fresh: list[Fresh] = []  #: those that have no row yet
        self._kin: dict[bytes, list[Found]] = {}  #: other names of files that are new, by the paths of these
        self._given: dict[bytes, int] = {}  #: rows of those of them that have one
        self._roots: dict[str, int] = {}
        #: what is not to come back as it was, by its places; by its content the rows, and their places
        self._out: dict[bytes, tuple[int, ImageRecord]] = {}
        self._out_digests: dict[bytes, dict[int, list[Place]]] = {}
        self._out_moved: dict[int, Found] = {}  #: rows of those that were found elsewhere, and where
        self._left_out: set[bytes] = set()  #: paths of files that are of these

    def stay_out(self) -> None:
        """Leave out what was taken out by name, and lies there as it did or was moved since."""
        table = self.index.images
        removed, placed = table.removed(), table.places()
        for row, record in table.records() if REMOVED in removed.values() else ():
            if removed.get(row) == REMOVED:
                its = list(placed.get(row, ())) or [(record.root, record.name)]
                self._out |= {located(table.roots, place): (row, record) for place in its}
                self._out_digests.setdefault(record.digest, {})[row] = its

    def look(self, at_once: bool = False) -> None:
        """See which image each file is; ``at_once``: give rows as they come, as a run does that may be killed."""
        if self.strict and self.intake.skipped:
            raise _strict(*self.intake.skipped[0])
        news = self._unknown()
        if news:
            self.progress.start("looking at files", len(news))
        with Reader(news, self._examined, workers=2, ahead=64) as reader:
            for found, result in reader:
                if isinstance(result, BadImage):
                    self._skip(found, result.reason)
                elif (row := self.matching.match(found, result.record.digest)) is not None:
                    self.intake.there += 1
                    self.intake.renamed += self.matching.moved.get(row) is found
                    self.intake.others += self.matching.moved.get(row) is not found
                elif self._was_out(found, result.record.digest):
                    self._leave_out(found)
                else:
                    self.fresh.append(result)
                    self.intake.new += 1
                if at_once and len(self.fresh) == RANGE:
                    self._give_rows()
                self.progress.advance()
        self._claim_names()
        self.progress.close()

    def _unknown(self) -> list[Found]:
        """The files that are none of the images as they were indexed; the others are counted."""
        matching, news = self.matching, self._told_from_others()
        if self.recheck:
            self.progress.start("checking files", len(self.discovery.found))
        for found in self.discovery.found:
            if self.recheck:
                self.progress.advance()
            try:
                row = matching.row_of(found)
            except BadImage as error:
                self._skip(found, error.reason)
                continue
            if row is None and self._is_out(found):
                self._leave_out(found)
            elif row is None:
                news.append(found)
            elif row in matching.removed:
                self._skip(found, matching.removed[row].removeprefix(SKIPPED))
            else:
                self.intake.there += 1
                self.intake.others += matching.named_otherwise(found)
        return news

    def _is_out(self, found: Found) -> bool:
        row, record = self._out.get(path_of(found), (-1, None))
        with contextlib.suppress(BadImage):
            return record is not None and self.stamps.unchanged(row, found.path, record)
        return False

    def _leave_out(self, found: Found) -> None:
        self._left_out.add(path_of(found))
        self.intake.skipped.append((found.display, OUT))

    def _was_out(self, found: Found, digest: bytes) -> bool:
        """Whether a new file is one that was taken out and then moved; each that was is one file."""
        for row, its in self._out_digests.get(digest, {}).items():
            if row not in self._out_moved and all(self._left(place) for place in its):
                self._out_moved[row] = found
                self.matching.leave_out(found, row)
                return True
        return False

    def _left(self, place: Place) -> bool:
        """Whether a place holds nothing any more, or something else than what was taken out there."""
        path = located(self.matching.roots, place)
        if self.matching.away.gone(self.matching.roots[place[0]], path):
            return True
        row, record = self._out[path]
        with contextlib.suppress(BadImage):
            return not self.stamps.unchanged(row, Path(os.fsdecode(path)), record)
        return False

    def _told_from_others(self) -> list[Found]:
        """Files that were taken for other names of some, by inodes that say nothing, and hold something else."""
        rows, news = self.matching.rows, []
        for other, winner in list(self.discovery.again):
            if path_of(other) not in rows and not equal(other.path, winner.path):
                self.discovery.again.remove((other, winner))
                self.intake.skipped = [s for s in self.intake.skipped if s[0] != other.display]
                news.append(other)
        return news

    def _claim_names(self) -> None:
        for other, winner in self.discovery.again:
            if (path := path_of(winner)) != path_of(other) and path not in self._left_out:
                self.intake.others += 1
                if not self.matching.claim(other, path):
                    self._kin.setdefault(path, []).append(other)

    def _examined(self, found: Found) -> Fresh:
        header, digest, status = examine(found.path, self.max_pixels)
        stamp, size = Stamp.of(status), (header.width, header.height)
        return Fresh(found, ImageRecord(found.name, 0, *size, stamp.nbytes, stamp.mtime_ns, digest), stamp)

    def _skip(self, found: Found, reason: str) -> None:
        if self.strict:
            raise _strict(found.display, reason)
        self.intake.skipped.append((found.display, reason))

    def _give_rows(self) -> None:
        for start in range(0, len(self.fresh), RANGE):
            some = self.fresh[start : start + RANGE]
            rows = self.index.images.append([f.record._replace(root=self._root(f.found)) for f in some])
            for row, (found, record, stamp) in zip(rows, some, strict=True):
                self.stamps.note(row, stamp, record.digest)
                self._given[path_of(found)] = row
        self.fresh.clear()

    def _root(self, found: Found) -> int:
        if (root := str(found.root)) not in self._roots:
            single = found.root not in self.discovery.folders
            self._roots[root] = self.index.images.add_root(root, single)
        return self._roots[root]

    def preview(self, within: Callable[[bytes], bool]) -> Change:
        """What is to become of the rows that are there; roots do not count."""
        return self.matching.change(lambda found: 0, within)

    def finish(self, within: Callable[[bytes], bool] | None = None) -> Intake:
        """Give what is new its rows, and say what is to become of the others; the caller writes that."""
        self._give_rows()
        for folder in {Path(root) for root in self.index.images.single} & self.discovery.folders:
            self.index.images.add_root(folder)  # which was looked at whole now
        rows, moved = self.matching.rows, self.matching.moved
        self.intake.changed = sum(path in rows and rows[path] not in moved for path in self._given)
        change = self.matching.change(self._root, within)
        for path, others in self._kin.items():
            if (row := self._given.get(path)) is not None:
                record = self.index.images.record(row)
                names = ((self._root(other), other.name) for other in others)
                change.places[row] = ((record.root, record.name), *names)
        for row, found in self._out_moved.items():
            change.places[row] = ((self._root(found), found.name),)
        self.stamps.save()
        note_names(self.index)
        self.intake.change = change
        return self.intake


def depends_on_names(index: Index) -> bool:
    """Whether a recorded pipeline has a component that goes by what images are called."""
    registry = load_registry()
    for record in recorded(index):
        for kind, stage in record.pipeline.stages().items():
            with contextlib.suppress(InstsearchError):  # one that is not installed makes nothing
                if registry.get(kind, stage.name).load().by_name:
                    return True
    return False


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


def _strict(name: str, reason: str) -> InstsearchError:
    return InstsearchError(f"{name}: {reason} (--strict)")
