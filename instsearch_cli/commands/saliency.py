"""`instsearch saliency`: how well saliency maps agree with where people looked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.pipeline import Pipeline
    from instsearch_cli.plugins import Registry
    from instsearch_cli.saliency import Report, Row

SHOWN = 8  #: pictures on a sheet


@click.command("saliency")
@click.option("--weighting", "weightings", multiple=True, required=True, help="A weighting; repeatable.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder with images and fixations.json, or SALICON's folders.",
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
def command(weightings: tuple[str, ...], data: Path, **options: Any) -> None:
    """Score saliency maps against eye fixations: AUC-Judd, CC, NSS (more is better) and KL (less is better).

    A weighting that makes a map of the whole picture is scored on that; else its cells are laid over the
    picture. Two rows give the scale: a Gaussian on the centre, and what one person's fixations are worth
    when those of the others predict them. An option of one of several weightings is written
    --set weighting.NAME.OPTION=value.
    """
    from instsearch_cli.fixations import MOST_PIXELS, Fixations
    from instsearch_cli.fixations import split as part
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.saliency import SaliencySheet
    from instsearch_cli.saliency import measure

    known = common.registry()
    sheet_path: Path | None = options["sheet"]
    folder = sheet_path.parent if sheet_path else Path()
    common.usage(folder.is_dir(), f"--sheet: there is no folder {folder}")
    pipelines = [choose(known, name, weightings, options) for name in dict.fromkeys(weightings)]
    fixations = Fixations(data, options["split"], options["sigma"], options["max_pixels"] or MOST_PIXELS)
    names = fixations.names
    if options["held_out"] is not None:
        names = part(names, options["held_out"])[1]
    names = evenly(names, options["limit"] or len(names))
    sheet = SaliencySheet(evenly(names, SHOWN) if sheet_path else ())
    assemblies = [common.assemble(p, known, options["device"]) for p in pipelines]
    jitter = 1e-7 if options["jitter"] else 0.0
    progress = make_progress(options["quiet"])
    report = measure(fixations, names, assemblies, progress, options["blur"], jitter, sheet.add)
    if sheet_path is not None:
        sheet.write(sheet_path)
    if options["as_json"]:
        click.echo(json.dumps(as_json(report, data, len(fixations), options)))
        return
    for line in table(report.rows, report.scored):
        click.echo(line)
    apart = len(fixations) - len(names)
    click.echo(
        f"{len(fixations):,} images = scored {report.scored:,} + skipped {len(report.skipped):,}"
        f" + not asked for {apart:,}"
    )
    for line in notes(report):
        click.echo(line)
    if sheet_path is not None:
        click.echo(f"wrote {sheet_path}")


def choose(known: Registry, name: str, weightings: Sequence[str], options: dict[str, Any]) -> Pipeline:
    """The extractor and one of the weightings, with the options that are theirs."""
    from instsearch_cli.errors import UsageError, nearest

    known.get("weighting", name)
    assignments = []
    for assignment in options["assignments"]:
        key, equals, value = assignment.partition("=")
        stage, _, option = key.strip().partition(".")
        if stage not in ("extractor", "weighting"):
            raise UsageError(f"--set {key}: no stage '{stage}'.{nearest(stage, ('extractor', 'weighting'))}")
        named, dot, rest = option.partition(".")
        if stage == "weighting" and dot:
            if named not in weightings:
                raise UsageError(f"--set {key}: no weighting '{named}'.{nearest(named, weightings)}")
            if named != name:
                continue
            option = rest
        elif stage == "weighting" and len(set(weightings)) > 1:
            raise UsageError(f"--set {key}: which one? Write weighting.NAME.{option}=value")
        assignments.append(f"{stage}.{option}{equals}{value}")
    chosen = {
        "extractor": options["extractor"],
        "weights": options["weights"],
        "weighting": name,
        "assignments": assignments,
        "extract_only": True,
    }
    pipeline = common.choose_pipeline(known, None, chosen)
    return replace(pipeline, name=name, encoder=None, detector=None, searcher=None, rerank=())


def evenly(names: Sequence[str], n: int) -> list[str]:
    """At most n of the names, evenly spread, in their order."""
    return [names[i * len(names) // n] for i in range(n)] if n < len(names) else list(names)


def table(rows: Sequence[Row], scored: int) -> list[str]:
    """The rows in columns of one width; a dash where nothing is defined."""
    from instsearch_cli.saliency import METRICS

    cells = [["", *METRICS, "images", "images/s"]]
    for row in rows:
        numbers = ["–" if math.isnan(v) else f"{v:.3f}" for v in row.means().values()]
        rate = row.rate()
        cells.append([row.name, *numbers, f"{scored:,}", "–" if rate is None else f"{rate:,.1f}"])
    wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return [
        "  ".join([f"{line[0]:<{wide[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], wide[1:], strict=True))])
        for line in cells
    ]


def notes(report: Report) -> list[str]:
    """What a reader of the table must know: numbers that are not there, images skipped, points dropped."""
    from instsearch_cli.images import printable

    lines = []
    for row in report.rows:
        for n in sorted(set(row.undefined().values()), reverse=True):
            which = ", ".join(m for m, count in row.undefined().items() if count == n)
            lines.append(f"{row.name}: {which} not defined in {n:,} of {report.scored:,} images, left out")
    lines += [f"  skipped {printable(name)}: {reason}" for name, reason in report.skipped[:10]]
    if len(report.skipped) > 10:
        lines.append(f"  … and {len(report.skipped) - 10:,} more")
    if report.outside:
        lines.append(f"{report.outside:,} fixations outside their image dropped")
    return lines


def as_json(report: Report, data: Path, found: int, options: dict[str, Any]) -> dict[str, Any]:
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
            "found": found,
            "scored": report.scored,
            "skipped": [{"image": n, "reason": r} for n, r in report.skipped],
            "not asked for": found - report.scored - len(report.skipped),
        },
        "outside": report.outside,
        "protocol": {k: options[k] for k in ("split", "held_out", "limit", "sigma", "blur", "jitter")},
        "rows": rows,
    }
