"""What several reports in lines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsearch_cli.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def skipped_lines(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """The first images skipped, with their reasons, and how many more there are."""
    lines = [f"  skipped {printable(name)}: {reason}" for name, reason in skipped[:10]]
    return lines + ([f"  … and {len(skipped) - 10:,} more"] if len(skipped) > 10 else [])


def columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns of one width, the first flush left, the others right."""
    wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([f"{line[0]:<{wide[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], wide[1:], strict=True))])
        for line in cells
    ]
