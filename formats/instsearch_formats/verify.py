"""Checking an index: every byte of every file, and that the files fit together."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple, Protocol

from instsearch_formats import places, seal
from instsearch_formats.errors import FormatError, UnreadableError
from instsearch_formats.fingerprint import canonical, fingerprint
from instsearch_formats.images import IDENTITY, tombstone_name
from instsearch_formats.part import Part, check_pictures, part_span
from instsearch_formats.survey import layer_folders, model_files, odd, part_files, tombstones

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from instsearch_formats.images import ImageTable


LISTED = 100  #: missing tombstones that are listed
LET_READ = "let it be read, which its permissions or its disk forbid; it may be whole: do not delete it"


class Problem(NamedTuple):
    """A file or folder, what is wrong with it, and what mends it, where the one who looked can say."""

    path: Path
    what: str
    mend: str = ""


class Progress(Protocol):
    """What :func:`verify` reports to."""

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None: ...
    def advance(self, n: int = 1) -> None: ...


def verify(index: Path, images: ImageTable, progress: Progress | None) -> list[Problem]:
    """All problems of an index, by path; none if it is sound. Partial files are no problem."""
    problems = [Problem(path, str(places.refusal(path))) for path in odd(index)]
    given: set[range] | None = None
    roots: int | None = None
    try:
        roots = len(images.roots)
        given = set(images.ranges())
        problems += [_problem(path, what) for path, what in images.faults()]
    except FormatError as error:
        problems.append(_problem(index / ("images" if roots is not None else "roots.json"), error))
    problems += _gaps(index)
    layers = {folder: part_files(folder, index) for folder in layer_folders(index)}
    work: list[tuple[Path, str, str, int | None]] = [
        (path, "images", "", roots) for path in part_files(index / "images", index)
    ]
    work += [(path, "images", "", None) for path in tombstones(index)]
    work += [(path, "models", path.stem, None) for path in model_files(index)]
    work += [
        (path, folder.parent.name, folder.name, None) for folder, parts in layers.items() for path in parts
    ]
    if progress:
        progress.start("verify", total=len(work), unit="files")
    for path, kind, folder_name, known_roots in work:
        problems += [
            _problem(path, what)
            for what in _faults(path, index, kind, folder_name, known_roots, images.pictures)
        ]
        if progress:
            progress.advance()
    for folder, parts in layers.items():
        problems += _misfits(folder, parts, given)
    return sorted(set(problems))


def _problem(path: Path, what: str | FormatError) -> Problem:
    """What is wrong with a file, or kept it from being looked at: of another that may not be read, that."""
    if isinstance(what, UnreadableError):
        return Problem(what.path, str(what), LET_READ)
    return Problem(path, str(what))


def _gaps(index: Path) -> Iterator[Problem]:
    """The tombstones that are missing, by their numbers."""
    numbers = {int(path.name[8:18]) for path in tombstones(index)}
    for number in missing(numbers, max(numbers, default=0)):
        yield Problem(
            index / "images" / tombstone_name(number),
            "it is missing, and the images that it removed are found again: put it back from a copy, or remove them "
            "again with `instsearch remove`",
        )


def missing(numbers: Collection[int], n: int) -> Iterator[int]:
    """The first LISTED of the numbers below n that are not there."""
    return itertools.islice((number for number in range(n) if number not in numbers), LISTED)


def _faults(
    path: Path, index: Path, kind: str, folder: str, roots: int | None, pictures: Callable[[range], str]
) -> Iterator[str | FormatError]:
    """What is wrong with one file."""
    try:
        seal.check(path, index)
        part = Part(path, index)
        identity = part.options()
        name = f"{part.name}-{fingerprint(identity)[:12]}" if folder else ""
        if part.kind != kind or name != folder or (not folder and identity != IDENTITY):
            yield f"it belongs to {part.kind}/{name}: it was moved or renamed"
            return
        if canonical(identity) != part.identity:
            yield "its identity is not in canonical JSON"
        check_pictures(part, pictures)
        if part.encoding.name == "arrays":
            part.attributes()
            return
        for first, last in part.cuts(0, len(part.span)):
            block = part.slice(first, last)
            if roots is not None and "root" in block and block["root"].max() >= roots:
                yield f"it names root {block['root'].max()} and roots.json has {roots}"
    except FormatError as error:
        yield error


def _misfits(folder: Path, parts: list[Path], given: set[range] | None) -> Iterator[Problem]:
    """How the parts of a layer fit each other and the image table."""
    if folder.parent.name == "search":
        return
    end = 0
    for path in parts:
        span = part_span(path.name) or range(0)
        if span.start < end:
            yield Problem(path, "it overlaps another part")
        if given is not None and span not in given:
            yield Problem(path, f"rows {span.start} to {span.stop} are no range of the image table")
        end = max(end, span.stop)
