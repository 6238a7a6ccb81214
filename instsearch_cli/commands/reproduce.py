"""`instsearch reproduce`: a paper's tables and figures, measured again beside what it reported."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from instsearch_cli.commands import common


@common.command("reproduce")
@click.argument("paper", required=False)
@click.option("--table", "tables", multiple=True, metavar="N", help="Only this table; repeatable.")
@click.option("--figure", "figures", multiple=True, metavar="N", help="Only this figure; repeatable.")
@click.option("--values", metavar="V,V,…", help="Values of the option that the figure sweeps.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG or SVG to write: the figure.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder with one folder a dataset, or one dataset."
)
@click.option("--dataset", help="Measure on this dataset or MANIFEST.json instead of the paper's.")
@click.option(
    "--index", "index_path", type=click.Path(path_type=Path), help="Folder for indexes (default: a cache)."
)
@click.option("--extractor", help="This network instead of the paper's, with its own defaults.")
@click.option("--rerank", multiple=True, help="Rerankers after those of every row; repeatable.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Any option of any component, in the rows whose component has it.",
)
@click.option("--keep-features", is_flag=True, help="Keep raw features on disk, for the next rows (large).")
@common.weights_option
@common.device_option
@common.wait_option
@click.option(
    "--present-only", is_flag=True, help="Go on with the images that are there, if some are missing."
)
@click.option(
    "-j", "--json", "as_json", is_flag=True, help="Print one JSON object a table or figure, a line each."
)
@common.quiet_option
def command(paper: str | None, as_json: bool, plot: Path | None, **options: Any) -> None:
    """Measure the tables and figures of PAPER again: its number, the measured one, the difference, the time.

    PAPER is the first author and the year, mohedano2018 say; without it the papers that have any are listed. A
    figure is a sweep: a line a value of one option, a column a curve. A row that cannot run says why; the others
    go on. Stages that rows share are computed once.
    """
    from instsearch_cli.measure.tables import Figure, by_paper, is_sweep, select
    from instsearch_cli.progress import make_progress
    from instsearch_cli.report.papers import listing, listing_lines

    registry = common.registry()
    if paper is None:
        check_listing()
        papers = by_paper(registry)
        common.echo(json.dumps(listing(papers)) if as_json else "\n".join(listing_lines(papers)))
        return
    values = options["values"]
    swept = None if values is None else [text.strip() for text in values.split(",") if text.strip()]
    chosen = select(registry, paper, options["tables"], options["figures"], swept)
    if plot is not None:
        common.usage(is_sweep(chosen), "--plot draws one figure that is measured: name it with --figure")
        common.writable("--plot", plot, ".png", ".svg")
    from instsearch_cli.measure.reproduce import Runs, Wanted
    from instsearch_cli.report.reproduced import figure_lines, table_lines, write_plot

    wanted = Wanted(**{field.name: options[field.name] for field in fields(Wanted)})
    runs = Runs(registry, wanted, make_progress(options["quiet"]))
    for table, results in zip(chosen, runs.all(chosen, swept is not None), strict=True):
        lines = figure_lines if isinstance(table, Figure) else table_lines
        common.echo(json.dumps(results) if as_json else "\n".join(lines(results)))
        if plot is not None:
            write_plot(results, plot)
            if not as_json:
                common.echo(f"wrote {plot}")


def check_listing() -> None:
    """Raise UsageError for a flag that is of measuring, where no paper is named."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        stray = given and name not in ("as_json", "quiet")
        common.usage(not stray, f"{parameter.opts[0]}: of which paper? `instsearch reproduce` lists them")
