"""A pipeline: which component does each stage, with which options. TOML on disk, flags on the command line."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w

from instsearch_cli.errors import InstsearchError, UsageError, deprecated, nearest
from instsearch_cli.options import as_toml, coerce, parse_assignment
from instsearch_cli.outside.files import read_text
from instsearch_cli.outside.text import MOST_TOML, parse_toml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from instsearch_cli.engine.registry import Registry
    from instsearch_cli.options import Assignment

STAGE_NAMES = ("extractor", "weighting", "detector", "encoder", "searcher")
SEPARATOR = "+"  #: between the names of pipelines that are asked as one; no name has it
TOGETHER = "together"  #: what a preset of several pipelines has
LISTS = ("rerank", "refine")
TABLES = ("query", "fit")


@dataclass(frozen=True)
class Stage:
    """A component by name, and the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def having(self, option: str, value: Any) -> Stage:
        """The stage with one more option."""
        return Stage(self.name, {**self.options, option.replace("-", "_"): value})

    def table(self) -> dict[str, Any]:
        return {"name": self.name, **{k.replace("_", "-"): as_toml(v) for k, v in self.options.items()}}


@dataclass(frozen=True)
class Asking:
    """How a query is described.

    weigh  it is weighted as the collection is, inside its box
    crop   its code is that of what is in its box, as a picture by itself
    """

    weigh: bool = False
    crop: bool = False


@dataclass(frozen=True)
class Fitting:
    """What models are fitted on.

    generation  raised by --refit: fitted models of another generation are other models
    on          an index whose images the encoder is fitted on, instead of the collection's own
    digest      what that index held: part of the fitted model's identity
    """

    generation: int = 0
    on: str = ""
    digest: str = ""


LOOSE = {
    "weigh-query": ("query", "weigh"),
    "crop-query": ("query", "crop"),
    "generation": ("fit", "generation"),
    "fit-on": ("fit", "on"),
    "fit-on-digest": ("fit", "digest"),
}
"""Settings that once stood beside the tables. Pipelines in older indexes have them so and are always read; in files
that people give they are deprecated."""


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run; keep_features: raw features are a layer of the index (large), not a passing thing."""

    name: str
    extractor: Stage
    weighting: Stage | None = None
    detector: Stage | None = None
    encoder: Stage | None = None
    searcher: Stage | None = None
    rerank: tuple[Stage, ...] = ()
    refine: tuple[Stage, ...] = ()
    keep_features: bool = False
    query: Asking = Asking()
    fit: Fitting = Fitting()

    def stages(self) -> dict[str, Stage]:
        """The stages that the pipeline names, rerankers aside."""
        named = vars(self)
        return {name: named[name] for name in STAGE_NAMES if named[name] is not None}

    def to_toml(self) -> str:
        table: dict[str, Any] = {"name": self.name}
        if self.keep_features:
            table["keep-features"] = True
        for name in TABLES:
            if settings := {k: v for k, v in vars(vars(self)[name]).items() if v}:
                table[name] = settings
        table |= {name: stage.table() for name, stage in self.stages().items()}
        for name in LISTS:
            if listed := vars(self)[name]:
                table[name] = [stage.table() for stage in listed]
        return tomli_w.dumps(table)

    @classmethod
    @functools.lru_cache(maxsize=32)  # recorded ones are read at every question
    def from_toml(cls, text: str, where: str) -> Pipeline:
        """Parse a pipeline file. Raises UsageError naming ``where`` and what is wrong."""
        try:
            table = parse_toml(text, where)
        except InstsearchError as error:
            raise UsageError(str(error)) from error
        names = {*STAGE_NAMES, *LISTS, *TABLES, *LOOSE, "name", "summary", "default", "keep-features"}
        for key in table:
            if key not in names:
                raise UsageError(f"{where}: no setting '{key}'.{nearest(key, names)}")
        if "extractor" not in table:
            raise UsageError(f"{where} names no extractor: add [extractor] with its name")
        stages = {
            stage: _stage(table[stage], f"{where}: [{stage}]") for stage in STAGE_NAMES if stage in table
        }
        return cls(
            name=str(table.get("name", "custom")),
            rerank=_stages(table, "rerank", where),
            refine=_stages(table, "refine", where),
            keep_features=bool(table.get("keep-features", False)),
            query=_settings(Asking, table, "query", where),
            fit=_settings(Fitting, table, "fit", where),
            **stages,
        )

    def with_options(self, assignments: Iterable[str]) -> Pipeline:
        """Apply ``--set stage.option=value`` and ``--set rerank.name.option=value``."""
        pipeline = self
        for assignment in assignments:
            pipeline = pipeline._with_option(parse_assignment(assignment))
        return pipeline

    def _with_option(self, given: Assignment) -> Pipeline:
        if given.stage == "rerank":
            return self._with_rerank_option(given)
        if given.stage not in STAGE_NAMES:
            raise UsageError(
                f"--set {given.key}: no stage '{given.stage}'.{nearest(given.stage, (*STAGE_NAMES, 'rerank'))}"
            )
        current = self.stages().get(given.stage)
        if current is None:
            raise UsageError(
                f"--set {given.key}: the pipeline has no {given.stage}; name one with --{given.stage}"
            )
        return self._with(given.stage, current.having(given.option_of_one, given.value))

    def _with(self, stage: str, value: Stage | None) -> Pipeline:
        return replace(self, **{stage: value})  # type: ignore[arg-type]

    def _with_rerank_option(self, given: Assignment) -> Pipeline:
        names = [stage.name for stage in self.rerank]
        if given.name not in names:
            wrong = given.name or given.option
            there = nearest(wrong, names) or " The pipeline has no reranker; name one with --rerank."
            raise UsageError(f"--set {given.key}: write rerank.NAME.OPTION=value.{there}")
        rerank = (s.having(given.option, given.value) if s.name == given.name else s for s in self.rerank)
        return replace(self, rerank=tuple(rerank))

    def asking(self, weigh: bool | None = None, crop: bool | None = None) -> Pipeline:
        """With queries described as given; None leaves a setting as it is."""
        given = {k: v for k, v in (("weigh", weigh), ("crop", crop)) if v is not None}
        return replace(self, query=replace(self.query, **given))

    def fitted_on(self, index: str, digest: str) -> Pipeline:
        """With models fitted on another index of these contents; "" for none."""
        return replace(self, fit=replace(self.fit, on=index, digest=digest))

    def refitted(self) -> Pipeline:
        """With models that are to be fitted anew."""
        return replace(self, fit=replace(self.fit, generation=self.fit.generation + 1))

    def with_stage(self, stage: str, name: str | None) -> Pipeline:
        """Choose a component by name; its options are kept only if it was the one chosen before."""
        if name is None:
            return self
        current = self.stages().get(stage)
        if current is not None and current.name == name:
            return self
        return self._with(stage, Stage(name))

    def with_rerank(self, names: Iterable[str] | None) -> Pipeline:
        """Choose the rerankers, in order; ("none",) is none at all, None leaves them as they are."""
        if names is None:
            return self
        old = {stage.name: stage for stage in self.rerank}
        chosen = [name for name in names if name != "none"]
        return replace(self, rerank=tuple(old.get(name, Stage(name)) for name in chosen))

    def refined(self) -> Pipeline:
        """With the rerankers that ``--refine`` is for. Raises UsageError where it has none."""
        if not self.refine:
            raise UsageError(
                f"pipeline '{self.name}' has no [[refine]], the rerankers that --refine is for: name some with "
                "--rerank"
            )
        return replace(self, rerank=self.refine)

    def plain(self) -> dict[str, Any]:
        """JSON-ready: every stage that runs, with its options, and every setting, for reports."""
        plain = {k: v for k, v in dataclasses.asdict(self).items() if v and k not in ("refine", *TABLES)}
        tables = {name: {k: v for k, v in vars(vars(self)[name]).items() if v} for name in TABLES}
        return plain | {name: settings for name, settings in tables.items() if settings}


def as_name(name: Any) -> str:
    """The name of a pipeline. Raises UsageError for what is none."""
    if not isinstance(name, str):
        raise UsageError(f"a pipeline is given by its name, 'a' or 'a+b' say, not as {type(name).__name__}")
    return name


Settings = TypeVar("Settings", Asking, Fitting)


def _settings(cls: type[Settings], table: dict[str, Any], name: str, where: str) -> Settings:
    """The table of a name, of which older files have the settings beside the tables."""
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {name} is a table: [{name}]")
    loose = {key: table[old] for old, (its, key) in LOOSE.items() if its == name and old in table}
    names = {f.name: f for f in dataclasses.fields(cls)}
    for key in given:
        if key not in names:
            raise UsageError(f"{where}: [{name}] has no setting '{key}'.{nearest(key, names)}")
    return cls(
        **{k: coerce(v, type(names[k].default), f"{where}: {name}.{k}") for k, v in (loose | given).items()}
    )


def _stages(table: dict[str, Any], name: str, where: str) -> tuple[Stage, ...]:
    entries = table.get(name, [])
    if not isinstance(entries, list):
        raise UsageError(f"{where}: {name} is a list of tables: [[{name}]]")
    return tuple(_stage(entry, f"{where}: [[{name}]]") for entry in entries)


def _stage(table: Any, where: str) -> Stage:
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UsageError(f"{where} needs a name")
    return Stage(table["name"], {k.replace("-", "_"): v for k, v in table.items() if k != "name"})


def presets(registry: Registry) -> dict[str, tuple[str, str]]:
    """Named pipelines that plugins ship: name -> (TOML text, distribution).

    A preset is a file ``presets/NAME.toml`` beside a plugin's module.
    """
    found: dict[str, tuple[str, str]] = {}
    for file in registry.shipped("presets"):
        found.setdefault(file.name.removesuffix(".toml"), (file.text, file.distribution))
    return found


def default_preset(registry: Registry) -> str:
    """The preset for those who choose none: the first file that says ``default = true``."""
    for name, (text, _) in presets(registry).items():
        if tomllib.loads(text).get("default") is True:
            return name
    raise UsageError("no preset is the default one: name one with --preset, or --extractor and --encoder")


def load_preset(name: str, registry: Registry) -> Pipeline:
    """The preset of that name, or of that file. Raises UsageError with the nearest name."""
    text = preset_text(name, registry)
    if len(parts := parts_of_preset(name, registry)) > 1:
        raise UsageError(f"preset '{name}' is several pipelines: name one of {' and '.join(parts)}")
    if not name.endswith(".toml"):
        return replace(Pipeline.from_toml(text, f"preset {name}"), name=name)
    pipeline = Pipeline.from_toml(text, name)
    for old in [old for old in LOOSE if old in tomllib.loads(text)]:
        table, key = LOOSE[old]
        deprecated(f"{name}: '{old}'", f"'{key}' in [{table}]", removed_in="0.3")
    return pipeline


def parts_of_preset(name: str, registry: Registry) -> list[str]:
    """The presets whose pipelines are asked as one, where a preset names some in ``together``; else itself alone."""
    try:
        table = parse_toml(preset_text(name, registry), name)
    except UsageError:
        raise
    except InstsearchError as error:
        raise UsageError(str(error)) from error
    if TOGETHER not in table:
        return [name]
    others = [key for key in table if key not in (TOGETHER, "summary")]
    together = table[TOGETHER]
    if others or not isinstance(together, list) or len(set(map(str, together))) < 2:
        raise UsageError(f"{name}: {TOGETHER} names two presets or more, and nothing stands beside it")
    return [str(each) for each in together]


def preset_text(name: str, registry: Registry) -> str:
    """The text of the preset of that name, or of that file. Raises UsageError with the nearest name."""
    if name.endswith(".toml"):
        from pathlib import Path

        try:
            return read_text(Path(name), MOST_TOML)
        except InstsearchError as error:
            raise UsageError(str(error)) from error
    names = presets(registry)
    if name not in names:
        raise UsageError(f"no preset is called '{name}'.{nearest(name, names)}")
    return names[name][0]
