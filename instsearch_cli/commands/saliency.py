"""`instsearch saliency`: how well saliency maps agree with where people looked, or with annotated objects."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.measure.saliency import Report, Row
    from instsearch_cli.measure.saliency_precision import Report as PrecisionReport

SHOWN = 8  #: pictures on a sheet
WITH_DATA = ("split", "held_out", "sigma", "blur", "jitter", "max_pixels")
WITH_PRECISION = ("dataset", "root", "index_path", "boxes", "present_only", "keep_features", "histogram")


@click.command("saliency")
@click.option("--weighting", "weightings", multiple=True, required=True, help="A weighting; repeatable.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with images and fixations.json, or SALICON's folders.",
)
@click.option("--precision", is_flag=True, help="Measure what share of saliency lies on annotated objects.")
@click.option("--dataset", help="With --precision: a dataset by name, or a MANIFEST.json.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset's images are.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="The dataset's index (default: a cache)."
)
@click.option("--boxes", type=click.Path(path_type=Path), help="CSV of annotated boxes: image,x,y,w,h.")
@click.option("--present-only", is_flag=True, help="Take the dataset's images that are there.")
@click.option(
    "--keep-features/--no-keep-features", default=False, help="Keep raw features in the index (large)."
)
@click.option(
    "--histogram", type=click.Path(path_type=Path), help="PNG or SVG to write: how precisions are spread."
)
@click.option("--extractor", help="For weightings that read features: network or keypoint detector.")
@common.set_option
@common.weights_option
@common.device_option
@click.option("--split", help="SALICON's train or val (default: val where it is there).")
@click.option(
    "--held-out", type=click.IntRange(min=1), metavar="N", help="Only the last N images by sorted name."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images, evenly chosen.")
@click.option(
    "--sigma",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PIXELS",
    help="Blur of a fixation in a density (default: the data's densities, else 0.0375 of the longer side).",
)
@click.option(
    "--blur",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Gaussian laid over every map first, as a share of the width.",
)
@click.option(
    "--jitter/--no-jitter",
    default=True,
    show_default=True,
    help="Part equal values by noise of 1e-7 for AUC-Judd, as the MIT benchmark does.",
)
@click.option("--max-pixels", type=click.IntRange(min=1), default=None, help="Larger images are skipped.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help=f"PNG to write: the maps of {SHOWN} images side by side."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common.quiet_option
def command(weightings: tuple[str, ...], data: Path | None, **options: Any) -> None:
    """Score saliency maps against eye fixations: AUC-Judd, CC, NSS (more is better) and KL (less is better).

    A weighting that makes a map of the whole picture is scored on that; else its cells are laid over the
    picture. Two rows give the scale: a Gaussian on the centre, and what one person's fixations are worth
    when those of the others predict them. An option of one of several weightings is written
    --set weighting.NAME.OPTION=value.

    With --precision: what share of a map's saliency lies inside the annotated boxes of a dataset's images.
    Maps, and what is fitted to make them, stay in the dataset's index, where `eval` finds them, until
    `instsearch gc`. Two rows give the scale: equal saliency everywhere, and a Gaussian on the centre.
    """
    source = click.get_current_context().get_parameter_source
    check_mode({name for name in options if source(name) is ParameterSource.COMMANDLINE}, data, options)
    sheet_path: Path | None = options["sheet"]
    folder = sheet_path.parent if sheet_path else Path()
    common.usage(folder.is_dir(), f"--sheet: there is no folder {folder}")
    if options["precision"]:
        measure_precision(weightings, options)
    else:
        assert data is not None
        measure_fixations(weightings, data, options)


def check_mode(given: set[str], data: Path | None, options: dict[str, Any]) -> None:
    """Raise UsageError for flags of one measure given with the other, or for want of what to measure on."""
    if options["precision"]:
        common.usage(data is None, "--precision is measured on a --dataset with boxes, not on --data")
        common.usage(
            options["dataset"] is not None, "--precision needs --dataset: a name, or a MANIFEST.json"
        )
        stray = [name for name in WITH_DATA if name in given]
        common.usage(not stray, f"--{_flag(stray)} goes with --data, not with --precision")
    else:
        stray = [name for name in WITH_PRECISION if name in given]
        common.usage(not stray, f"--{_flag(stray)} goes with --precision")
        common.usage(data is not None, "what to measure on? Give --data, or --precision and --dataset")


def _flag(names: Sequence[str]) -> str:
    return {"index_path": "index"}.get(names[0], names[0].replace("_", "-")) if names else ""


def measure_fixations(weightings: Sequence[str], data: Path, options: dict[str, Any]) -> None:
    """Score against eye fixations, and print that."""
    from instsearch_cli.measure.verbs import evenly, saliency
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.saliency import SaliencySheet

    common.registry()
    sheet_path: Path | None = options["sheet"]
    sheet = SaliencySheet(())

    def chosen(names: Sequence[str]) -> None:
        sheet.names = frozenset(evenly(names, SHOWN) if sheet_path else ())

    arguments = ("split", "held_out", "limit", "sigma", "blur", "jitter", "extractor", "weights", "device")
    report = saliency(
        weightings,
        data,
        **{name: options[name] for name in arguments},
        max_pixels=options["max_pixels"],
        options=options["assignments"],
        progress=make_progress(options["quiet"]),
        chosen=chosen,
        watch=sheet.add,
    )
    if sheet_path is not None:
        sheet.write(sheet_path)
    if options["as_json"]:
        click.echo(json.dumps(as_json(report, data, options)))
        return
    for line in table(report.rows, report.scored):
        click.echo(line)
    unscored = report.found - report.scored - len(report.skipped)
    click.echo(
        f"{report.found:,} images = scored {report.scored:,} + skipped {len(report.skipped):,}"
        f" + not asked for {unscored:,}"
    )
    for line in notes(report):
        click.echo(line)
    if sheet_path is not None:
        click.echo(f"wrote {sheet_path}")


def measure_precision(weightings: Sequence[str], options: dict[str, Any]) -> None:
    """Score against annotated boxes, and print that."""
    from instsearch_cli.measure.datasets import default_index
    from instsearch_cli.measure.verbs import evenly, precision
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report import plot
    from instsearch_cli.report.saliency import SaliencySheet

    common.registry()
    histogram: Path | None = options["histogram"]
    if histogram is not None:
        plot.check(histogram)
        common.usage(histogram.parent.is_dir(), f"--histogram: there is no folder {histogram.parent}")
    index_path = options["index_path"] or default_index(options["dataset"], options["root"])
    sheet = SaliencySheet(())

    def chosen(names: Sequence[str]) -> None:
        sheet.names = frozenset(evenly(names, SHOWN) if options["sheet"] else ())

    arguments = ("root", "boxes", "limit", "keep_features", "present_only", "extractor", "weights", "device")
    report = precision(
        weightings,
        options["dataset"],
        index_path,
        **{name: options[name] for name in arguments},
        options=options["assignments"],
        progress=make_progress(options["quiet"]),
        chosen=chosen,
        watch=sheet.add_annotated,
    )
    if options["sheet"] is not None:
        sheet.write(options["sheet"])
    if histogram is not None:
        samples = {row.name: row.defined() for row in report.rows[:-2]}
        title = f"Saliency inside the annotated boxes, {report.dataset}"
        plot.histogram(histogram, samples, "saliency precision", f"share of {report.scored:,} images", title)
    if options["as_json"]:
        click.echo(json.dumps(precision_json(report, options)))
        return
    for line in precision_table(report):
        click.echo(line)
    for path in filter(None, (options["sheet"], histogram)):
        click.echo(f"wrote {path}")
    click.echo(f"index: {index_path}")


def table(rows: Sequence[Row], scored: int) -> list[str]:
    """The rows in columns of one width; a dash where nothing is defined."""
    from instsearch_cli.measure.saliency import METRICS

    cells = [["", *METRICS, "images", "images/s"]]
    for row in rows:
        numbers = ["–" if math.isnan(v) else f"{v:.3f}" for v in row.means().values()]
        rate = row.rate()
        cells.append([row.name, *numbers, f"{scored:,}", "–" if rate is None else f"{rate:,.1f}"])
    return columns(cells)


def precision_table(report: PrecisionReport) -> list[str]:
    """A line a row, then what adds up to the annotated images, and what a reader must know."""
    from instsearch_cli.measure.saliency_precision import STATISTICS

    cells = [["", *STATISTICS, "images", "images/s"]]
    for row in report.rows:
        numbers = ["–" if math.isnan(v) else f"{v:.3f}" for v in row.summary().values()]
        rate = row.rate()
        cells.append([row.name, *numbers, f"{len(row.defined()):,}", "–" if rate is None else f"{rate:,.1f}"])
    lines = columns(cells)
    unscored = report.annotated - report.scored - len(report.skipped)
    lines.append(
        f"{report.annotated:,} annotated images = scored {report.scored:,} + skipped {len(report.skipped):,}"
        f" + not asked for {unscored:,}"
    )
    for row in report.rows:
        lines += [f"fitted {what}" for what in row.fitted]
        if empty := report.scored - len(row.defined()):
            lines.append(
                f"{row.name}: no saliency anywhere in {empty:,} of {report.scored:,} images, left out"
            )
    return lines + skipped_lines(report.skipped)


def skipped_lines(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """The first images skipped, with their reasons, and how many more there are."""
    from instsearch_cli.images import printable

    lines = [f"  skipped {printable(name)}: {reason}" for name, reason in skipped[:10]]
    return lines + ([f"  … and {len(skipped) - 10:,} more"] if len(skipped) > 10 else [])


def columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns of one width, the first flush left, the others right."""
    wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([f"{line[0]:<{wide[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], wide[1:], strict=True))])
        for line in cells
    ]


def notes(report: Report) -> list[str]:
    """What a reader of the table must know: numbers that are not there, images skipped, points dropped."""
    lines = []
    for row in report.rows:
        for n in sorted(set(row.undefined().values()), reverse=True):
            which = ", ".join(m for m, count in row.undefined().items() if count == n)
            lines.append(f"{row.name}: {which} not defined in {n:,} of {report.scored:,} images, left out")
    lines += skipped_lines(report.skipped)
    if report.outside:
        lines.append(f"{report.outside:,} fixations outside their image dropped")
    return lines


def as_json(report: Report, data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The report for programs; null where a metric is not defined."""
    rows = []
    for row in report.rows:
        rate = row.rate()
        rows.append(
            {"name": row.name, "config": row.config}
            | {m: None if math.isnan(v) else v for m, v in row.means().items()}
            | {"images": report.scored, "undefined": row.undefined(), "images/s": rate and round(rate, 3)}
        )
    return {
        "data": str(data),
        "images": {
            "found": report.found,
            "scored": report.scored,
            "skipped": [{"image": n, "reason": r} for n, r in report.skipped],
            "not asked for": report.found - report.scored - len(report.skipped),
        },
        "outside": report.outside,
        "protocol": {k: options[k] for k in ("split", "held_out", "limit", "sigma", "blur", "jitter")},
        "rows": rows,
    }


def precision_json(report: PrecisionReport, options: dict[str, Any]) -> dict[str, Any]:
    """The report for programs, every image's precision with it; null where it is not defined."""
    rows = []
    for row in report.rows:
        rate = row.rate()
        rows.append(
            {"name": row.name, "config": row.config}
            | {name: _number(v) for name, v in row.summary().items()}
            | {"images": len(row.defined()), "undefined": report.scored - len(row.defined())}
            | {"images/s": rate and round(rate, 3), "fitted": row.fitted}
            | {"precision": {n: _number(v) for n, v in zip(report.images, row.values, strict=True)}}
        )
    return {
        "dataset": report.dataset,
        "images": {
            "annotated": report.annotated,
            "scored": report.scored,
            "skipped": [{"image": n, "reason": r} for n, r in report.skipped],
            "not asked for": report.annotated - report.scored - len(report.skipped),
        },
        "protocol": {"limit": options["limit"], "present_only": options["present_only"]},
        "rows": rows,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
