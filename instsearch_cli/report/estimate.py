"""What many images will take, as a table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from instsearch_cli.engine.stages import SEARCH
from instsearch_cli.errors import printable
from instsearch_cli.progress import pace, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instsearch_cli.measure.forecast import Estimate

UNKNOWN = "not measured"


def long(seconds: float) -> str:
    """``0.45 s``, ``12 s``, ``25 min``, ``8.3 hours``, ``12 days``."""
    if seconds < 90:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length, most in (("min", 60, 90), ("hours", 3600, 72)):
        if seconds < most * length:
            return (
                f"{seconds / length:.1f} {unit}"
                if seconds < 10 * length
                else f"{seconds / length:.0f} {unit}"
            )
    return f"{seconds / 86400:,.1f} days" if seconds < 864000 else f"{seconds / 86400:,.0f} days"


def short(seconds: float) -> str:
    """``1.2 µs``, ``0.3 ms``, ``54 ms``, and from ten seconds on as :func:`long`."""
    if seconds >= 10:
        return long(seconds)
    if seconds >= 0.01:
        return f"{1000 * seconds:,.0f} ms"
    return f"{1000 * seconds:.2g} ms" if seconds >= 1e-4 else f"{1e6 * seconds:.2g} µs"


def much(nbytes: float) -> str:
    """As :func:`size`, and terabytes."""
    return f"{nbytes / 1e12:,.1f} TB" if nbytes >= 1e12 else size(nbytes)


def cells(done: Estimate) -> list[tuple[str, ...]]:
    """Titles, then what, an image, on one machine, with workers where there are some, and of a mirror."""
    n, making, asking, mirror = done.images, done.making, done.asking, done.mirror
    shared, alone = done.shared, making.line
    workers = (f"{done.workers} workers",) if shared else ()
    rows: list[tuple[str, ...]] = [(f"{n:,} images", "each", "one machine", *workers, "mirror")]

    def row(what: str, each: str, machine: str, others: str = "", copy: str = "") -> None:
        rows.append((what, each, machine, *((others or machine,) if workers else ()), copy))

    rows.append(
        (
            "to index",
            short(alone.each),
            long(alone.at(n)),
            *((long(shared.at(n)),) if shared else ()),
            UNKNOWN,
        )
    )
    rate = tuple(pace(n / max(line.at(n), 1e-9)) for line in (alone, shared) if line)
    rows.append(("images a second", "", *rate, ""))
    codes = mirror.codes * mirror.bytes_a_code
    row("on disk", much(done.disk.each), much(done.disk.at(n)), "", f"{much(codes * n)} of codes")
    for name, line in done.layers.items():
        row(f"  {name}", much(line.each), much(line.at(n)))
    query = short(mirror.query.at(n)) if mirror.query else UNKNOWN
    row("a question, warm", "", short(asking.at(n)), "", query)
    for name, seconds in asking.stages(n).items():
        row(f"  {name}", short(asking.search.each) if name == SEARCH else "", short(seconds))
    row("memory of its process", much(asking.memory.each), much(asking.memory.at(n)))
    row("  and, mapped from disk", much(done.mapped.each), much(done.mapped.at(n)))
    return rows


def notes(done: Estimate) -> Iterator[str]:
    """What was measured, and what to know of it."""
    yield (
        f"pipeline {done.pipeline}, measured with {done.sizes[0]:,} and {done.sizes[1]:,} images of "
        f"{printable(done.sample)}; questions among {done.among[0]:,} and {done.among[1]:,}; {done.cores} cores"
    )
    mirror = done.mirror
    yield f"a mirror has {mirror.codes:,.4g} {mirror.kind} codes an image, of {mirror.bytes_a_code:,.0f} bytes each"
    yield from done.notes


def print_estimate(done: Estimate) -> None:
    """Print the table and its notes to standard output: for a terminal, else columns of text."""
    from rich.console import Console

    console, rows = Console(file=sys.stdout), cells(done)
    if console.is_terminal:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for i, title in enumerate(rows[0]):
            table.add_column(title, justify="right" if i else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row, style="" if not row[0].startswith(" ") else "dim")
        console.print(table)
        for line in notes(done):
            console.print(line, style="dim", highlight=False, markup=False)
        return
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        text = [f"{row[0]:<{wide[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True))]
        print("  ".join(text).rstrip())
    for line in notes(done):
        print(line)
