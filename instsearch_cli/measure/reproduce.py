"""A paper's tables and figures measured again: their rows' pipelines over datasets, shared stages made once."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine.assembly import pick_device
from instsearch_cli.engine.choosing import absolute
from instsearch_cli.engine.making import writing
from instsearch_cli.engine.records import contents
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.measure.datasets import (
    default_index,
    kind_of,
    load_dataset,
    measure,
    present,
    take_dataset,
)
from instsearch_cli.measure.evaluation import Tops
from instsearch_cli.measure.tables import IMAGE_SECONDS, Figure, of_dataset
from instsearch_cli.options import make_config, option_names, parse_assignment
from instsearch_formats import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instsearch_cli.engine.pipeline import Pipeline, Stage
    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.measure.datasets import Measured
    from instsearch_cli.measure.tables import Row, Table, Value
    from instsearch_cli.progress import Quiet

SAFE = str.maketrans({" ": "-", ",": "-", "/": "-", "*": "-star"})


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside the paper's own choices; see `instsearch reproduce --help`."""

    root: Path | None = None
    dataset: str | None = None
    index_path: Path | None = None
    extractor: str | None = None
    rerank: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    weights: Path | None = None
    keep_features: bool = False
    device: str = "auto"
    present_only: bool = False


class Runs:
    """Measures rows."""

    def __init__(self, registry: Registry, wanted: Wanted, progress: Quiet) -> None:
        self.registry, self.wanted, self.progress = registry, wanted, progress

    def check_wanted(self) -> None:
        """Raise UsageError for a component or a device that there is not, InstsearchError for a file or a folder."""
        wanted, files = self.wanted, {"--root": self.wanted.root, "--weights": self.wanted.weights}
        pick_device(wanted.device)
        if wanted.extractor is not None:
            self.registry.get("extractor", wanted.extractor)
        for name in wanted.rerank:
            if name != "none":
                self.registry.get("rerank", name)
        if wanted.dataset is not None:
            kind = kind_of(self.registry, wanted.dataset)
            self.registry.get("dataset", kind)
            files |= {"--dataset": Path(wanted.dataset)} if kind != wanted.dataset else {}
        for option, path in files.items():
            if path is not None and not path.exists():
                raise InstsearchError(f"{option}: {path} does not exist")

    def check(self, chosen: Sequence[Table]) -> None:
        """Raise UsageError for a setting that no row has, or that a figure sweeps."""
        self.check_wanted()
        measured = [table for table in chosen if table.rows]
        for setting in self.wanted.assignments:
            if not any(self._takes(table, row, setting) for table in measured for row in table.rows):
                where = ", ".join(table.label for table in measured)
                raise UsageError(f"--set {setting}: no row of {where or chosen[0].label} has such an option")
            for table in measured:
                if isinstance(table, Figure) and _same(setting, table.x):
                    raise UsageError(f"--set {setting}: {table.label} sweeps it; --values says over what")

    def check_values(self, figure: Figure) -> None:
        """Raise UsageError if the option that a figure sweeps cannot have one of its values."""
        if of_dataset(figure.x):
            for name in self._datasets(figure):
                for value in figure.values:
                    make_config(self._dataset_class(name), {_option(figure.x): value}, "dataset")
            return
        row = next((row for row in figure.rows if row.at is None), None)
        if row is not None:
            for value in figure.values:
                settings = [f"{figure.x}={value}"]
                pipeline = row.pipeline(figure.base, self.wanted.extractor, settings, self.wanted.rerank)
                kind, stage, _ = addressed(pipeline, figure.x)
                assert stage is not None
                prefix = f"rerank.{stage.name}" if kind == "rerank" else kind
                make_config(self.registry.get(kind, stage.name).load(), stage.options, prefix)

    def all(self, chosen: Sequence[Table], given: bool = False) -> Iterator[dict[str, Any]]:
        """The results of each table or figure, in order, after checks; ``given``: a figure's values are not its own."""
        self.check(chosen)
        for table in chosen:
            if isinstance(table, Figure) and given:
                self.check_values(table)
        for table in chosen:
            yield self.figure(table) if isinstance(table, Figure) else self.table(table)

    def _takes(self, table: Table, row: Row, setting: str) -> bool:
        if of_dataset(setting):
            return any(self._dataset_has(name, setting) for name in self._datasets(table))
        with contextlib.suppress(InstsearchError):  # a row that cannot be built says so when it is measured
            return self._has(row.pipeline(table.base, self.wanted.extractor, (), self.wanted.rerank), setting)
        return False

    def table(self, table: Table) -> dict[str, Any]:
        """Every row on every dataset, as it is printed with --json."""
        datasets = self._datasets(table)
        rows = []
        for row in table.rows:
            cells = {name: self._cells(table, row, name) for name in datasets}
            for metric in row.metrics:
                results = {name: cells[name][metric] for name in datasets}
                rows.append({"name": row.name, "metric": metric, "results": results})
        heading = {**_heading(table, "table"), "metrics": list(table.metrics)}
        return {**heading, "datasets": datasets, "rows": rows}

    def figure(self, figure: Figure) -> dict[str, Any]:
        """Every curve on every dataset, as it is printed with --json."""
        if figure.command:
            return {**_heading(figure, "figure"), "command": figure.command}
        if not (self.wanted.keep_features or of_dataset(figure.x)):
            self.progress.say("features are made again for every value: --keep-features keeps them on disk")
        datasets = self._datasets(figure)
        curves = {name: self._curves(figure, name) for name in datasets}
        rows = [
            {"name": row.name, "results": {name: curves[name][i] for name in datasets}}
            for i, row in enumerate(figure.rows)
        ]
        axis = {"metric": figure.metric, "x": figure.x, "x_label": figure.x_label, "seconds": figure.seconds}
        return {**_heading(figure, "figure"), **axis, "datasets": datasets, "rows": rows}

    def _datasets(self, table: Table) -> list[str]:
        return [self.wanted.dataset] if self.wanted.dataset else list(table.datasets)

    def _cells(self, table: Table, row: Row, dataset: str) -> dict[str, dict[str, Any]]:
        """Of each metric what was reported, what is measured, or why nothing is; measured once."""
        said: dict[str, Any] = {}
        found = self._tried(table, row, dataset, said)
        cells = {}
        for metric in row.metrics:
            cell: dict[str, Any] = {"reported": row.reported.get((dataset, metric)), **said}
            if found is not None:
                cell["measured"] = _number(found, metric)
                if cell["reported"] is not None:
                    cell["difference"] = cell["measured"] - cell["reported"]
            cells[metric] = cell
        return cells

    def _curves(self, figure: Figure, dataset: str) -> list[list[dict[str, Any]]]:
        """The points of every row, all rows at one value before the next.

        They learn from the same images so, where the values say which these are.
        """
        curves: list[list[dict[str, Any]]] = [[] for _ in figure.rows]
        for step in zip_longest(*(figure.places(row) for row in figure.rows)):
            for row, x, points in zip(figure.rows, step, curves, strict=True):
                if x is not None:
                    points.append(self._point(figure, row, dataset, x))
        return curves

    def _point(self, figure: Figure, row: Row, dataset: str, x: Value) -> dict[str, Any]:
        """Its x, what is measured there and the seconds of a query, or why nothing is."""
        point: dict[str, Any] = {"x": x}
        found = self._tried(figure, row, dataset, point, x if row.at is None else None)
        if found is not None:
            point["measured"] = _number(found, figure.metric)
            timing = found.evaluation.timing
            point["seconds"] = timing["search"] + timing["rerank"]
        return point

    def _tried(
        self, table: Table, row: Row, dataset: str, cell: dict[str, Any], value: Value | None = None
    ) -> Measured | None:
        """A row's measurement and the time it took, or None and why: the latter two go into ``cell``."""
        if row.note:
            cell["note"] = row.note
        began = time.perf_counter()
        try:
            found = self._measured(table, row, dataset, cell, value)
        except (InstsearchError, FormatError) as error:
            cell["why_not"] = "; ".join(filter(None, (str(error).splitlines()[0].rstrip("."), row.note)))
            return None
        cell["took"] = time.perf_counter() - began
        return found

    def _measured(
        self, table: Table, row: Row, name: str, cell: dict[str, Any], value: Value | None
    ) -> Measured:
        given = [s for s in self.wanted.assignments if of_dataset(s) and self._dataset_has(name, s)]
        settings, swept = [*row.dataset_settings, *given], ""
        if isinstance(table, Figure) and of_dataset(table.x) and value is not None:
            settings.append(f"{table.x}={value}")
            swept = _option(table.x)
        pipeline = self._pipeline(table, row, None if swept else value)
        at = f", {swept} {value}" if swept else ""
        self.progress.say(f"{pipeline.name} on {Path(name).stem}{at}")
        dataset = load_dataset(self.registry, name, self._root(name), assignments=settings)
        if name in row.fit_on:
            pipeline = self._fitted_elsewhere(pipeline, row.fit_on[name], cell)
        return measure(
            self.registry,
            dataset,
            self._index(name, swept),
            lambda last: pipeline,
            self.progress,
            device=self.wanted.device,
            present_only=self.wanted.present_only,
            tops=Tops(row.depths),
            timed=IMAGE_SECONDS in row.metrics,
            by="reproduce",
        )

    def _pipeline(self, table: Table, row: Row, value: Value | None) -> Pipeline:
        """A row's pipeline with the settings that it has options for, the swept one last, and its name."""
        settings = [s for s in self.wanted.assignments if not of_dataset(s)]
        if self.wanted.weights is not None:
            settings.append(f"extractor.weights={self.wanted.weights.resolve()}")
        pipeline = row.pipeline(table.base, self.wanted.extractor, (), self.wanted.rerank)
        pipeline = pipeline.with_options([s for s in settings if self._has(pipeline, s)])
        parts = [table.paper, f"fig{table.number}" if isinstance(table, Figure) else table.number, row.name]
        if isinstance(table, Figure) and value is not None:
            pipeline = pipeline.with_options([f"{table.x}={value}"])
            parts += [table.x.rpartition(".")[2], str(value)]
        name = "-".join(parts).translate(SAFE)
        return replace(pipeline, name=name, keep_features=self.wanted.keep_features)

    def _has(self, pipeline: Pipeline, setting: str) -> bool:
        """Whether a row's component has the option that "stage.option=value" sets."""
        kind, stage, option = addressed(pipeline, setting)
        if stage is None:
            return False
        return _has_option(self.registry.get(kind, stage.name).load(), option)

    def _fitted_elsewhere(self, pipeline: Pipeline, other: str, cell: dict[str, Any]) -> Pipeline:
        """Fit on the other dataset's images if they are there, else on the row's own, and say so."""
        try:
            dataset = load_dataset(self.registry, other, self._root(other))
            refs = present(dataset, self.wanted.present_only)
        except InstsearchError:
            said = f"fitted on itself: {other} is not there"
            cell["note"] = "; ".join(filter(None, (cell.get("note"), said)))
            return pipeline
        path = self._index(other)
        with writing(path, create=True) as index:
            take_dataset(index, dataset, refs, False, self.progress)
            return pipeline.fitted_on(str(absolute(path)), contents(index))

    def _root(self, name: str) -> Path | None:
        root = self.wanted.root
        return root / name if root is not None and (root / name).is_dir() else root

    def _index(self, name: str, swept: str = "") -> Path:
        """A dataset's index; another one if a ``swept`` option changes which images are in it."""
        folder = self.wanted.index_path
        path = folder / Path(name).stem if folder is not None else default_index(name, self._root(name))
        return path.with_name(f"{path.name}-{swept}") if swept else path

    def _dataset_class(self, name: str) -> type[Any]:
        cls: type[Any] = self.registry.get("dataset", kind_of(self.registry, name)).load()
        return cls

    def _dataset_has(self, name: str, setting: str) -> bool:
        """Whether a dataset has the option that "dataset.option=value" sets."""
        with contextlib.suppress(InstsearchError):  # one that is not there says so when it is measured
            return _has_option(self._dataset_class(name), _option(setting))
        return False


def addressed(pipeline: Pipeline, key: str) -> tuple[str, Stage | None, str]:
    """The kind, the stage (None if there is none) and the option that "stage.option", with a value or not, is of.

    A reranker's is "rerank.name.option".
    """
    given = parse_assignment(key if "=" in key else f"{key}=")
    if given.stage == "rerank":
        stage = next((stage for stage in pipeline.rerank if stage.name == given.name), None)
        return given.stage, stage, given.option
    return given.stage, pipeline.stages().get(given.stage), given.option_of_one


def _has_option(cls: type[Any], option: str) -> bool:
    return option.replace("-", "_") in option_names(cls)


def _option(key: str) -> str:
    """ "most-distractors" of "dataset.most-distractors" """
    return parse_assignment(key if "=" in key else f"{key}=").option_of_one


def _same(setting: str, option: str) -> bool:
    return parse_assignment(setting).key.replace("_", "-") == option.replace("_", "-")


def _heading(table: Table, kind: str) -> dict[str, Any]:
    heading = {"paper": table.paper, kind: table.number, "title": table.title}
    return {**heading, "note": table.note} if table.note else heading


def _number(found: Measured, metric: str) -> float | None:
    if metric == "words":
        return found.values
    if metric == IMAGE_SECONDS:
        return found.evaluation.timing["image"]
    return found.evaluation.timing["search"] if metric == "seconds" else found.evaluation.metrics[metric]
