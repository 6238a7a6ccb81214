"""Ctrl-C while a destructor runs, where Python drops it: nothing is printed, and it is remembered."""

from __future__ import annotations

import signal
import sys

import pytest

from instsearch_cli.interrupt import check, remembered


class Dropping:
    """Ends with Ctrl-C, or with a mistake."""

    def __init__(self, mistake: bool) -> None:
        self.mistake = mistake

    def __del__(self) -> None:
        if self.mistake:
            raise ZeroDivisionError
        signal.raise_signal(signal.SIGINT)


def test_dropped_by_a_destructor(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    with remembered():
        check()
        Dropping(mistake=False)
        with pytest.raises(KeyboardInterrupt):
            check()
        Dropping(mistake=True)
    check()  # what was pressed then is no matter of what comes after
    assert told == [ZeroDivisionError]
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGINT) is handler
