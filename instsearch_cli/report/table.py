"""Hits as text: a table on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from instsearch_cli.errors import printable
from instsearch_cli.report.results import box_text, score_texts, tail

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from instsearch_cli.engine.answer import Answer

HEADER = ("rank", "score", "box x,y,w,h", "image")
VIEW, INDEX = "view", "index"  #: titles of columns more, before the image's, where there are several of them


def rows(result: Answer) -> list[tuple[str, ...]]:
    """Titles, then rank, score, box, view and index where there are several, and name of each hit, as text."""
    views, indexes = len(result.views) > 1, len(result.indexes) > 1
    more = [title for title, there in ((VIEW, views), (INDEX, indexes)) if there]
    cells: list[tuple[str, ...]] = [(*HEADER[:3], *more, HEADER[3])]
    for hit, score in zip(result.shown, score_texts(result.shown), strict=True):
        view = [str(hit.view + 1)] if views else []
        index = [printable(result.indexes[hit.index].name)] if indexes else []
        cells.append((str(hit.rank), score, box_text(hit.box), *view, *index, printable(hit.image)))
    return cells


def parting(result: Answer) -> str:
    """What stands between the found and the rest; "" where there is no rest."""
    return f"-- below {result.line:g} --" if result.below else ""


def plain_table(result: Answer) -> str:
    """The hits in columns of one width, names in full at the end of the line; no line for no hits."""
    cells = rows(result)
    if len(cells) == 1:
        return ""
    wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    lines = ["  ".join([*(f"{a:>{w}}" for a, w in zip(row, wide, strict=False)), row[-1]]) for row in cells]
    if text := parting(result):
        lines.insert(1 + len(result.above), text)
    return "\n".join(lines)


def rich_table(result: Answer, width: int) -> Table:
    """The hits as a table for a terminal of ``width`` columns; what does not fit of a name is its beginning."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    titles, *cells = rows(result)
    fixed = [max(len(row[i]) for row in (titles, *cells)) for i in range(len(titles) - 1)]
    room = max(
        12, width - sum(fixed) - 3 * len(fixed) - 2
    )  # three spaces between columns, one at either edge
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title, wide in zip(titles, (*fixed, room), strict=True):
        table.add_column(
            title, justify="left" if title == HEADER[-1] else "right", no_wrap=True, min_width=wide
        )
    styles = ["dim", "bold", "cyan", "", "", ""]
    for at, (*row, name) in enumerate(cells):
        if result.below and at == len(result.above):
            table.add_row(*[""] * len(fixed), Text(parting(result), "dim"))
        found = at < len(result.above)
        texts = [Text(text, style if found else "dim") for text, style in zip(row, styles, strict=False)]
        table.add_row(*texts, Text(_fitting(name, room), "" if found else "dim"))
    return table


def _fitting(name: str, room: int) -> str:
    """The end of a name that fits in so many columns of a terminal, where some letters take two."""
    from rich.cells import cell_len

    width = len(name) + room
    text = tail(name, width)
    while cell_len(text) > room:
        width = min(width, len(text)) - 1
        text = tail(name, width)
    return text


def print_table(result: Answer, console: Console | None = None) -> None:
    """Print the hits and a line about the search to standard output or to ``console``."""
    from rich.console import Console

    console = console or Console(file=sys.stdout)
    if console.is_terminal and result.shown:
        console.print(rich_table(result, console.width))
        for line in (result.summary, *result.notes):
            console.print(line, style="dim", highlight=False)
        return
    table = plain_table(result)
    encoding = getattr(console.file, "encoding", None) or "utf-8"
    for line in [*([table] if table else []), result.summary, *result.notes]:
        console.file.write(line.encode(encoding, "replace").decode(encoding) + "\n")
