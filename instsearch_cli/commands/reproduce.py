"""`instsearch reproduce`: a paper's tables, measured again beside what it reported."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from instsearch_cli.commands import common
from instsearch_cli.pipeline import STAGE_NAMES

if TYPE_CHECKING:
    from instsearch_cli.pipeline import Pipeline
    from instsearch_cli.plugins import Registry
    from instsearch_cli.tables import Row, Table


@click.command("reproduce")
@click.argument("paper", required=False)
@click.option("--table", "numbers", multiple=True, help="Only this table; repeatable.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder with one folder a dataset, or one dataset."
)
@click.option("--dataset", help="Fill the tables for this dataset or MANIFEST.json instead of the paper's.")
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
@click.option(
    "--present-only", is_flag=True, help="Go on with the images that are there, if some are missing."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a table.")
@common.quiet_option
def command(paper: str | None, numbers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure the tables of PAPER again: its number, the measured one, the difference, the time.

    Without PAPER the papers that have tables are listed. A row that cannot run says why; the others go on.
    Stages that rows share are computed once.
    """
    from instsearch_cli.errors import UsageError, nearest
    from instsearch_cli.tables import by_paper, tables

    known = common.registry()
    if paper is None:
        for name, its in by_paper(known).items():
            click.echo(f"{name:<10} {its[0].paper_title}: tables {', '.join(table.number for table in its)}")
        return
    chosen = tables(known, paper)
    there = [table.number for table in chosen]
    for number in numbers:
        if number not in there:
            raise UsageError(f"{paper} has no table {number} here.{nearest(number, there)}")
    for table in chosen:
        if not numbers or table.number in numbers:
            results = Runs(known, options).table(table)
            click.echo(json.dumps(results) if as_json else "\n".join(lines(results)))


class Runs:
    """Measures rows."""

    def __init__(self, known: Registry, options: dict[str, Any]) -> None:
        from instsearch_cli.progress import make_progress

        self.known, self.options = known, options
        self.progress = make_progress(options["quiet"])

    def table(self, table: Table) -> dict[str, Any]:
        """Every row on every dataset, as it is printed with --json."""
        own = self.options["dataset"]
        datasets = (own,) if own else table.datasets
        self._check(table)
        rows = [
            {
                "name": row.name,
                "metric": row.metric,
                "results": {d: self._cell(table, row, d) for d in datasets},
            }
            for row in table.rows
        ]
        title = {
            "paper": table.paper,
            "table": table.number,
            "title": table.title,
            "datasets": list(datasets),
        }
        return {**title, "rows": rows}

    def _check(self, table: Table) -> None:
        """Raise UsageError for a setting that no row has."""
        from instsearch_cli.errors import InstsearchError, UsageError

        for setting in self.options["assignments"]:
            taken = False
            for row in table.rows:
                with contextlib.suppress(InstsearchError):
                    taken |= self._has(row.pipeline(table.base, self.options["extractor"], (), ()), setting)
            if not taken:
                raise UsageError(f"--set {setting}: no row of table {table.number} has such an option")

    def _cell(self, table: Table, row: Row, dataset: str) -> dict[str, Any]:
        """What was reported, what is measured, or why nothing is."""
        from instsearch_cli.errors import InstsearchError
        from instsearch_formats import FormatError

        cell: dict[str, Any] = {"reported": row.reported.get(dataset)}
        if row.only:
            return cell | {"why_not": row.only}
        began = time.perf_counter()
        try:
            cell["measured"] = self._measured(table, row, dataset, cell)
        except (InstsearchError, FormatError) as error:
            cell["why_not"] = str(error).splitlines()[0]
            return cell
        if cell["reported"] is not None:
            cell["difference"] = cell["measured"] - cell["reported"]
        return cell | {"took": time.perf_counter() - began}

    def _measured(self, table: Table, row: Row, name: str, cell: dict[str, Any]) -> float:
        from instsearch_cli.measuring import load_dataset, measure

        options = self.options
        settings = list(options["assignments"])
        if options["weights"] is not None:
            settings.append(f"extractor.weights={options['weights'].resolve()}")
        pipeline = row.pipeline(table.base, options["extractor"], (), options["rerank"])
        pipeline = pipeline.with_options([s for s in settings if self._has(pipeline, s)])
        name_in_index = f"{table.paper}-{table.number}-{row.name}".translate(SAFE)
        pipeline = replace(pipeline, name=name_in_index, keep_features=options["keep_features"])
        dataset = load_dataset(self.known, name, self._root(name))
        if name in row.fit_on:
            pipeline = self._fitted_elsewhere(pipeline, row.fit_on[name], cell)
        measured = measure(
            self.known,
            dataset,
            self._index(name),
            lambda last: pipeline,
            self.progress,
            device=options["device"],
            present_only=options["present_only"],
        )
        found = measured.evaluation
        by_metric = {
            "mAP": found.metrics["mAP"],
            "words": measured.values,
            "seconds": found.timing["search"],
        }
        return by_metric[row.metric]

    def _has(self, pipeline: Pipeline, setting: str) -> bool:
        """Whether a row's component has the option that "stage.option=value" sets."""
        stage, _, option = setting.partition("=")[0].strip().partition(".")
        component = getattr(pipeline, stage, None)
        if stage not in STAGE_NAMES or component is None:
            return False
        config = getattr(self.known.get(stage, component.name).load(), "Config", None)
        return option.replace("-", "_") in {f.name for f in fields(config)} if config else False

    def _fitted_elsewhere(self, pipeline: Pipeline, other: str, cell: dict[str, Any]) -> Pipeline:
        """Fit on the other dataset's images if they are there, else on the row's own, and say so."""
        from instsearch_cli.errors import InstsearchError
        from instsearch_cli.measuring import load_dataset, present, take_dataset
        from instsearch_cli.records import contents

        try:
            dataset = load_dataset(self.known, other, self._root(other))
            refs = present(dataset, self.options["present_only"])
        except InstsearchError:
            cell["note"] = f"fitted on itself: {other} is not there"
            return pipeline
        path = self._index(other)
        with common.writing(path, create=True) as index:
            take_dataset(index, dataset, refs, False, self.progress)
            return replace(pipeline, fit_on=str(common.absolute(path)), fit_on_digest=contents(index))

    def _root(self, name: str) -> Path | None:
        root: Path | None = self.options["root"]
        return root / name if root is not None and (root / name).is_dir() else root

    def _index(self, name: str) -> Path:
        from instsearch_cli.measuring import default_index

        folder: Path | None = self.options["index_path"]
        return folder / Path(name).stem if folder is not None else default_index(name, self._root(name))


SAFE = str.maketrans(dict.fromkeys(" ,/", "-"))


def lines(results: dict[str, Any]) -> list[str]:
    """A table for people: per dataset the paper's number, the measured one, their difference, seconds."""
    width = max(len(row["name"]) for row in results["rows"]) + 2
    datasets = results["datasets"]
    shown = [f"{results['paper']}, table {results['table']}: {results['title']}"]
    shown.append(" " * width + "".join(f"{Path(d).stem:^36}" for d in datasets).rstrip())
    shown.append(" " * width + "".join(f"{'paper':>8}{'here':>9}{'diff':>9}{'time':>9} " for _ in datasets))
    notes: list[str] = []
    for row in results["rows"]:
        cells = ""
        for dataset in datasets:
            cell = row["results"][dataset]
            said = [f"{cell['took']:.0f} s"] if "took" in cell else []
            if (note := cell.get("why_not") or cell.get("note")) is not None:
                notes += [note] if note not in notes else []
                said.append(f"[{notes.index(note) + 1}]")
            difference = f"{cell['difference']:+.3f}" if "difference" in cell else ""
            numbers = (_number(cell.get(key)) for key in ("reported", "measured"))
            cells += "{:>8}{:>9}".format(*numbers) + f"{difference:>9}{' '.join(said):>9} "
        shown.append(f"{row['name']:<{width}}{cells}".rstrip())
    return [*shown, *(f"[{i}] {note}" for i, note in enumerate(notes, 1)), ""]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.3f}"
