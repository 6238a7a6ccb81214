"""A paper's tables and figures, measured again, as text and as plots; out of what --json prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.errors import InstsearchError
from instsearch_cli.report.plot import Curve, curves

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from instsearch_cli.measure.tables import Value


def table_lines(results: dict[str, Any]) -> list[str]:
    """A table for people: per dataset the paper's number, the measured one, their difference, seconds.

    With several metrics of one row it is a table a dataset, these side by side.
    """
    width = max(len(row["name"]) for row in results["rows"]) + 2
    datasets = results["datasets"]
    shown = _title(results, "table")
    if len({row["name"] for row in results["rows"]}) < len(results["rows"]):
        return [*shown, *_metrics_side_by_side(results, width), ""]
    shown.append(" " * width + "".join(f"{Path(d).stem:^36}" for d in datasets).rstrip())
    shown.append(" " * width + "".join(f"{'paper':>8}{'here':>9}{'diff':>9}{'time':>9} " for _ in datasets))
    notes = Notes()
    for row in results["rows"]:
        cells = ""
        for dataset in datasets:
            cell = row["results"][dataset]
            said = [f"{cell['took']:.0f} s"] if "took" in cell else []
            said += notes.of(cell)
            numbers = (_number(cell.get(key)) for key in ("reported", "measured"))
            cells += "{:>8}{:>9}".format(*numbers) + f"{_difference(cell):>9}{' '.join(said):>9} "
        shown.append(f"{row['name']:<{width}}{cells}".rstrip())
    return [*shown, *notes.lines(), ""]


def _metrics_side_by_side(results: dict[str, Any], width: int) -> Iterator[str]:
    metrics, notes = results["metrics"], Notes()
    rows = {(row["name"], row["metric"]): row["results"] for row in results["rows"]}
    for dataset in results["datasets"]:
        width = max(width, len(Path(dataset).stem) + 2)
        yield f"{Path(dataset).stem:<{width}}{''.join(f'{m:^24}' for m in metrics)}".rstrip()
        yield " " * width + "".join(f"{'paper':>7}{'here':>8}{'diff':>8} " for _ in metrics) + f"{'time':>8}"
        for name in dict.fromkeys(name for name, _ in rows):
            cells = [rows[name, m][dataset] if (name, m) in rows else {} for m in metrics]
            numbers = "".join(
                f"{_number(cell.get('reported')):>7}{_number(cell.get('measured')):>8}{_difference(cell):>8} "
                for cell in cells
            )
            own = next(cell for cell in cells if cell)
            said = [f"{own['took']:.0f} s"] if "took" in own else []
            yield f"{name:<{width}}{numbers}{' '.join([*said, *notes.of(own)]):>8}".rstrip()
    yield from notes.lines()


def _difference(cell: dict[str, Any]) -> str:
    return f"{cell['difference']:+.3f}" if "difference" in cell else ""


def figure_lines(results: dict[str, Any]) -> list[str]:
    """A figure for people: per dataset a line a value, a column a curve."""
    if "command" in results:
        return [*_title(results, "figure"), f"made by: {results['command']}", ""]
    shown, notes = _title(results, "figure"), Notes()
    widths = [max(len(row["name"]), 16) + 2 for row in results["rows"]]
    for dataset in results["datasets"]:
        curves = [{point["x"]: point for point in row["results"][dataset]} for row in results["rows"]]
        xs = _in_order(x for curve in curves for x in curve)
        first = max(len(text) for text in [results["x_label"], *map(str, xs)]) + 2
        shown.append(f"{Path(dataset).stem}, {results['metric']}")
        names = [f"{row['name']:>{w}}" for row, w in zip(results["rows"], widths, strict=True)]
        shown.append(f"{results['x_label']:<{first}}{''.join(names)}")
        for x in xs:
            cells = [_point(curve.get(x), results["seconds"], notes) for curve in curves]
            row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            shown.append(f"{x!s:<{first}}{row}".rstrip())
    return [*shown, *notes.lines(), ""]


def _point(point: dict[str, Any] | None, seconds: bool, notes: Notes) -> str:
    if point is None:
        return ""
    took = [_milliseconds(point)] if seconds and "seconds" in point else []
    return " ".join([_number(point.get("measured")), *took, *notes.of(point)])


def _in_order(xs: Iterable[Value]) -> list[Value]:
    distinct = list(dict.fromkeys(xs))
    return distinct if any(isinstance(x, str) for x in distinct) else sorted(distinct, key=float)


class Notes:
    """Remarks on cells, each said once below."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def of(self, cell: dict[str, Any]) -> list[str]:
        """["[2]"], or [] for a cell without a remark."""
        note = cell.get("why_not") or cell.get("note")
        if note is None:
            return []
        if note not in self.said:
            self.said.append(note)
        return [f"[{self.said.index(note) + 1}]"]

    def lines(self) -> list[str]:
        return [f"[{i}] {note}" for i, note in enumerate(self.said, 1)]


def _title(results: dict[str, Any], kind: str) -> list[str]:
    title = f"{results['paper']}, {kind} {results[kind]}: {results['title']}"
    return [title, results["note"]] if "note" in results and "rows" in results else [title]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.3f}"


def _milliseconds(point: dict[str, Any]) -> str:
    milliseconds = 1000 * point["seconds"]
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def write_plot(results: dict[str, Any], path: Path) -> None:
    """Draw a figure. Raises InstsearchError if nothing of it was measured, or it cannot be written."""
    several = len(results["datasets"]) > 1
    drawn = []
    for row in results["rows"]:
        for dataset, points in row["results"].items():
            name = f"{row['name']}, {Path(dataset).stem}" if several else row["name"]
            x = [point["x"] for point in points]
            y = [point.get("measured", float("nan")) for point in points]
            timed = [_milliseconds(point) if "seconds" in point else "" for point in points]
            drawn.append(Curve(name, x, y, notes=timed if results["seconds"] else ()))
    if all(y != y for curve in drawn for y in curve.y):
        raise InstsearchError(f"{path} is not written: nothing of figure {results['figure']} was measured")
    where = "" if several else f" ({Path(results['datasets'][0]).stem})"
    title = f"{results['paper']}, figure {results['figure']}: {results['title']}{where}"
    curves(path, drawn, results["x_label"], results["metric"], title)
