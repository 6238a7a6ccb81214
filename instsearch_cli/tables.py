"""Published tables and figures that plugins ship: what a paper reported, and the pipelines that measure it again.

A file of them is ``tables/NAME.toml`` beside a plugin's module:

    paper = "papers/1"
    title = "…"
    note = "…"                      what is to be known of every number here; may be left out
    [pipeline.extractor]            the rows' common pipeline, written like a preset
    [[table]]
    number = 3
    title = "…"
    metric = "mAP"                  of the table or of a row: or "words" an image, or "seconds" of search a query
    datasets = ["instre", …]
    [[table.row]]
    name = "Gaussian"
    weighting = "gaussian"          what differs from the common pipeline: stages, set = ["encoder.dims=512"], rerank
    reported = [0.656, …]           one number a dataset; nan where the paper has none
    fit-on = {oxford5k = "paris6k"} datasets that the encoder is fitted on instead of their own
    only = "…"                      why this row has nothing to run
    [[figure]]                      number, title, metric and datasets as of a table
    x = "detector.rho"              the option that is swept
    x-label = "…"
    values = [1, 2, …]              what it is set to
    seconds = true                  the time of a query is told beside every point
    [[figure.row]]                  a curve: name, stages, set, rerank, fit-on, only as of a row
    at = 1                          its one point's place on the axis: it is not swept
    [[figure]]                      number and title, and
    command = "instsearch …"        the command that makes it instead
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tomli_w

from instsearch_cli.errors import UsageError, nearest
from instsearch_cli.pipeline import STAGE_NAMES, Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_cli.plugins import Registry

METRICS = ("mAP", "words", "seconds")


Value = int | float | str


@dataclass(frozen=True)
class Row:
    """One method of a table, or one curve of a figure.

    ``reported`` is by dataset, without those that the paper leaves empty; ``at`` places a curve of one point.
    """

    name: str
    metric: str
    reported: Mapping[str, float]
    stages: Mapping[str, str]
    settings: tuple[str, ...] = ()
    rerank: tuple[str, ...] = ()
    fit_on: Mapping[str, str] = field(default_factory=dict)
    only: str = ""
    at: float | None = None

    def pipeline(
        self, base: Pipeline, extractor: str | None, settings: Sequence[str], rerank: Sequence[str]
    ) -> Pipeline:
        """The row's pipeline; another ``extractor`` takes the place of the paper's with all its options."""
        pipeline = base
        for stage, name in self.stages.items():
            if stage != "extractor" or extractor is None:
                pipeline = pipeline.with_stage(stage, name)
        own = [s for s in self.settings if extractor is None or not s.startswith("extractor.")]
        pipeline = pipeline.with_stage("extractor", extractor).with_rerank((*self.rerank, *rerank) or None)
        return pipeline.with_options([*own, *settings])


@dataclass(frozen=True)
class Table:
    """A table of a paper."""

    paper: str
    paper_title: str
    note: str
    number: str
    title: str
    base: Pipeline
    datasets: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def label(self) -> str:
        """ "table 3" """
        return f"table {self.number}"


@dataclass(frozen=True)
class Figure(Table):
    """A figure of a paper: what an option does, a curve a row; or the ``command`` that makes it."""

    metric: str = "mAP"
    x: str = ""
    x_label: str = ""
    values: tuple[Value, ...] = ()
    seconds: bool = False
    command: str = ""

    @property
    def label(self) -> str:
        """ "figure 5" """
        return f"figure {self.number}"


def by_paper(registry: Registry) -> dict[str, list[Table]]:
    """Every table that plugins ship, in order, then every figure, under its paper's name."""
    known: dict[str, list[Table]] = {}
    for file in registry.shipped("tables"):
        for table in parse_tables(file.text, f"{file.package}: {file.name}"):
            known.setdefault(table.paper, []).append(table)
    return known


def tables(registry: Registry, paper: str) -> list[Table]:
    """The tables and figures of a paper. Raises UsageError with the nearest name if no plugin has any."""
    known = by_paper(registry)
    if paper not in known:
        raise UsageError(f"no plugin has tables of '{paper}'.{nearest(paper, known)}")
    return known[paper]


def parse_tables(text: str, where: str) -> list[Table]:
    """The tables and figures of one file. Raises UsageError naming ``where`` and what is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    try:
        base = Pipeline.from_toml(tomli_w.dumps(content["pipeline"]), where)
        found = [_table(content, entry, base) for entry in content.get("table", ())]
        return [*found, *(_figure(content, entry, base) for entry in content.get("figure", ()))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{where} is not a file of tables: {type(error).__name__} {error}") from error


def _table(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> Table:
    rows = (_row(row, entry, {"metric", "reported"}) for row in entry["row"])
    return Table(**_common(content, entry, base), datasets=tuple(entry["datasets"]), rows=tuple(rows))


def _figure(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> Figure:
    what = f"figure {entry['number']}"
    if "command" in entry:
        _refuse_strays(entry, {"number", "title", "command"}, what)
        return Figure(**_common(content, entry, base), command=entry["command"])
    own = {"number", "title", "metric", "datasets", "x", "x-label", "values", "seconds", "row"}
    _refuse_strays(entry, own, what)
    if not entry["values"]:
        raise ValueError(f"{what} has no values")
    return Figure(
        **_common(content, entry, base),
        datasets=tuple(entry["datasets"]),
        rows=tuple(_row(row, entry, {"at"}) for row in entry["row"]),
        metric=entry["metric"],
        x=entry["x"],
        x_label=entry["x-label"],
        values=tuple(entry["values"]),
        seconds=bool(entry.get("seconds", False)),
    )


def _common(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> dict[str, Any]:
    return {
        "paper": content["paper"],
        "paper_title": content["title"],
        "note": content.get("note", ""),
        "number": str(entry["number"]),
        "title": entry["title"],
        "base": base,
    }


def _row(row: Mapping[str, Any], table: Mapping[str, Any], own: set[str]) -> Row:
    metric = row.get("metric", table["metric"])
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric}")
    _refuse_strays(
        row, {*STAGE_NAMES, "name", "set", "rerank", "fit-on", "only", *own}, f"row '{row['name']}'"
    )
    reported = zip(table["datasets"], row["reported"], strict=True) if "reported" in own else ()
    return Row(
        name=row["name"],
        metric=metric,
        reported={dataset: float(value) for dataset, value in reported if value == value},
        stages={stage: row[stage] for stage in STAGE_NAMES if stage in row},
        settings=tuple(row.get("set", ())),
        rerank=tuple(row.get("rerank", ())),
        fit_on=dict(row.get("fit-on", {})),
        only=row.get("only", ""),
        at=row.get("at"),
    )


def _refuse_strays(entry: Mapping[str, Any], known: set[str], what: str) -> None:
    if stray := sorted(entry.keys() - known):
        raise ValueError(f"{what} has no '{stray[0]}'")
