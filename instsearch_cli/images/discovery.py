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

from instsearch_cli.errors import InstsearchError
from instsearch_cli.images.opening import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

FileId = tuple[int, int]  # device and inode


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
    """What was found, in order of (root, name), and what was left out: (printable path, reason)."""

    found: list[Found] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    found: Found
    id: FileId
    linked: bool


@dataclass(frozen=True)
class _Folder:
    path: str
    name: bytes
    linked: bool
    above: frozenset[FileId]


def printable(path: str | os.PathLike[str]) -> str:
    r"""A path for people: bytes that are not UTF-8 as ``\xff``, control characters as ``\n``."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the files in a folder that count as pictures."""
    return frozenset(
        suffix
        for suffix, kind in PIL.Image.registered_extensions().items()
        if kind == "MPO" or (kind in FORMATS and kind in PIL.Image.OPEN)
    )


def discover(paths: Sequence[Path]) -> Discovery:
    """Find the pictures in folders, walked whole, and among files, taken whatever their suffix.

    Hidden files and folders, and files without a picture's suffix, are passed over in silence. Links are
    followed, each real folder is walked once per argument, and a real file counts once: the rest is skipped
    with its reason, so that what was found is ``len(found) + len(skipped)``. Of several ways to a file the
    one without a link wins, then the first.

    Raises :class:`InstsearchError` for a path that does not exist and a folder without a picture.
    """
    candidates: list[_Candidate] = []
    skipped: list[tuple[str, str]] = []
    for path in map(Path, paths):
        status = _status(path)
        if stat.S_ISDIR(status.st_mode):
            inside, left_out = _walk(path)
            if not inside:
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
            candidates.append(_Candidate(found, _id(status), path.is_symlink()))
        else:
            raise InstsearchError(f"'{printable(path)}' is neither a file nor a folder")
    first: dict[FileId, Found] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.linked):
        winner = first.setdefault(candidate.id, candidate.found)
        if winner is not candidate.found:
            skipped.append((candidate.found.display, f"same file as {winner.display}"))
    ordered = sorted(first.values(), key=lambda found: (os.fsencode(found.root), found.name))
    return Discovery(ordered, sorted(skipped))


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
    walked: dict[FileId, str] = {}
    folders = [_Folder(os.fspath(top), b"", False, frozenset())]
    links: deque[_Folder] = deque()  # after all real folders, so that a real place wins over a link to it
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            id = _id(os.stat(folder.path))  # noqa: PTH116
            if id in walked:
                loop = id in folder.above
                reason = "symbolic-link loop" if loop else f"same folder as {printable(walked[id])}"
                skipped.append((printable(folder.path), reason))
                continue
            with os.scandir(folder.path) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            skipped.append((printable(folder.path), _reason(error)))
            continue
        walked[id] = folder.path
        inner: list[_Folder] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = folder.name + os.fsencode(entry.name)
            linked = folder.linked or entry.is_symlink()
            try:
                if entry.is_dir():
                    below = _Folder(entry.path, name + b"/", linked, folder.above | {id})
                    (links if entry.is_symlink() else inner).append(below)
                elif Path(entry.name).suffix.lower() in suffixes():
                    status = os.stat(entry.path)  # noqa: PTH116  (entry.stat() lacks the inode on Windows)
                    if not stat.S_ISREG(status.st_mode):
                        skipped.append((printable(entry.path), "not a regular file"))
                        continue
                    found = Found(root, name, Path(entry.path))
                    candidates.append(_Candidate(found, _id(status), linked))
            except OSError as error:
                skipped.append((printable(entry.path), _reason(error)))
        folders += reversed(inner)
    return candidates, skipped


def _id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


_BROKEN = "symbolic link to nothing"


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symbolic-link loop"
    if error.errno == errno.ENOENT:
        return _BROKEN
    return f"cannot be read: {error.strerror}"
