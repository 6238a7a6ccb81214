"""How far the work is: bars with rate and time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

from instsearch_cli.errors import legible
from instsearch_cli.interrupt import check


def duration(seconds: float) -> str:
    """0:42, 12:05 or 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(nbytes: float) -> str:
    """1.4 MB and the like (powers of ten)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:,.0f} {unit}" if unit == "bytes" or nbytes >= 100 else f"{nbytes:,.1f} {unit}"


def pace(rate: float) -> str:
    """``12.5/s``, or ``28 s each`` where one takes seconds."""
    return f"{rate:,.1f}/s" if rate >= 0.5 else f"{1 / rate:,.0f} s each"


def units(n: float, several: str) -> str:
    """The word for one or several: ``image`` of ``images``, ``query`` of ``queries``."""
    if n != 1:
        return several
    return f"{several[:-3]}y" if several.endswith("ies") else several.removesuffix("s")


class Quiet:
    """Says nothing."""

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None:
        pass

    def advance(self, n: int = 1) -> None:
        check()

    def close(self) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Lines(Quiet):
    """One line when a task starts, every ten seconds, and when it ends."""

    every = 10.0

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.label = ""

    def say(self, line: str) -> None:
        print(legible(line), file=self.stream, flush=True)

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None:
        self.close()
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self.began = self.said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        check()
        self.done += n
        now = time.monotonic()
        if now - self.said >= self.every and self.done != self.total:  # of which `close` says that it is done
            self.said = now
            rate = self.done / (now - self.began)
            of = f" of {self.total:,}" if self.total else ""
            left = f", {duration((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
            self.say(
                f"{self.label}: {self.done:,}{of} {units(self.total or self.done, self.unit)}, {pace(rate)}{left}"
            )

    def close(self) -> None:
        if self.label:
            took = time.monotonic() - self.began
            rate = f", {pace(self.done / took)}" if self.done and took > 0.5 else ""
            self.say(f"{self.label}: {self.done:,} {units(self.done, self.unit)} in {duration(took)}{rate}")
            self.label = ""


class Bars(Quiet):
    """A bar a task, by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                speed = task.finished_speed or task.speed
                return Text(pace(speed) if speed else "", style="progress.data.speed")

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self.task: Any = None

    def say(self, line: str) -> None:
        self.progress.console.print(legible(line), markup=False, highlight=False, soft_wrap=True)

    def start(self, label: str, total: int | None = None, unit: str = "images") -> None:
        self._finish()
        self.progress.start()
        self.task = self.progress.add_task(label, total=total)

    def advance(self, n: int = 1) -> None:
        check()
        self.progress.advance(self.task, n)

    def _finish(self) -> None:
        if self.task is not None:
            done = self.progress.tasks[self.task].completed
            self.progress.update(self.task, total=done)

    def close(self) -> None:
        self._finish()
        self.task = None
        self.progress.stop()


def make_progress(quiet: bool = False) -> Quiet:
    """Bars where stderr is a terminal, lines where it is not, nothing with ``quiet``."""
    if quiet:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()
