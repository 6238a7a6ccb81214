"""Whose turn it is: a lock that goes to who is due first, and is given up in between for those who are."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 10.0  #: seconds that what takes long lets what is short go before


class Gate:
    """What one thread has at a time, and may take again; of those that wait the one that is due first is next.

    came  when the one that has it came
    depth  how often it has been taken
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._waiting: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._owner: int | None = None
        self.came, self.depth = 0.0, 0

    def take(self, came: float, due: float) -> None:
        """Wait until it is free and nobody waits who is due before."""
        me = threading.get_ident()
        with self._free:
            if self._owner != me:
                place = (due, next(self._numbers))
                bisect.insort(self._waiting, place)
                try:
                    while self._owner is not None or self._waiting[0] != place:
                        self._free.wait()
                    self._owner, self.came = me, came
                finally:  # an interrupt ends waiting, too
                    self._waiting.remove(place)
                    self._free.notify_all()
            self.depth += 1

    def leave(self) -> None:
        """Give back what was taken; nothing where it is not this thread's."""
        with self._free:
            if self._owner == threading.get_ident():
                self.depth -= 1
                if not self.depth:
                    self._owner = None
                    self._free.notify_all()


class Turns:
    """Some gates, always taken in one order: ``with`` for what takes long, :meth:`soon` for what is short.

    What is short is due when it comes, all else PATIENCE later, so that nothing waits for ever: earliest deadline first
    (Liu and Layland, JACM 1973).
    """

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates or (Gate(),)

    def __enter__(self) -> Turns:
        now = time.monotonic()
        self._take(now, now + PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    @contextlib.contextmanager
    def soon(self) -> Iterator[None]:
        """For what is short, at least at first (:meth:`give_way`)."""
        now = time.monotonic()
        self._take(now, now)
        try:
            yield
        finally:
            self._leave()

    def give_way(self) -> None:
        """Let others go before: what is left takes long, and is due as if it had from the beginning."""
        if all(gate.depth == 1 for gate in self.gates):
            came = self.gates[0].came
            self._leave()
            self._take(came, came + PATIENCE)

    def _take(self, came: float, due: float) -> None:
        with contextlib.ExitStack() as stack:
            for gate in self.gates:
                gate.take(came, due)
                stack.callback(gate.leave)
            stack.pop_all()

    def _leave(self) -> None:
        for gate in reversed(self.gates):
            gate.leave()
