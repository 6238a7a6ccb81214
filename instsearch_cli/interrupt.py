"""Ctrl-C that cannot get lost.

Python drops a KeyboardInterrupt that comes while a destructor or a weak reference's callback runs, and prints its
traceback. The handler remembers it too, work that reports progress asks, and nothing is printed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_seen = False


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Remember Ctrl-C within this context."""
    global _seen
    _seen = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGINT, _handle), sys.unraisablehook
    sys.unraisablehook = lambda dropped: (
        None if isinstance(dropped.exc_value, KeyboardInterrupt) else hook(dropped)
    )
    try:
        yield
    finally:
        _seen = False
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed."""
    if _seen:
        raise KeyboardInterrupt


def _handle(number: int, frame: Any) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
