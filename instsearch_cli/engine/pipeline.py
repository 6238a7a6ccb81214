"""A pipeline: which component does each stage, with which options. TOML on disk, flags on the command line."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import tomli_w

from instsearch_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from instsearch_cli.engine.registry import Registry

STAGE_NAMES = ("extractor", "weighting", "detector", "encoder", "searcher")
LISTS = ("rerank", "refine")


@dataclass(frozen=True)
class Stage:
    """A component by name, and the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        options = {
            k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items() if v is not None
        }
        return {"name": self.name, **{k.replace("_", "-"): v for k, v in options.items()}}


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run.

    keep_features  raw features are a layer of the index (large), not a passing thing
    generation     raised by --refit: fitted models of another generation are other models
    fit_on         an index whose images the encoder is fitted on, instead of the collection's own
    fit_on_digest  what that index held: part of the fitted model's identity
    weigh_query    queries are weighted as the collection is, inside their box
    crop_query     a query's code is that of what is in its box, as a picture by itself
    """

    name: str
    extractor: Stage
    weighting: Stage | None = None
    detector: Stage | None = None
    encoder: Stage | None = None
    searcher: Stage | None = None
    rerank: tuple[Stage, ...] = ()
    refine: tuple[Stage, ...] = ()
    keep_features: bool = False
    generation: int = 0
    fit_on: str = ""
    fit_on_digest: str = ""
    weigh_query: bool = False
    crop_query: bool = False

    def to_toml(self) -> str:
        table: dict[str, Any] = {"name": self.name}
        if self.keep_features:
            table["keep-features"] = True
        if self.generation:
            table["generation"] = self.generation
        if self.fit_on:
            table |= {"fit-on": self.fit_on, "fit-on-digest": self.fit_on_digest}
        if self.weigh_query:
            table["weigh-query"] = True
        if self.crop_query:
            table["crop-query"] = True
        for stage in STAGE_NAMES:
            if (value := getattr(self, stage)) is not None:
                table[stage] = value.table()
        for stages in LISTS:
            if getattr(self, stages):
                table[stages] = [stage.table() for stage in getattr(self, stages)]
        return tomli_w.dumps(table)

    @classmethod
    def from_toml(cls, text: str, where: str) -> Pipeline:
        """Parse a pipeline file. Raises UsageError naming ``where`` and what is wrong."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{where} is not TOML: {error}") from error
        known = {*STAGE_NAMES, "name", "summary", "keep-features", "generation", *LISTS}
        known |= {"fit-on", "fit-on-digest", "weigh-query", "crop-query"}
        for key in table:
            if key not in known:
                raise UsageError(f"{where}: no setting '{key}'.{nearest(key, known)}")
        if "extractor" not in table:
            raise UsageError(f'{where} names no extractor: add [extractor] with name = "sift", say')
        stages = {
            stage: _stage(table[stage], f"{where}: [{stage}]") for stage in STAGE_NAMES if stage in table
        }
        return cls(
            name=str(table.get("name", "custom")),
            rerank=_stages(table, "rerank", where),
            refine=_stages(table, "refine", where),
            keep_features=bool(table.get("keep-features", False)),
            generation=int(table.get("generation", 0)),
            fit_on=str(table.get("fit-on", "")),
            fit_on_digest=str(table.get("fit-on-digest", "")),
            weigh_query=bool(table.get("weigh-query", False)),
            crop_query=bool(table.get("crop-query", False)),
            **stages,
        )

    def with_options(self, assignments: Sequence[str]) -> Pipeline:
        """Apply ``--set stage.option=value`` and ``--set rerank.name.option=value``."""
        pipeline = self
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            stage, _, name = key.strip().partition(".")
            if not equals or not name:
                raise UsageError(
                    f"--set takes stage.option=value, encoder.words=25000 say; not '{assignment}'"
                )
            if stage == "rerank":
                pipeline = pipeline._with_rerank_option(name, value)
            elif stage in STAGE_NAMES:
                current: Stage | None = getattr(pipeline, stage)
                if current is None:
                    raise UsageError(f"--set {key}: the pipeline has no {stage}; name one with --{stage}")
                options = {**current.options, name.replace("-", "_"): value}
                pipeline = replace(pipeline, **{stage: Stage(current.name, options)})  # type: ignore[arg-type]
            else:
                raise UsageError(
                    f"--set {key}: no stage '{stage}'.{nearest(stage, (*STAGE_NAMES, 'rerank'))}"
                )
        return pipeline

    def _with_rerank_option(self, key: str, value: str) -> Pipeline:
        name, _, option = key.partition(".")
        names = [stage.name for stage in self.rerank]
        if not option or name not in names:
            there = nearest(name, names) or " The pipeline has no reranker; name one with --rerank."
            raise UsageError(f"--set rerank.{key}: write rerank.NAME.OPTION=value.{there}")
        return replace(
            self,
            rerank=tuple(
                Stage(s.name, {**s.options, option.replace("-", "_"): value}) if s.name == name else s
                for s in self.rerank
            ),
        )

    def with_stage(self, stage: str, name: str | None) -> Pipeline:
        """Choose a component by name; its options are kept only if it was the one chosen before."""
        if name is None:
            return self
        current: Stage | None = getattr(self, stage)
        if current is not None and current.name == name:
            return self
        return replace(self, **{stage: Stage(name)})  # type: ignore[arg-type]

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
        """JSON-ready: every stage that runs, with its options, for reports."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v and k != "refine"}


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


def load_preset(name: str, registry: Registry) -> Pipeline:
    """The preset of that name, or of that file. Raises UsageError with the nearest name."""
    if name.endswith(".toml"):
        from pathlib import Path

        try:
            return Pipeline.from_toml(Path(name).read_text("utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {name}: {error}") from error
    known = presets(registry)
    if name not in known:
        raise UsageError(f"no preset is called '{name}'.{nearest(name, known)}")
    return replace(Pipeline.from_toml(known[name][0], f"preset {name}"), name=name)
