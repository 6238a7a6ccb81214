"""Published tables and figures that plugins ship: what a paper reported, and the pipelines that measure it again.

A file of them is ``tables/NAME.toml`` beside a plugin's module:

    paper = "mohedano2018"          first author and year in lower case, as `instsearch reproduce` takes it
    also = ["papers/1"]             other names of it; may be left out
    title = "…"
    note = "…"                      what is to be known of every number here; may be left out
    [pipeline.extractor]            the rows' common pipeline, written like a preset
    [[table]]
    number = 3
    title = "…"
    metric = "mAP"                  of the table or of a row: or mAP@10, that of the first 10 hits, or "words" an
                                    image, or "seconds" of search a query, or "seconds an image", from its pixels
                                    to its codes; a list of them is of one measurement
    datasets = ["instre", …]
    set = ["encoder.dims=512"]      of every row, before its own
    [[table.row]]
    name = "Gaussian"
    weighting = "gaussian"          what differs from the common pipeline: stages, set, rerank
    reported = [0.656, …]           one number a dataset, or a list of one a metric; nan where the paper has none
    fit-on = {oxford5k = "paris6k"} datasets that the encoder is fitted on instead of their own
    note = "…"                      what it needs, or where it is not as reported
    [[figure]]                      number, title, metric (one), datasets and set as of a table
    x = "detector.rho"              the option that is swept: of a stage, or of the dataset
    x-label = "…"
    values = [1, 2, …]              what it is set to
    seconds = true                  the time of a query is told beside every point
    [[figure.row]]                  a curve: name, stages, set, rerank, fit-on, note as of a row
    values = [3, 4]                 its own, in place of the figure's
    at = 1                          its one point's place on the axis: it is not swept
    [[figure]]                      number and title, and
    command = "instsearch …"        the command that makes it instead

Options of a dataset are set like those of a stage, "dataset.distractors=flickr". Where one is swept, what is learnt
from the collection is learnt at the first value.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import tomli_w

from instsearch_cli.engine.pipeline import STAGE_NAMES, Pipeline
from instsearch_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from instsearch_cli.engine.registry import Registry

IMAGE_SECONDS = "seconds an image"
METRIC = re.compile(rf"mAP(?:@([1-9][0-9]*))?|words|seconds|{IMAGE_SECONDS}")

Value = int | float | str


@dataclass(frozen=True)
class Row:
    """One method of a table, or one curve of a figure.

    ``metrics`` come of one measurement, and ``reported`` is by dataset and metric, without what the paper leaves
    empty. ``values`` are a curve's own; ``at`` places a curve of one point.
    """

    name: str
    metrics: tuple[str, ...]
    reported: Mapping[tuple[str, str], float]
    stages: Mapping[str, str]
    settings: tuple[str, ...] = ()
    rerank: tuple[str, ...] = ()
    fit_on: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    values: tuple[Value, ...] = ()
    at: float | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """The k of the row's mAP@k."""
        return tuple(int(found[1]) for m in self.metrics if (found := METRIC.fullmatch(m)) and found[1])

    @property
    def dataset_settings(self) -> tuple[str, ...]:
        """The row's settings of the dataset, "dataset.option=value"."""
        return tuple(filter(of_dataset, self.settings))

    def pipeline(
        self, base: Pipeline, extractor: str | None, settings: Sequence[str], rerank: Sequence[str]
    ) -> Pipeline:
        """The row's pipeline; another ``extractor`` takes the place of the paper's with all its options.

        Settings of the dataset are left out.
        """
        pipeline = base
        for stage, name in self.stages.items():
            if stage != "extractor" or extractor is None:
                pipeline = pipeline.with_stage(stage, name)
        own = [s for s in self.settings if extractor is None or not s.startswith("extractor.")]
        pipeline = pipeline.with_stage("extractor", extractor).with_rerank((*self.rerank, *rerank) or None)
        return pipeline.with_options([s for s in (*own, *settings) if not of_dataset(s)])


@dataclass(frozen=True)
class Table:
    """A table of a paper, which goes by its name and by those that it has ``also``."""

    paper: str
    also: tuple[str, ...]
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

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of all its rows."""
        return tuple(dict.fromkeys(metric for row in self.rows for metric in row.metrics))


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

    def places(self, row: Row) -> tuple[Value, ...]:
        """Where on the axis a row has points."""
        return (row.at,) if row.at is not None else row.values or self.values

    def over(self, values: Sequence[Value]) -> Figure:
        """The same figure, all of whose curves are swept over other values."""
        rows = tuple(replace(row, values=()) for row in self.rows)
        return replace(self, values=tuple(values), rows=rows)


def of_dataset(setting: str) -> bool:
    """Whether "stage.option=value", or "stage.option", is of the dataset."""
    return setting.strip().startswith("dataset.")


def by_paper(registry: Registry) -> dict[str, list[Table]]:
    """Every table that plugins ship, in order, then every figure, under its paper's name."""
    papers: dict[str, list[Table]] = {}
    for file in registry.shipped("tables"):
        for table in parse_tables(file.text, f"{file.package}: {file.name}"):
            papers.setdefault(table.paper, []).append(table)
    return papers


def tables(registry: Registry, paper: str) -> list[Table]:
    """The tables and figures of a paper, by any of its names.

    Raises UsageError with the nearest name if no plugin has any.
    """
    papers = by_paper(registry)
    names = {other: name for name, its in papers.items() for table in its for other in table.also}
    names |= {name: name for name in papers}
    if paper not in names:
        hint = nearest(paper, names)
        hint = hint if "Did you mean" in hint else nearest(paper, papers)
        raise UsageError(f"no plugin has tables of '{paper}'.{hint}")
    return papers[names[paper]]


def parse_tables(text: str, where: str) -> list[Table]:
    """The tables and figures of one file. Raises UsageError naming ``where`` and what is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    try:
        own = {"paper", "also", "title", "note", "pipeline", "table", "figure"}
        _refuse_strays(content, own, "a file of tables")
        base = Pipeline.from_toml(tomli_w.dumps(content["pipeline"]), where)
        found = [_table(content, entry, base) for entry in content.get("table", ())]
        return [*found, *(_figure(content, entry, base) for entry in content.get("figure", ()))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{where} is not a file of tables: {type(error).__name__} {error}") from error


def _table(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> Table:
    _refuse_strays(entry, {"number", "title", "metric", "datasets", "set", "row"}, f"table {entry['number']}")
    rows = (_row(row, entry, {"metric", "reported"}) for row in entry["row"])
    return Table(**_common(content, entry, base), datasets=tuple(entry["datasets"]), rows=tuple(rows))


def _figure(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> Figure:
    what = f"figure {entry['number']}"
    if "command" in entry:
        _refuse_strays(entry, {"number", "title", "command"}, what)
        return Figure(**_common(content, entry, base), command=entry["command"])
    own = {"number", "title", "metric", "datasets", "set", "x", "x-label", "values", "seconds", "row"}
    _refuse_strays(entry, own, what)
    if not entry["values"]:
        raise ValueError(f"{what} has no values")
    if not isinstance(entry["metric"], str):
        raise ValueError(f"{what} has one metric, not {entry['metric']}")
    return Figure(
        **_common(content, entry, base),
        datasets=tuple(entry["datasets"]),
        rows=tuple(_row(row, entry, {"at", "values"}) for row in entry["row"]),
        metric=entry["metric"],
        x=entry["x"],
        x_label=entry["x-label"],
        values=tuple(entry["values"]),
        seconds=bool(entry.get("seconds", False)),
    )


def _common(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> dict[str, Any]:
    return {
        "paper": content["paper"],
        "also": _listed(content.get("also", [])),
        "paper_title": content["title"],
        "note": content.get("note", ""),
        "number": str(entry["number"]),
        "title": entry["title"],
        "base": base,
    }


def _row(row: Mapping[str, Any], table: Mapping[str, Any], own: set[str]) -> Row:
    what = f"row '{row['name']}'"
    _refuse_strays(row, {*STAGE_NAMES, "name", "set", "rerank", "fit-on", "note", *own}, what)
    metrics = _listed(row.get("metric", table["metric"]))
    for metric in metrics:
        if not METRIC.fullmatch(metric):
            raise ValueError(
                f"metric is one of mAP, mAP@10 and the like, words, seconds, {IMAGE_SECONDS}, not {metric}"
            )
    if "at" in row and "values" in row:
        raise ValueError(f"{what} has one point, at {row['at']}, or values")
    reported = zip(table["datasets"], row["reported"], strict=True) if "reported" in own else ()
    numbers = {
        (dataset, metric): float(value)
        for dataset, values in reported
        for metric, value in zip(metrics, _listed(values), strict=True)
    }
    return Row(
        name=row["name"],
        metrics=metrics,
        reported={key: value for key, value in numbers.items() if value == value},
        stages={stage: row[stage] for stage in STAGE_NAMES if stage in row},
        settings=(*table.get("set", ()), *row.get("set", ())),
        rerank=tuple(row.get("rerank", ())),
        fit_on=dict(row.get("fit-on", {})),
        note=row.get("note", ""),
        values=tuple(row.get("values", ())),
        at=row.get("at"),
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _refuse_strays(entry: Mapping[str, Any], keys: set[str], what: str) -> None:
    if stray := sorted(entry.keys() - keys):
        raise ValueError(f"{what} has no '{stray[0]}'")


def select(
    registry: Registry,
    paper: str,
    numbers: Sequence[str] = (),
    figures: Sequence[str] = (),
    values: Sequence[Value] | None = None,
) -> list[Table]:
    """The tables and figures asked for, all if none is; ``values`` take the place of a figure's own.

    Raises UsageError for a number that is not there, and for values that are not of one figure.
    """
    every = tables(registry, paper)
    kinds: dict[str, dict[str, Table]] = {
        "table": {t.number: t for t in every if not isinstance(t, Figure)},
        "figure": {t.number: t for t in every if isinstance(t, Figure)},
    }
    wanted = {"table": numbers, "figure": figures}
    for kind, other in (("table", "figure"), ("figure", "table")):
        for number in wanted[kind]:
            if number not in kinds[kind]:
                hint = f" There is {other} {number}: --{other} {number}." if number in kinds[other] else ""
                raise UsageError(
                    f"{every[0].paper} has no {kind} {number} here.{hint or nearest(number, kinds[kind])}"
                )
    chosen = [
        table
        for kind in kinds
        for number, table in kinds[kind].items()
        if number in wanted[kind] or not (numbers or figures)
    ]
    if values is None:
        return chosen
    if not is_sweep(chosen):
        raise UsageError("--values are of one figure that is measured: name it with --figure")
    given = tuple(_value(value) if isinstance(value, str) else value for value in values)
    if not given:
        raise UsageError("--values takes the values to be set, 1,2,5 say")
    return [table.over(given) for table in chosen if isinstance(table, Figure)]


def is_sweep(chosen: Sequence[Table]) -> bool:
    """Whether it is one figure that is measured."""
    return len(chosen) == 1 and isinstance(chosen[0], Figure) and not chosen[0].command


def _value(text: str) -> Value:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text
