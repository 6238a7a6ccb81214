"""Opening, listing and removing inside an index: no link below its top folder is followed, only plain files are read.

Where the system has descriptors of folders, everything is reached from one that was opened without following a link,
so that a folder that is changed for a link in the meantime changes nothing. Elsewhere (Windows) each step is looked at.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING, NamedTuple

from instsearch_formats.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = 2**24  #: bytes of a text file at most
LINES = 2**30  #: of one that has a line for each image

_HERE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FILE = _HERE | getattr(os, "O_NONBLOCK", 0)  # opening a pipe that nobody writes to must not wait
_FOLDER = os.O_RDONLY | _HERE | getattr(os, "O_DIRECTORY", 0)
_BY_DESCRIPTOR = hasattr(os, "O_NOFOLLOW") and shutil.rmtree.avoids_symlink_attacks


class Entry(NamedTuple):
    """What lies in a folder: its path, and whether it is a plain file, a folder, or neither (a link, a pipe)."""

    path: Path
    is_file: bool
    is_folder: bool


def open_file(path: Path, top: Path | None = None, flags: int = os.O_RDONLY, limit: int | None = None) -> int:
    """A descriptor of a plain file of at most ``limit`` bytes.

    No link is followed below ``top`` (None: the file's own folder). Raises FormatError for what is no such file,
    OSError otherwise, FileNotFoundError where there is none.
    """
    top = path.parent if top is None else top
    if path.parent == top:
        descriptor = _open(path, flags)
    else:
        with _folder(path.parent, top) as inside:
            descriptor = _open(path, flags, inside)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise refusal(path)
        if limit is not None and status.st_size > limit:
            raise FormatError(
                f"{path} has {status.st_size:,} bytes where {limit:,} are the most there can be"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check(path: Path, top: Path) -> None:
    """Raises FormatError where a step from ``top`` down to ``path``, or that itself, is a link; it may be missing."""
    for step in _steps(path, top):
        if _is_link(step):
            raise refusal(step)


def entries(path: Path, top: Path) -> list[Entry]:
    """What lies in a folder, by name; nothing where it is not there, is no folder or is reached by a link."""
    try:
        with _folder(path, top) as inside, os.scandir(path if inside is None else inside) as found:
            listed = [
                Entry(path / e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False))
                for e in found
            ]
    except (OSError, FormatError):
        return []
    return sorted(listed)


def names(path: Path, top: Path) -> list[str]:
    """The names in a folder, in no order; none where there is no such folder. Raises FormatError for a link."""
    try:
        with _folder(path, top) as inside:
            return os.listdir(path if inside is None else inside)  # noqa: PTH208
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise refusal(path) from None


def remove(path: Path, top: Path, whole: bool = False) -> None:
    """Remove a file, a link itself or an empty folder, or if ``whole`` a folder with all in it; it may be missing.

    Raises FormatError where a link leads to it, OSError.
    """
    with contextlib.suppress(FileNotFoundError), _folder(path.parent, top) as inside:
        name: str | Path = path if inside is None else path.name
        if not stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode) or _is_link(path):
            os.unlink(name, dir_fd=inside)
        elif whole:
            shutil.rmtree(name, dir_fd=inside)
        else:
            os.rmdir(name, dir_fd=inside)


def refusal(path: Path) -> FormatError:
    """The error for what is a link, or no plain file or folder where there should be one."""
    if _is_link(path):
        return FormatError(
            f"{path} is a link, and none is followed inside an index: put what it leads to in its place, or delete it"
        )
    return FormatError(f"{path} is not the plain file or folder that belongs there: delete it")


@contextlib.contextmanager
def _folder(path: Path, top: Path) -> Iterator[int | None]:
    """A descriptor of a folder that no link below ``top`` leads to; None where the system has none."""
    if not _BY_DESCRIPTOR:
        check(path, top)
        yield None
        return
    descriptor = os.open(top, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
    try:
        for step in _steps(path, top):
            inner = _open(step, _FOLDER, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _steps(path: Path, top: Path) -> list[Path]:
    """The folders from ``top``, exclusive, down to ``path``, inclusive."""
    steps = [path]
    for _ in range(len(path.parts) - len(top.parts) - 1):
        steps.append(steps[-1].parent)
    return steps[::-1] if path != top else []


def _open(path: Path, flags: int, inside: int | None = None) -> int:
    """Open what a folder has of a path's name. Raises FormatError for a link."""
    try:
        if inside is None and _is_link(path):
            raise refusal(path)
        return os.open(path if inside is None else path.name, flags | _FILE, 0o644, dir_fd=inside)
    except OSError as error:
        if _is_link(path):
            raise refusal(path) from error
        raise


def _is_link(path: Path) -> bool:
    """Whether something is a link, one that leads nowhere or a junction of Windows among them."""
    try:
        status = path.lstat()
    except OSError:
        return False
    reparse = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    return stat.S_ISLNK(status.st_mode) or (
        reparse is not None and getattr(status, "st_reparse_tag", 0) == reparse
    )
