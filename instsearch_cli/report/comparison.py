"""Pipelines, and runs of other programs, side by side: lines for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import printable
from instsearch_cli.progress import units
from instsearch_cli.report.lines import columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_cli.measure.comparison import Comparison
    from instsearch_cli.measure.datasets import Measured
    from instsearch_cli.measure.runs import ScoredRun

COLUMNS = ("precision@1", "precision@10", "localised@10")
ABSENT = ("found", "false found", "calibration error")
SHOWN = 5  #: queries that differ most


def comparison_lines(
    measured: Sequence[Measured | ScoredRun], comparisons: Sequence[Comparison], each: bool = False
) -> Iterator[str]:
    """A row a pipeline, then how each differs from the first, and by which queries; ``each``: all queries, too."""
    names = _columns(measured)
    rows = [["", *names, "ms a query"]]
    for one in measured:
        numbers = [_number(one.metrics.get(name)) for name in names]
        seconds = one.evaluation.timing.get("median seconds")
        rows.append([printable(one.name), *numbers, "–" if seconds is None else f"{1000 * seconds:.0f}"])
    dataset, n = measured[0].dataset, len(measured[0].queries)
    yield f"{dataset.name}: {n:,} {units(n, 'queries')}; protocol: {dataset.protocol}"
    yield from columns(rows)
    for c in comparisons:
        (a, b), (better, worse, equal) = c.means, c.counts
        left = f", {c.left_out:,} of one only left out" if c.left_out else ""
        yield ""
        yield (
            f"{printable(c.b)} against {printable(c.a)}: {b - a:+.3f} mAP, p = {c.p:.2g} (paired randomisation test); "
            f"better for {better:,} queries, worse for {worse:,}, equal for {equal:,}{left}"
        )
        shown = [pair for pair in c.largest(SHOWN) if pair.difference]
        cells = [["query", printable(c.a), printable(c.b), "difference"]]
        cells += [[printable(q.id), f"{q.a:.3f}", f"{q.b:.3f}", f"{q.difference:+.3f}"] for q in shown]
        yield from (f"  {line}" for line in columns(cells) if len(cells) > 1)
    if each:
        yield ""
        yield from columns(_side_by_side(measured))


def _columns(measured: Sequence[Measured | ScoredRun]) -> list[str]:
    """The metrics of the table: every mAP that any has, and what is said of queries whose object is not there."""
    there = list(dict.fromkeys(name for one in measured for name in one.metrics))
    means = [name for name in there if name.startswith("mAP")]
    absent = [name for name in there if name in ABSENT or name.startswith("found at ")]
    return [*means, *COLUMNS, *absent]


def _side_by_side(measured: Sequence[Measured | ScoredRun]) -> list[list[str]]:
    """A line a query: its average precision under each; n/a where it has none."""
    precisions = [{str(query["id"]): query["ap"] for query in one.queries} for one in measured]
    ids = dict.fromkeys(id for its in precisions for id in its)
    head = ["query", *(printable(one.name) for one in measured)]
    return [head, *([printable(id), *(_number(its.get(id)) for its in precisions)] for id in ids)]


def comparison_json(
    measured: Sequence[Measured | ScoredRun], comparisons: Sequence[Comparison], present_only: bool = False
) -> dict[str, Any]:
    """For programs, as schemas/eval-comparison.json has it."""
    return {
        "dataset": measured[0].dataset.name,
        "pipelines": [one.plain(present_only) for one in measured],
        "comparisons": [comparison.plain() for comparison in comparisons],
    }


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
