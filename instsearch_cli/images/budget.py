"""Memory for decoding, shared by all readers of the process: spent before pixels are allocated, and waited for."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from instsearch_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST = 256_000_000  #: bytes; a machine that has less free is asked for more than a quarter of it


class TooMuch(Exception):  # noqa: N818
    """More than all of the budget; the message says how much."""


class Budget:
    """So many bytes, of which whoever decodes takes a share and gives it back."""

    def __init__(self, total: int | None = None) -> None:
        self._total, self._spent = total, 0
        self._free = threading.Condition()

    @property
    def total(self) -> int:
        """All of it: what was set, else a quarter of what was free when it was first needed."""
        if self._total is None:
            self._total = max(LEAST, free_memory() // 4)
        return self._total

    @contextmanager
    def limited(self, total: int) -> Iterator[None]:
        """Another total for a while."""
        before, self._total = self._total, total
        try:
            yield
        finally:
            self._total = before

    def divide(self, total: int | None, processes: int) -> None:
        """Take a share of what is for several processes of this machine (None: a quarter of what is free)."""
        self._total = total // processes if total else max(LEAST, free_memory() // 4 // processes)

    def check(self, nbytes: int) -> None:
        """Raise :class:`TooMuch` for what cannot be had even alone."""
        if nbytes > self.total:
            raise TooMuch(f"needs about {_size(nbytes)} to decode, limit {_size(self.total)}")

    @contextmanager
    def spend(self, nbytes: int) -> Iterator[None]:
        """Hold so many bytes, waiting for others to give theirs back. Raises :class:`TooMuch`."""
        self.check(nbytes)
        with self._free:
            self._free.wait_for(lambda: self._spent + nbytes <= self.total or not self._spent)
            self._spent += nbytes
        try:
            yield
        finally:
            with self._free:
                self._spent -= nbytes
                self._free.notify_all()


BUDGET = Budget()


@contextmanager
def decoding_within(memory: str) -> Iterator[None]:
    """Decode within an amount of memory, "2G" say; "": what it is otherwise. Raises UsageError for what is none."""
    with BUDGET.limited(parse_memory(memory)) if memory else nullcontext():
        yield


def free_memory() -> int:
    """Bytes that may be used without others being pushed out: of the machine, or of the group that limits us."""
    free = 4_000_000_000
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
        if found:
            free = 1024 * int(found[1])
    except OSError:
        with suppress(AttributeError, ValueError, OSError):
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):  # "max": no limit
            continue
    return free


def parse_memory(text: str) -> int:
    """``2G``, ``500M`` or ``1.5 GB`` in bytes. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    nbytes = int(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if not 0 < nbytes < 2**60:
        raise UsageError(f"'{text}' is no amount of memory: write 2G or 500M, say")
    return nbytes


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{max(1, round(nbytes / 1e6))} MB"
