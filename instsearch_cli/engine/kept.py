"""What comes again is kept in memory for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, those used last, of so much together: bytes, or a number of them; from several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """A value that is kept; None where it is not."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Keep a value of a size; those used longest ago go where there are too many."""
        with self._lock:
            self._drop(key)
            self._values[key] = value, size
            self._size += size
            while self._size > self.most and self._values:
                self._size -= self._values.popitem(last=False)[1][1]

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        if key in self._values:
            self._size -= self._values.pop(key)[1]
