"""An index brought to what its folders hold now, in one go: what is new, gone, renamed and changed in them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import records
from instsearch_cli.engine.away import Away
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.intake import Taking
from instsearch_cli.engine.making import index_each
from instsearch_cli.engine.matching import path_of
from instsearch_cli.engine.upkeep import check_removal, offline
from instsearch_cli.errors import InstsearchError, UsageError, printable
from instsearch_cli.images import Discovery, discover
from instsearch_formats.images import located

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.engine.making import How, Indexed, Start
    from instsearch_cli.engine.registry import Registry
    from instsearch_formats import Index


@dataclass(frozen=True, repr=False)
class Synced:
    """What became of an index, or would on a dry run; files by their paths.

    renamed    pairs of where a file was and where it is
    skipped    files and why each was left out: those that `remove` took out among them
    others     files that are other names of photographs, by links
    unchanged  images of which nothing was changed
    offline    how many images lie in each folder that is not there now, or empty
    images     how many there are then
    indexed    what was made of the new ones; None on a dry run, and where nothing is left
    """

    dry_run: bool
    added: list[str]
    replaced: list[str]
    renamed: list[tuple[str, str]]
    removed: list[str]
    skipped: list[tuple[str, str]]
    others: int
    unchanged: int
    offline: dict[str, int]
    images: int
    indexed: Indexed | None = None

    def __repr__(self) -> str:
        kinds = ("added", "replaced", "renamed", "removed")
        return f"<{', '.join(f'{len(vars(self)[kind]):,} {kind}' for kind in kinds)}>"

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        whole = {**vars(self)} | {"indexed": self.indexed and self.indexed.plain()}
        whole["renamed"] = [{"old": old, "new": new} for old, new in self.renamed]
        whole["skipped"] = [{"image": name, "reason": reason} for name, reason in self.skipped]
        return whole


class Plan:
    """What is to be done to an index so that it has what its folders have; :meth:`carry_out` does it.

    folders  those to look at, and what of the index lies in them (none: all that the index has)

    Raises InstsearchError for a folder that is not there and of which the index has nothing; UsageError for a file.
    """

    def __init__(self, index: Index, folders: Sequence[Path], how: How) -> None:
        self.index, self.how = index, how
        self.away, roots = Away(), index.images.roots
        named = [str(absolute(folder)) for folder in folders]
        chosen = list(dict.fromkeys(named or roots))
        for folder in chosen:
            if Path(folder).is_file():
                raise UsageError(f"{printable(folder)} is a file: `instsearch sync` takes folders")
        self._single = index.images.single - set(named)  # one that is named is looked at whole
        self._inside = [
            os.fsencode(folder).rstrip(b"/") + b"/" for folder in chosen if folder not in self._single
        ]
        self._files: set[bytes] = set()
        discovery = self._found(chosen)
        self.taking = Taking(index, discovery, how.progress, how.strict, how.max_pixels, how.recheck)
        self.taking.stay_out()
        self.taking.look()

    def _found(self, chosen: Sequence[str]) -> Discovery:
        """The pictures in the folders that are there, and of the roots of single files these."""
        table = self.index.images
        roots, alive, single = table.roots, table.alive(), self._single
        others, places = table.others(), []
        for row, record in table.records(range(len(alive))):
            if alive[row]:
                places += [(record.root, record.name), *others.get(row, ())]
        have = {located(roots, place) for place in places}
        self._files = {located(roots, place) for place in places if roots[place[0]] in single}
        walk = []
        for folder in chosen:
            below = os.fsencode(folder).rstrip(b"/") + b"/"
            if folder in single:
                files = sorted(path for path in self._files if path.startswith(below))
                walk += [file for path in files if (file := Path(os.fsdecode(path))).is_file()]
            elif not self.away.offline(folder):
                walk.append(Path(folder))
            elif folder not in roots and not any(path.startswith(below) for path in have):
                walk.append(Path(folder))  # which says what is wrong with it
        return discover(walk, empty=True)

    def within(self, path: bytes) -> bool:
        """Whether a file lies where was looked."""
        return path in self._files or any(path.startswith(folder) for folder in self._inside)

    def preview(self) -> Synced:
        """What would be done."""
        taking = self.taking
        matching, change = taking.matching, taking.preview(self.within)
        moved = {path_of(found): row for row, found in matching.moved.items()}
        stay = matching.removed.keys() | matching.moved.keys() | change.places.keys()
        names = {row: next(matching.places(row))[0] for row in matching.records}
        before = {row for row in change.removed.keys() - stay if matching.rows[names[row]] != row}
        live = names.keys() - matching.removed.keys() - before  # a run that was killed has replaced these
        firsts = {names[row]: row for row in live - stay}
        fresh = {path_of(fresh.found) for fresh in taking.fresh}
        replaced = fresh & firsts.keys()
        now = {row: located(matching.roots, places[0]) for row, places in change.places.items()}
        now |= {row: path for path, row in moved.items()}
        renamed = [(_shown(names[row]), _shown(path)) for row, path in now.items() if path != names[row]]
        gone = (change.removed.keys() & live) - stay - {firsts[path] for path in replaced}
        removed = [_shown(names[row]) for row in gone]
        away = offline(self.index, self.away, self.within)
        left = len(live) - len(removed)
        return Synced(
            dry_run=True,
            added=sorted(map(_shown, fresh - replaced - moved.keys())),
            replaced=sorted(map(_shown, replaced)),
            renamed=sorted(renamed),
            removed=sorted(removed),
            skipped=[
                s for s in taking.intake.skipped if not s[1].startswith(("same file as", "same folder as"))
            ],
            others=taking.intake.others,
            unchanged=left - len(replaced) - len(renamed) - sum(away.values()),
            offline=away,
            images=left + len(fresh - replaced - moved.keys()),
        )

    def carry_out(self, registry: Registry, starts: Sequence[Start], max_remove: str | int | None) -> Synced:
        """Do it, and make what the pipelines lack then, as `add` does; the caller holds the lock.

        Raises InstsearchError, before anything is written, where more images would go than ``max_remove`` allows.
        """
        done = self.preview()
        table = self.index.images
        check_removal("sync", len(done.removed), int(table.alive().sum()), max_remove)
        if not done.images:
            table.change(self.taking.finish(self.within).change)
            return _of(done, None)
        if records.last(self.index) is None:
            raise InstsearchError(f"{self.index.path} has no pipeline yet: run `instsearch index` first")
        take = lambda: self.taking.finish(self.within)  # noqa: E731
        indexed = index_each(self.index, registry, (), starts, self.how, take=take)
        return _of(done, indexed, int(table.alive().sum()))


def _of(done: Synced, indexed: Indexed | None, images: int = 0) -> Synced:
    """What was done, of what was to be."""
    later = indexed.outcome.skipped if indexed else []
    return replace(done, dry_run=False, skipped=[*done.skipped, *later], images=images, indexed=indexed)


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
