"""Which pipeline is meant: what is asked for, over what there is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsearch_cli.engine import records
from instsearch_cli.engine.pipeline import (
    STAGE_NAMES,
    Asking,
    Fitting,
    Pipeline,
    Stage,
    default_preset,
    load_preset,
    parts_of_preset,
    presets,
)
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_formats import Index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instsearch_cli.engine.registry import Registry


Anywhere = str | os.PathLike[str]
LONGEST = 150  #: bytes of a pipeline's name


@dataclass(frozen=True)
class Choice:
    """What is asked for, as flags of the command line or arguments in Python; None leaves it as it is.

    preset       a named pipeline, or a TOML file of one, to start from
    rerank       rerankers in order; () or ("none",) for none
    refine       the pipeline's slower and surer rerankers, in place of those
    fit_on       an index on whose images models are fitted; "none": on these
    weigh_query  queries are weighted as the collection is
    crop_query   what is in the box is described as a picture by itself
    options      "stage.option=value", as --set takes them
    weights      the file of the extractor's weights
    """

    preset: str | None = None
    extractor: str | None = None
    weighting: str | None = None
    detector: str | None = None
    encoder: str | None = None
    searcher: str | None = None
    rerank: Sequence[str] | None = None
    refine: bool = False
    fit_on: str | os.PathLike[str] | None = None
    weigh_query: bool | None = None
    crop_query: bool | None = None
    options: Sequence[str] = ()
    weights: str | os.PathLike[str] | None = None

    def of_a_question(self) -> Choice:
        """The choice, where all of it can be made for a question. Raises UsageError for what an index is made with."""
        for name in ("preset", *STAGE_NAMES, "fit_on"):
            if vars(self)[name] is not None:
                raise UsageError(
                    f"{name} cannot be chosen for a question: index with it, then ask that pipeline by its name"
                )
        return self

    @property
    def stages(self) -> bool:
        """Whether anything is asked for that is of a pipeline's making."""
        return any(value not in (None, (), False) for value in vars(self).values()) or self.rerank is not None


def choose(
    registry: Registry,
    base: Pipeline | None,
    choice: Choice,
    extract_only: bool = False,
    name: str | None = None,
) -> Pipeline:
    """The pipeline that is asked for, under ``name`` if given.

    A preset starts one, and so does another extractor than that of ``base``, the last one; an encoder starts one over
    the last one's extractor; anything else is changed in the last one. One that starts has what the preset named like
    its extractor says, else nothing but the extractor. Another encoder than the preset's goes without its searcher and
    its rerankers. Raises UsageError for what is not there.
    """
    pipeline = _start(registry, base, choice)
    if pipeline.encoder is None and not extract_only:
        pipeline = _over(pipeline, registry)
    before = pipeline
    for stage in ("extractor", "encoder", "weighting", "searcher"):
        pipeline = pipeline.with_stage(stage, vars(choice)[stage])
    if pipeline.encoder != before.encoder:
        pipeline = replace(pipeline, rerank=(), refine=())
        if not choice.searcher:
            pipeline = replace(pipeline, searcher=None)
    if choice.detector == "none":
        pipeline = replace(pipeline, detector=None)
    else:
        pipeline = pipeline.with_stage("detector", choice.detector)
    pipeline = adapted(pipeline, choice)
    if choice.fit_on is not None:
        pipeline = _fitted_on(pipeline, choice.fit_on)
    changed = replace(pipeline, rerank=before.rerank) != before
    if name or not pipeline.name or changed:
        pipeline = replace(pipeline, name=name or _name(pipeline, registry))
    valid_name(pipeline.name)
    return pipeline


def of_each(choice: Choice, registry: Registry) -> list[Choice]:
    """A choice for each pipeline of the preset that is chosen; what is chosen beside it is for the last of them."""
    if choice.preset is None:
        return [choice]
    *others, last = parts_of_preset(choice.preset, registry)
    return [*(Choice(preset=each) for each in others), replace(choice, preset=last)]


def inherited(base: Pipeline | None, choice: Choice, pipeline: Pipeline) -> list[str]:
    """The stages and settings that a chosen pipeline has from ``base``, the last one, in their order."""
    if base is None or choice.preset or choice.extractor not in (None, base.extractor.name):
        return []
    fresh = choice.encoder is not None or base.encoder is None
    candidates = ("extractor", "fit") if fresh else (*STAGE_NAMES, "rerank", "query", "fit")
    named = {name for name in vars(choice) if vars(choice)[name] is not None}
    named |= {"fit"} if choice.fit_on is not None else set()
    named |= {"rerank"} if choice.refine else set()
    named -= {"extractor"} if base.extractor.options else set()  # which come along where it is named again
    return [n for n in candidates if n not in named and _same(vars(base)[n], vars(pipeline)[n])]


def _same(before: Any, now: Any) -> bool:
    """Whether a stage is the same component, of whatever options; a setting that is at its default is none."""
    if isinstance(now, Stage):
        return isinstance(before, Stage) and before.name == now.name
    return bool(now) and before == now and now not in (Asking(), Fitting())


def adapted(pipeline: Pipeline, choice: Choice) -> Pipeline:
    """The pipeline with what may be chosen for a single query: rerankers, options, weights, how it is described."""
    if choice.rerank and choice.refine:
        raise UsageError("--rerank and --refine exclude each other")
    pipeline = pipeline.refined() if choice.refine else pipeline.with_rerank(choice.rerank)
    pipeline = pipeline.with_options(choice.options)
    if choice.weights is not None:
        pipeline = pipeline.with_options([f"extractor.weights={Path(choice.weights).resolve()}"])
    return pipeline.asking(choice.weigh_query, choice.crop_query)


def recorded_pipeline(index: Index, name: str | None) -> Pipeline:
    """The pipeline to query with. Raises InstsearchError if the index was never indexed."""
    record = records.last(index, name)
    if record is not None and record.searchable:
        return record.pipeline
    searchable = [r for r in records.recorded(index) if r.searchable]
    own = [r for r in searchable if r.by == records.INDEX]
    if name is None and own:
        return own[-1].pipeline
    measured = ", ".join(f"--pipeline {r.pipeline.name}" for r in searchable[:5])
    asks = f", or ask one that was only measured: {measured}" if measured else ""
    raise InstsearchError(
        f"{index.path} has no searchable pipeline yet.\nRun `instsearch index --index {index.path}`{asks}."
    )


def absolute(path: Path) -> Path:
    """An absolute path, symbolic links kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def valid_name(name: str) -> str:
    """A pipeline's name as it may stand in a path. Raises UsageError for another."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise UsageError(f"--name takes letters, digits, '-', '_' and '.', not {name!r}")
    if len(os.fsencode(name)) > LONGEST:
        raise UsageError(f"--name takes at most {LONGEST} bytes, not '{name[:20]}…'")
    return name


def refitted(pipeline: Pipeline, registry: Registry) -> Pipeline:
    """With models that are to be fitted anew, also where a component would do without."""
    for stage, chosen in pipeline.stages().items():
        options = registry.get(stage, chosen.name).load().refits
        pipeline = pipeline.with_options(f"{stage}.{option}" for option in options)
    return pipeline.refitted()


def _start(registry: Registry, base: Pipeline | None, choice: Choice) -> Pipeline:
    if choice.preset:
        return load_preset(choice.preset, registry)
    if base is not None and choice.extractor in (None, base.extractor.name):
        return base if choice.encoder is None or base.encoder is None else _over(base, registry)
    if choice.extractor is None:
        return load_preset(default_preset(registry), registry)
    registry.get("extractor", choice.extractor)
    return _of_extractor(Stage(choice.extractor), registry)


def _over(base: Pipeline, registry: Registry) -> Pipeline:
    """A pipeline that starts over the extractor of another, with what that says of features and of fitting."""
    start = _of_extractor(base.extractor, registry)
    return replace(start, extractor=base.extractor, keep_features=base.keep_features, fit=base.fit)


def _of_extractor(extractor: Stage, registry: Registry) -> Pipeline:
    """What starts over an extractor: the preset that is named like it, else it alone, without weights or regions."""
    if extractor.name in presets(registry):
        return load_preset(extractor.name, registry)
    stages: dict[str, Any] = {kind: Stage(registry.default(kind, "any")) for kind in ("weighting", "encoder")}
    return Pipeline("", extractor, **stages)


def _fitted_on(pipeline: Pipeline, path: str | os.PathLike[str]) -> Pipeline:
    if str(path) == "none":
        return pipeline.fitted_on("", "")
    return pipeline.fitted_on(str(absolute(Path(path))), records.contents(Index.open(Path(path))))


def _name(pipeline: Pipeline, registry: Registry) -> str:
    """The names of its stages, but for what is done where nobody asks for anything."""
    plain = registry.default("weighting", "any")
    stages = (pipeline.extractor, pipeline.encoder, pipeline.weighting, pipeline.detector)
    named = [stage for stage in stages if stage and not (stage is pipeline.weighting and stage.name == plain)]
    return "-".join(stage.name for stage in named)


LISTS = {"rerank": '["aqe"]', "options": '["searcher.ht=20"]'}
"""What is a list of texts, and an example of it."""


def chosen(choice: dict[str, Any]) -> Choice:
    """Options by name as a choice. Raises UsageError with the nearest for an unknown one."""
    names = Choice.__dataclass_fields__
    for name, value in choice.items():
        if name not in names:
            raise UsageError(f"there is no option '{name}'.{nearest(name, names)}")
        if name in LISTS and value is not None:
            texts = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
            if not texts:
                raise UsageError(f"{name} is a list of texts, {LISTS[name]} say; not {value!r}")
        if name == "weights" and value is not None:
            as_path(value, name)
    if isinstance(choice.get("preset"), os.PathLike):
        choice = choice | {"preset": os.fspath(choice["preset"])}
    lists: dict[str, Any] = {
        name: tuple(choice[name]) for name in ("rerank", "options") if choice.get(name) is not None
    }
    return Choice(**choice | lists)


def listed(images: Anywhere | Sequence[Anywhere]) -> list[Path]:
    """One path or several. Raises UsageError for what is no path."""
    several = list(images) if isinstance(images, (list, tuple)) else [images]
    return [as_path(image, "photographs") for image in several]


def as_path(given: Any, what: str) -> Path:
    """What is given as a path. Raises UsageError for what is none."""
    if not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"{what}: give a file or a folder, not {type(given).__name__}")
    return Path(given)
