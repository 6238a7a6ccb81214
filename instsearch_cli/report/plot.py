"""Curves and histograms of measurements, as PNG or SVG files that look the same everywhere."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instsearch_cli.errors import InstsearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE, DPI = (8.0, 5.0), 100  #: inches; pixels an inch in a PNG
PAPER, INK, SOFT, LINE = "#faf9f6", "#1b1a18", "#706d66", "#e3e0da"
COLOURS = ("#b80d52", "#26828e", "#482878", "#c07c00", "#3f7d3a", "#5a6b7d", "#e0653a", "#1f4e9c")
LARGE, NORMAL, SMALL = 12.0, 10.0, 9.0  #: type sizes, in points
LONGEST = 40  #: characters of a name beside its curve
MOST_TICKS = 14  #: more measured values than this, and the axis has round numbers instead


@dataclass(frozen=True)
class Curve:
    """One line of a plot: y over x, both of one length, x numbers or names in their order.

    ``reported`` marks numbers taken from a paper. A note is written beside the point of its place, if not "".
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    reported: bool = False
    notes: Sequence[str] = ()


def curves(path: Path, shown: Sequence[Curve], x_label: str, y_label: str, title: str = "") -> None:
    """Lines with a marker a value and their names at their ends.

    A reported curve is dashed, in the colour of the measured one whose name its own begins with. A y that is
    not finite leaves a gap. Numbers so close together at one end that they could not be told apart are spaced
    by their logarithm. Raises InstsearchError if ``path`` is neither .png nor .svg or cannot be written.
    """
    check(path)
    figure, axes = _sheet(x_label, y_label, title)
    places = _x_axis(axes, [v for curve in shown for v in curve.x])
    colours = _colours(shown)
    ends = []
    for curve, colour in zip(shown, colours, strict=True):
        x = np.array([places[v] for v in curve.x], float)
        y = np.array(curve.y, float)
        y[~np.isfinite(y)] = np.nan
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
        axes.plot(
            x,
            y,
            color=colour,
            linewidth=1.6 if curve.reported else 2.0,
            linestyle=(0, (4, 2.5)) if curve.reported else "-",
            marker="o",
            markersize=5 if curve.reported else 6,
            markerfacecolor=PAPER if curve.reported else colour,
            markeredgecolor=colour if curve.reported else PAPER,
            markeredgewidth=1.2,
            clip_on=False,
            zorder=2 if curve.reported else 3,
        )
        for at, value, note in zip(x, y, _notes(curve, order), strict=True):
            if note and not math.isnan(value):
                _note(axes, at, value, note)
        there = y[~np.isnan(y)]
        ends.append(float(there[-1]) if len(there) else math.nan)
    axes.margins(0.04, 0.08)
    _end_labels(axes, [_label(curve, shown) for curve in shown], ends, colours)
    _write(figure, path)


def histogram(
    path: Path,
    samples: Mapping[str, np.ndarray],
    x_label: str,
    y_label: str,
    title: str = "",
    bins: int = 20,
    span: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Overlaid histograms: the share of a sample's finite values in each of ``bins`` equal bins of ``span``.

    One colour a name, its mean marked; values beyond the span count in its outermost bins. Raises
    InstsearchError if ``path`` is neither .png nor .svg or cannot be written.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    check(path)
    figure, axes = _sheet(x_label, y_label, title)
    edges = np.linspace(*span, bins + 1)
    means, top = {}, 0.0
    for (name, sample), colour in zip(samples.items(), itertools.cycle(COLOURS)):
        finite = np.asarray(sample, float).ravel()
        finite = finite[np.isfinite(finite)]
        share = np.histogram(finite.clip(*span), edges)[0] / max(1, len(finite))
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
        axes.stairs(share, edges, color=colour, linewidth=1.6, baseline=None)
        mean = float(finite.mean()) if len(finite) else math.nan
        means[name] = (mean, len(finite), colour)
        top = max(top, float(share.max()))
    top = top or 1.0
    row = top * 0.09
    axes.set_xlim(*span)
    axes.set_ylim(0, top + row * (len(means) + 0.7))
    # the largest mean lowest: the lines of the smaller ones then pass to the left of every text
    in_order = sorted(means.items(), key=lambda item: -item[1][0] if not math.isnan(item[1][0]) else math.inf)
    for k, (name, (mean, n, colour)) in enumerate(in_order):
        _mean(axes, name, mean, n, colour, top + row * (k + 0.6), span)
    ticks = [t for t in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, top) if t <= top]
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if ticks[1] >= 0.01 else 1))
    _write(figure, path)


def _sheet(x_label: str, y_label: str, title: str) -> tuple[Figure, Axes]:
    """An empty plot: paper, faint horizontal lines, the y label above the axis, so that none is turned."""
    from matplotlib.figure import Figure

    figure = Figure(SIZE, DPI, facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)  # type: ignore[union-attr, call-arg]
    axes = figure.add_subplot(facecolor=PAPER)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=SOFT, linewidth=0.8)
    axes.grid(visible=False)
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=SOFT, length=3, width=0.8)
    axes.tick_params(axis="y", colors=SOFT, length=0)
    axes.set_xlabel(x_label, **_type(NORMAL, INK), labelpad=7)
    axes.set_title(y_label, loc="left", **_type(NORMAL, SOFT), pad=12)
    if title:
        figure.suptitle(_cut(title, 90), x=0.02, ha="left", **_type(LARGE, INK))
    return figure, axes


def _type(size: float, colour: str) -> dict[str, Any]:
    """Text in the typeface that comes with matplotlib, whatever the user's settings; a dollar is a dollar."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontProperties

    face = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = FontProperties(fname=str(face), size=size)
    return {"fontproperties": font, "color": colour, "parse_math": False, "usetex": False}


def _x_axis(axes: Axes, values: Sequence[float | str]) -> dict[float | str, float]:
    """Where each x lies: names one after another in the order met, numbers at their value; sets the ticks."""
    distinct = list(dict.fromkeys(values))
    if any(isinstance(v, str) for v in distinct):
        places: dict[float | str, float] = {v: float(i) for i, v in enumerate(distinct)}
        names = [v if isinstance(v, str) else f"{v:g}" for v in distinct]
        longest = max(map(len, names))
        crowded = longest * len(names) > 60
        axes.set_xticks(range(len(names)), [_cut(n, LONGEST) for n in names], **_type(NORMAL, SOFT))
        if crowded:
            for label in axes.get_xticklabels():
                label.set(rotation=30, ha="right", rotation_mode="anchor")
        return places
    places = {v: float(v) for v in distinct}
    at = np.array(sorted(places.values()))
    if len(at) > 1 and at[0] > 0 and np.diff(at).min() < 0.035 * np.ptp(at):
        axes.set_xscale("log")
        axes.minorticks_off()
    if 0 < len(at) <= MOST_TICKS:
        axes.set_xticks(_legible(at, axes.get_xscale() == "log"))
        axes.set_xticklabels([f"{v:,g}" if abs(v) < 1e6 else f"{v:g}" for v in axes.get_xticks()])
    return places


def _legible(at: np.ndarray, log: bool) -> list[float]:
    """Of ascending values, those whose numbers do not run into the one before."""
    places = np.log(at) if log else at
    kept = [0]
    for i in range(1, len(at)):
        if places[i] - places[kept[-1]] >= 0.045 * np.ptp(places):
            kept.append(i)
    return [float(at[i]) for i in kept]


def _colours(shown: Sequence[Curve]) -> list[str]:
    """A colour for each curve; a reported one has that of the measured curve with the start of its name."""
    supply = itertools.cycle(COLOURS)
    own = {curve.name: next(supply) for curve in shown if not curve.reported}
    colours = []
    for curve in shown:
        starts = [name for name in own if curve.name.startswith(name)]
        colours.append(own[max(starts, key=len)] if starts else next(supply))
    return colours


def _label(curve: Curve, shown: Sequence[Curve]) -> str:
    twin = curve.reported and any(c.name == curve.name and not c.reported for c in shown)
    return _cut(curve.name, LONGEST - 10) + ", reported" if twin else _cut(curve.name, LONGEST)


def _notes(curve: Curve, order: np.ndarray) -> list[str]:
    notes = [*curve.notes, *[""] * (len(order) - len(curve.notes))]
    return [notes[i] for i in order]


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text,
        (x, y),
        (0, 7),
        textcoords="offset points",
        ha="center",
        va="bottom",
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        zorder=4,
        **_type(SMALL, INK),
    )


def _end_labels(axes: Axes, names: Sequence[str], ends: Sequence[float], colours: Sequence[str]) -> None:
    """Each curve's name right of the plot, as high as its last value, moved apart where two would touch."""
    low, high = axes.get_ylim()
    wanted = np.array([0.0 if math.isnan(y) else (y - low) / (high - low) for y in ends])
    gap = min(NORMAL * 1.35 / (SIZE[1] * 72 * 0.76), 1 / max(1, len(names)))
    for name, end, at, colour in zip(names, ends, _spaced(wanted, gap), colours, strict=True):
        text = f"{name}: no value" if math.isnan(end) else name
        axes.annotate(
            text, (1, at), (10, 0), "axes fraction", "offset points", va="center", **_type(NORMAL, colour)
        )


def _spaced(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Heights in [0, 1] at least ``gap`` apart, in the order of those wanted and near them, f[n].

    Runs of labels that touch are centred on the mean of their wanted heights (pool adjacent violators).
    """
    order = np.argsort(wanted, kind="stable")
    runs: list[list[int]] = []
    start = np.zeros(0)

    def first(run: Sequence[int]) -> float:
        middle = float(np.mean(wanted[list(run)]))
        return min(max(middle - gap * (len(run) - 1) / 2, 0.0), max(0.0, 1 - gap * (len(run) - 1)))

    for i in order:
        runs.append([int(i)])
        while len(runs) > 1 and first(runs[-2]) + gap * len(runs[-2]) > first(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    start = np.empty(len(wanted))
    for run in runs:
        start[run] = first(run) + gap * np.arange(len(run))
    return start


def _mean(
    axes: Axes, name: str, mean: float, n: int, colour: str, height: float, span: tuple[float, float]
) -> None:
    """A line up from the mean, and what it is beside its end: on the left where the right is near."""
    at = span[0] if math.isnan(mean) else min(max(mean, span[0]), span[1])
    left = (at - span[0]) > 0.66 * (span[1] - span[0])
    if not math.isnan(mean):
        axes.plot([at, at], [0, height], color=colour, linewidth=1.2)
        axes.plot([at], [height], color=colour, marker="o", markersize=4)
    axes.annotate(
        f"{_cut(name, LONGEST)}: no value" if math.isnan(mean) else f"{_cut(name, LONGEST)}: mean {mean:.3f}",
        (at, height),
        (-8 if left else 8, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
        **_type(NORMAL, colour),
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def check(path: Path) -> None:
    """Raise InstsearchError for a path that is neither .png nor .svg: worth knowing before a long measurement."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InstsearchError(f"{path}: a plot is written as .png or .svg")


def _write(figure: Figure, path: Path) -> None:
    for axes in figure.axes:  # the numbers that matplotlib chose, in our type
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(**_type(NORMAL, SOFT))
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
            figure.savefig(path, format=path.suffix[1:].lower(), dpi=DPI, metadata=metadata)
    except OSError as error:
        raise InstsearchError(f"cannot write {path}: {error.strerror or error}") from error
