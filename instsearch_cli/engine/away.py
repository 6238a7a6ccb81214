"""What is away for a while, a folder of a disk that is not mounted, and what is gone for good."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  #: the last: a link that leads to itself


class Away:
    """Looks at each folder once."""

    def __init__(self) -> None:
        self._offline: dict[str, bool] = {}

    def offline(self, root: str) -> bool:
        """Whether a folder that has images is not there, cannot be listed, or is empty as a mount point is."""
        if root not in self._offline:
            try:
                with os.scandir(root) as entries:
                    self._offline[root] = all(entry.name.startswith(".") for entry in entries)
            except OSError:
                self._offline[root] = True
        return self._offline[root]

    def gone(self, root: str, path: bytes) -> bool:
        """Whether a file below a root is gone: not one whose root is offline, nor one that cannot be looked at now."""
        try:
            Path(os.fsdecode(path)).stat()
        except OSError as error:
            return error.errno in _NOT_THERE and not self.offline(root)
        return False
