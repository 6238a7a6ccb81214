"""Hits as text: a table on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from instsearch_cli.images import printable
from instsearch_cli.report.results import box_text, score_texts, tail

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from instsearch_cli.engine.answer import Answer

HEADER = ("rank", "score", "box x,y,w,h", "image")


def rows(result: Answer) -> list[tuple[str, str, str, str]]:
    """Rank, score, box and name of each hit, as text."""
    return [
        (str(hit.rank), score, box_text(hit.box), hit.image)
        for hit, score in zip(result.hits, score_texts(result.hits), strict=True)
    ]


def plain_table(result: Answer) -> str:
    """The hits in columns of one width, names in full at the end of the line; no line for no hits."""
    cells = [HEADER, *((rank, score, box, printable(name)) for rank, score, box, name in rows(result))]
    if len(cells) == 1:
        return ""
    wide = [max(len(row[i]) for row in cells) for i in range(3)]
    return "\n".join(f"{a:>{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}  {d}" for a, b, c, d in cells)


def rich_table(result: Answer, width: int) -> Table:
    """The hits as a table for a terminal of ``width`` columns; what does not fit of a name is its beginning."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = rows(result)
    fixed = [max(len(row[i]) for row in (HEADER, *cells)) for i in range(3)]
    room = max(12, width - sum(fixed) - 3 * 3 - 2)  # three spaces between columns, one at either edge
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title, wide in zip(HEADER, (*fixed, room), strict=True):
        table.add_column(
            title, justify="left" if title == HEADER[-1] else "right", no_wrap=True, min_width=wide
        )
    for rank, score, where, name in cells:
        table.add_row(Text(rank, "dim"), Text(score, "bold"), Text(where, "cyan"), Text(_fitting(name, room)))
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
    if console.is_terminal and result.hits:
        console.print(rich_table(result, console.width))
        console.print(result.summary, style="dim", highlight=False)
        return
    table = plain_table(result)
    encoding = getattr(console.file, "encoding", None) or "utf-8"
    for line in [*([table] if table else []), result.summary]:
        console.file.write(line.encode(encoding, "replace").decode(encoding) + "\n")
