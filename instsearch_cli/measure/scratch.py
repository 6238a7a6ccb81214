"""Folders to measure in, that are removed in the end: by a later run, where the one that made it was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.engine.session import Index
from instsearch_cli.errors import InstsearchError
from instsearch_formats import FormatError
from instsearch_formats.lock import WriterLock

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "instsearch-measuring-"
LOCK = "lock"  #: held by the process that measures
YOUNG = 60.0  #: seconds in which a folder may have no lock yet


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, gone in the end; what was left of others goes first, with the copies that mirrors keep of it."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, InstsearchError, FormatError):
            if _is_left(left):
                with WriterLock(left / LOCK).hold():
                    _drop_copies(left)
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with WriterLock(folder / LOCK).hold():
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Whether a folder may be one of this user's without the process that made it."""
    state = folder.lstat()
    mine = sys.platform == "win32" or state.st_uid == os.getuid()
    return mine and not folder.is_symlink() and time.time() - state.st_mtime > YOUNG


def _drop_copies(folder: Path) -> None:
    """Raises IndexInUse for an index that a process still writes to."""
    for head in folder.glob("*/format.json"):
        with Index.open(head.parent) as index:
            index.gc(forget=list(index.pipelines))
