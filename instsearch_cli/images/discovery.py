"""Finding the pictures: folders walked, links followed once, everything that is left out accounted for."""

from __future__ import annotations

import difflib
import errno
import functools
import os
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

from instsearch_cli.errors import InstsearchError, printable
from instsearch_cli.images.kinds import FOREIGN, PREFIX, Kind, kind_of, plug_in
from instsearch_cli.images.opening import FORMATS, BadImage, not_a_file, open_file, there

if TYPE_CHECKING:
    from collections.abc import Sequence

FileId = tuple[int, int, int, int, int]  # device, inode, bytes, and the times of modification and of change


@dataclass(frozen=True)
class Found:
    """A picture's place: ``root``, an absolute folder, and ``name``, its path from there with "/" between.

    A name is bytes, as the file system has it, so that one that is not UTF-8 is a name like any other.
    ``path`` is where to read it now, as the person wrote it.
    """

    root: Path
    name: bytes
    path: Path

    @property
    def display(self) -> str:
        """The path in printable characters."""
        return printable(self.path)


@dataclass
class Discovery:
    """What was found, in order of (root, name), and what was left out: (printable path, reason).

    again    files among those left out that are others' once more, by links, and the one that was found of each
    folders  those that were walked, absolute
    """

    found: list[Found] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    again: list[tuple[Found, Found]] = field(default_factory=list)
    folders: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class _Candidate:
    found: Found
    real: str  #: its path without links
    status: os.stat_result
    linked: bool


@dataclass(frozen=True)
class _Folder:
    path: str
    name: bytes
    linked: bool
    above: frozenset[str]


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the files in a folder that count as pictures."""
    plug_in()
    return frozenset(
        suffix
        for suffix, kind in PIL.Image.registered_extensions().items()
        if kind == "MPO" or (kind in FORMATS and kind in PIL.Image.OPEN)
    )


def discover(paths: Sequence[Path], empty: bool = False) -> Discovery:
    """Find the pictures in folders, walked whole, and among files, taken whatever their suffix.

    Hidden files and folders are passed over in silence, and files that are a picture neither by their suffix nor by
    their first bytes. Links are followed, each real folder is walked once per argument, and a real file counts
    once: the rest is skipped with its reason, as are pictures of kinds that are not read, so that what was found
    is ``len(found) + len(skipped)``. Of several ways to a file the one without a link wins, then the first.

    Raises :class:`InstsearchError` for a path that does not exist and, unless it may be ``empty``, a folder without a
    picture.
    """
    candidates: list[_Candidate] = []
    skipped: list[tuple[str, str]] = []
    folders: list[Path] = []
    for path in (there(Path(path)) for path in paths):
        status = _status(path)
        if stat.S_ISDIR(status.st_mode):
            inside, left_out = _walk(path)
            folders.append(Path(os.path.abspath(path)))  # noqa: PTH100
            if not inside and not empty:
                because = "; ".join(f"{name}: {reason}" for name, reason in left_out[:1])
                raise InstsearchError(
                    f"there is no picture in the folder '{printable(path)}'"
                    + (f" ({because})" if because else " (.jpg, .png, .tif, .webp and the like)")
                )
            candidates += inside
            skipped += left_out
        elif stat.S_ISREG(status.st_mode):
            absolute = Path(os.path.abspath(path))  # noqa: PTH100  (Path.resolve would follow links)
            found = Found(absolute.parent, os.fsencode(absolute.name), path)
            candidates.append(_Candidate(found, os.path.realpath(path), status, path.is_symlink()))
        else:
            raise InstsearchError(
                f"'{printable(path)}' is neither a file nor a folder, {not_a_file(status.st_mode)}"
            )
    winners, again = _once(candidates)
    ordered = sorted(winners, key=lambda found: (os.fsencode(found.root), found.name))
    skipped += [(other.display, f"same file as {found.display}") for other, found in again]
    return Discovery(ordered, sorted(skipped), again, frozenset(folders))


def _once(candidates: list[_Candidate]) -> tuple[list[Found], list[tuple[Found, Found]]]:
    """Each real file once, and the rest with what they are the same file as.

    Inode numbers alone tell nothing: some file systems have none, or give out one to several files.
    """
    winners: list[Found] = []
    again: list[tuple[Found, Found]] = []
    places: dict[str, Found] = {}
    files: dict[FileId, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.linked):
        winner = places.get(candidate.real)
        alike = files.setdefault(_id(candidate.status), [])
        if winner is None and candidate.status.st_ino:
            winner = next((other.found for other in alike if _one_file(candidate, other)), None)
        if winner is None:
            winners.append(candidate.found)
            alike.append(candidate)
        else:
            again.append((candidate.found, winner))
        places[candidate.real] = winner or candidate.found
    return winners, again


def _one_file(a: _Candidate, b: _Candidate) -> bool:
    """Whether two paths with one inode number are one file: by hard links, or else by what they hold."""
    if a.status.st_nlink > 1 and b.status.st_nlink > 1:
        return True
    try:
        with open_file(a.found.path) as one, open_file(b.found.path) as other:
            while (block := one.read(1 << 20)) == other.read(1 << 20):
                if not block:
                    return True
    except (BadImage, OSError):
        pass
    return False


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InstsearchError(f"'{printable(path)}' is a {_BROKEN}") from None
        raise InstsearchError(f"there is no file or folder '{printable(path)}'.{_nearest(path)}") from None
    except OSError as error:
        raise InstsearchError(f"'{printable(path)}': {_reason(error)}") from None


def _nearest(path: Path) -> str:
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)  # noqa: PTH208  (names only)
    except OSError:
        return ""
    return f" Did you mean '{printable(path.parent / close[0])}'?" if close else ""


def _walk(top: Path) -> tuple[list[_Candidate], list[tuple[str, str]]]:
    root = Path(os.path.abspath(top))  # noqa: PTH100  (Path.resolve would follow links)
    candidates: list[_Candidate] = []
    skipped: list[tuple[str, str]] = []
    walked: dict[str, str] = {}  # by paths without links: some file systems have no inode numbers
    folders = [_Folder(os.fspath(top), b"", False, frozenset())]
    links: deque[_Folder] = deque()  # after all real folders, so that a real place wins over a link to it
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        real = os.path.realpath(folder.path)
        if real in walked:
            reason = (
                "symbolic-link loop"
                if real in folder.above
                else f"same folder as {printable(Path(walked[real]))}"
            )
            skipped.append((printable(Path(folder.path)), reason))
            continue
        try:
            with os.scandir(folder.path) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            skipped.append((printable(Path(folder.path)), _reason(error)))
            continue
        walked[real] = folder.path
        inner: list[_Folder] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = folder.name + os.fsencode(entry.name)
            link = entry.is_symlink()
            try:
                if entry.is_dir():
                    below = _Folder(entry.path, name + b"/", folder.linked or link, folder.above | {real})
                    (links if link else inner).append(below)
                    continue
                status = _status_of_picture(entry)
            except BadImage as error:
                skipped.append((printable(Path(entry.path)), error.reason))
                continue
            except OSError as error:
                skipped.append((printable(Path(entry.path)), _reason(error)))
                continue
            if status is not None:
                where = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)  # noqa: PTH118
                found = Found(root, name, Path(entry.path))
                candidates.append(_Candidate(found, where, status, folder.linked or link))
        folders += reversed(inner)
    return candidates, skipped


def _status_of_picture(entry: os.DirEntry[str]) -> os.stat_result | None:
    """The status of a picture that may be read, by its suffix or, where that says nothing, by its first bytes.

    None for what is no picture; BadImage says why one is not read.
    """
    suffix = Path(entry.name).suffix.lower()
    picture = suffix in suffixes() or suffix in FOREIGN
    try:
        status = os.stat(entry.path)  # noqa: PTH116  (entry.stat() lacks the inode on Windows)
    except OSError as error:
        if picture or error.errno == errno.ELOOP:
            raise
        return None
    if odd := not_a_file(status.st_mode):
        if picture:
            raise BadImage(odd)
        return None
    if suffix in suffixes():
        return status
    try:
        kind = _first_bytes(Path(entry.path), suffix)
    except (BadImage, OSError):
        if picture:
            raise
        return None
    if kind is not None and not kind.reader and (picture or kind.picture):
        raise BadImage(kind.reason)
    if suffix in FOREIGN:
        if kind is None:
            raise BadImage("not an image" if status.st_size else "empty file")
        return status  # of a kind that is read, under the suffix of another
    if kind is not None and kind.reader and kind.name not in ("BMP", "PPM"):  # which few letters stand for
        raise BadImage(
            f"{kind.name} by its first bytes, with the suffix of no picture: rename it, or name it alone"
        )
    return None


def _first_bytes(path: Path, suffix: str) -> Kind | None:
    with open_file(path) as file:
        return kind_of(file.read(PREFIX), suffix)


def _id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_BROKEN = "symbolic link to nothing"


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symbolic-link loop"
    if error.errno == errno.ENOENT:
        return _BROKEN
    return f"cannot be read: {error.strerror}"
