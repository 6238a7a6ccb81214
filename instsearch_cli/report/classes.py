"""What a network takes pictures for, in lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.measure.classes import Ranked


def class_lines(ranked: Sequence[Ranked], n: int, top: int) -> list[str]:
    """The classes of n pictures in columns, names last; of several pictures with the share that has each."""
    lines = [f"{'class':>5}  " + ("" if n == 1 else f"{'share':>5}  ") + "probability  name"]
    for found in ranked:
        share = "" if n == 1 else f"{found.share:>5.0%}  "
        lines.append(f"{found.number:>5}  {share}{found.probability:>11.4f}  {found.name}".rstrip())
    if n > 1:
        lines.append(f"{n:,} pictures; share: of them, with the class among their {top:,} most probable")
    return lines
