"""Published tables that plugins ship: what a paper reported, row by row, and the pipeline that measures it again.

A table file is ``tables/NAME.toml`` beside a plugin's module:

    paper = "papers/1"
    title = "…"
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


@dataclass(frozen=True)
class Row:
    """One method of a table. ``reported`` is by dataset, without those that the paper leaves empty."""

    name: str
    metric: str
    reported: Mapping[str, float]
    stages: Mapping[str, str]
    settings: tuple[str, ...] = ()
    rerank: tuple[str, ...] = ()
    fit_on: Mapping[str, str] = field(default_factory=dict)
    only: str = ""

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
    number: str
    title: str
    datasets: tuple[str, ...]
    base: Pipeline
    rows: tuple[Row, ...]


def by_paper(registry: Registry) -> dict[str, list[Table]]:
    """Every table that plugins ship, in order, under its paper's name."""
    known: dict[str, list[Table]] = {}
    for file in registry.shipped("tables"):
        for table in parse_tables(file.text, f"{file.package}: {file.name}"):
            known.setdefault(table.paper, []).append(table)
    return known


def tables(registry: Registry, paper: str) -> list[Table]:
    """The tables of a paper. Raises UsageError with the nearest name if no plugin has any."""
    known = by_paper(registry)
    if paper not in known:
        raise UsageError(f"no plugin has tables of '{paper}'.{nearest(paper, known)}")
    return known[paper]


def parse_tables(text: str, where: str) -> list[Table]:
    """The tables of one file. Raises UsageError naming ``where`` and what is wrong."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    try:
        base = Pipeline.from_toml(tomli_w.dumps(content["pipeline"]), where)
        return [_table(content, entry, base) for entry in content["table"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{where} is not a file of tables: {type(error).__name__} {error}") from error


def _table(content: Mapping[str, Any], entry: Mapping[str, Any], base: Pipeline) -> Table:
    datasets = tuple(entry["datasets"])
    return Table(
        paper=content["paper"],
        paper_title=content["title"],
        number=str(entry["number"]),
        title=entry["title"],
        datasets=datasets,
        base=base,
        rows=tuple(_row(row, datasets, entry) for row in entry["row"]),
    )


def _row(row: Mapping[str, Any], datasets: tuple[str, ...], table: Mapping[str, Any]) -> Row:
    metric = row.get("metric", table["metric"])
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, not {metric}")
    known = {*STAGE_NAMES, "name", "metric", "reported", "set", "rerank", "fit-on", "only"}
    if stray := sorted(row.keys() - known):
        raise ValueError(f"row '{row['name']}' has no '{stray[0]}'")
    reported = zip(datasets, row["reported"], strict=True)
    return Row(
        name=row["name"],
        metric=metric,
        reported={dataset: float(value) for dataset, value in reported if value == value},
        stages={stage: row[stage] for stage in STAGE_NAMES if stage in row},
        settings=tuple(row.get("set", ())),
        rerank=tuple(row.get("rerank", ())),
        fit_on=dict(row.get("fit-on", {})),
        only=row.get("only", ""),
    )
