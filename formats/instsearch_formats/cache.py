"""Keeping the parts open that were read last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from instsearch_formats.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class PartCache:
    """The parts that were read last, still open. Safe to use from several threads."""

    def __init__(self, top: Path, size: int = 32) -> None:
        self._size, self._top = size, top
        self._open: OrderedDict[Path, Part] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, check: Callable[[Part], None]) -> Part:
        """The open part, checked by ``check`` when opened. A dropped one closes with its last user."""
        with self._lock:
            part = self._open.get(path)
            if part is None:
                part = Part(path, self._top)
                check(part)
                self._open[path] = part
                if len(self._open) > self._size:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return part

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._open.clear()
