"""How well saliency maps agree with where people looked, or with annotated objects: in lines for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from instsearch_cli.engine.answer import counted
from instsearch_cli.report.lines import columns, skipped_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from instsearch_cli.measure.saliency import Report
    from instsearch_cli.measure.saliency_precision import Report as Precision


def fixation_lines(report: Report) -> list[str]:
    """A line a row, what adds up to the pictures found, and what a reader must know."""
    cells = [_cells(row.name, row.means().values(), report.scored, row.rate()) for row in report.rows]
    counts = f"{counted(report.found, 'image')} = scored {report.scored:,} + skipped {len(report.skipped):,}"
    lines = [
        *columns([["", *report.rows[0].means(), "images", "images/s"], *cells]),
        f"{counts} + not asked for {report.unscored:,}",
    ]
    for row in report.rows:
        for n in sorted(set(row.undefined().values()), reverse=True):
            which = ", ".join(m for m, count in row.undefined().items() if count == n)
            lines.append(f"{row.name}: {which} not defined in {n:,} of {report.scored:,} images, left out")
    lines += skipped_lines(report.skipped)
    if report.outside:
        lines.append(f"{report.outside:,} fixations outside their image dropped")
    return lines


def precision_lines(report: Precision) -> list[str]:
    """A line a row, what adds up to the annotated images, and what a reader must know."""
    cells = [_cells(row.name, row.summary().values(), len(row.defined()), row.rate()) for row in report.rows]
    counts = (
        f"{report.annotated:,} annotated images = scored {report.scored:,} + skipped {len(report.skipped):,}"
    )
    lines = [
        *columns([["", *report.rows[0].summary(), "images", "images/s"], *cells]),
        f"{counts} + not asked for {report.unscored:,}",
    ]
    for row in report.rows:
        lines += [f"fitted {what}" for what in row.fitted]
        if empty := report.scored - len(row.defined()):
            lines.append(
                f"{row.name}: no saliency anywhere in {empty:,} of {report.scored:,} images, left out"
            )
    return [*lines, *skipped_lines(report.skipped), f"index: {report.index}"]


def _cells(name: str, numbers: Iterable[float], images: int, rate: float | None) -> list[str]:
    """A row of the table; a dash where nothing is defined."""
    shown = ["–" if math.isnan(value) else f"{value:.3f}" for value in numbers]
    return [name, *shown, f"{images:,}", "–" if rate is None else f"{rate:,.1f}"]
