"""Pipelines: TOML there and back, --set, choosing stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsearch_cli.engine.pipeline import (
    Asking,
    Fitting,
    Pipeline,
    Stage,
    load_preset,
    parts_of_preset,
    presets,
)
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import UsageError
from instsearch_cli.options import make_config

PIPELINE = Pipeline(
    "p",
    Stage("sift", {"max_size": 500}),
    weighting=Stage("none"),
    encoder=Stage("blcf", {"words": 10}),
    rerank=(Stage("aqe", {"depth": 5}), Stage("geometric")),
    keep_features=True,
    fit=Fitting(generation=2),
)

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
values = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text(max_size=10)
)
stages = st.builds(Stage, names, st.dictionaries(names.filter(lambda n: n != "name"), values, max_size=3))


@given(st.builds(Pipeline, names, stages, st.none() | stages, st.none() | stages, st.none() | stages))
def test_toml_round_trip(pipeline: Pipeline) -> None:
    assert Pipeline.from_toml(pipeline.to_toml(), "here") == pipeline


@given(st.booleans(), st.booleans(), st.integers(0, 9), st.text(max_size=9), st.text(max_size=9))
def test_settings_are_tables_in_toml(weigh: bool, crop: bool, n: int, on: str, digest: str) -> None:
    made = replace(PIPELINE, query=Asking(weigh, crop), fit=Fitting(n, on, digest))
    assert Pipeline.from_toml(made.to_toml(), "here") == made
    assert ("query" in made.plain()) is (weigh or crop)


def test_files_with_settings_beside_the_tables_are_read() -> None:
    old = 'name = "p"\nweigh-query = true\ngeneration = 2\nfit-on = "/a"\nfit-on-digest = "f"\n'
    old += '[extractor]\nname = "sift"'
    assert Pipeline.from_toml(old, "here") == Pipeline(
        "p", Stage("sift"), query=Asking(weigh=True), fit=Fitting(2, "/a", "f")
    )


def test_queries_and_fits_as_asked() -> None:
    assert PIPELINE.asking() == PIPELINE
    assert PIPELINE.asking(weigh=True).asking(crop=True).query == Asking(True, True)
    assert PIPELINE.refitted().fit.generation == PIPELINE.fit.generation + 1
    assert PIPELINE.fitted_on("/a", "f").fit == replace(PIPELINE.fit, on="/a", digest="f")


def test_toml_round_trip_with_rerankers() -> None:
    both = replace(PIPELINE, refine=(Stage("geometric", {"depth": 7}), Stage("verdict")))
    assert Pipeline.from_toml(both.to_toml(), "here") == both
    assert both.refined().rerank == both.refine


def test_only_a_pipeline_with_refine_is_refined() -> None:
    with pytest.raises(UsageError, match=r"no \[\[refine\]\]"):
        PIPELINE.refined()


def test_set_reaches_stages_and_rerankers() -> None:
    changed = PIPELINE.with_options(["encoder.words=7", "rerank.aqe.depth=3", "extractor.max-size=9"])
    assert changed.encoder == Stage("blcf", {"words": "7"})
    assert changed.rerank[0] == Stage("aqe", {"depth": "3"})
    assert changed.extractor.options == {"max_size": "9"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("encoder", "stage.option=value"),
        ("encoder.words", "stage.option=value"),
        ("encodr.words=3", "Did you mean 'encoder'"),
        ("detector.scales=3", "no detector"),
        ("rerank.aqu.depth=3", "Did you mean 'aqe'"),
        ("rerank.depth=3", "rerank.NAME.OPTION"),
    ],
)
def test_wrong_assignments_are_usage_errors(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PIPELINE.with_options([assignment])


def test_choosing_the_same_component_keeps_its_options() -> None:
    assert PIPELINE.with_stage("encoder", "blcf") is PIPELINE
    assert PIPELINE.with_stage("encoder", "sum").encoder == Stage("sum")
    assert PIPELINE.with_rerank(["geometric"]).rerank == (Stage("geometric"),)
    assert PIPELINE.with_rerank(["none"]).rerank == ()
    assert PIPELINE.with_rerank(None) is PIPELINE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("name = 'a'", "no extractor"),
        ("[extractor]\nkeypoints = 3", "needs a name"),
        ("[extractor]\nname = 'sift'\n[encodr]\nname = 'blcf'", "Did you mean 'encoder'"),
        ("fit = 3\n[extractor]\nname = 'sift'", "fit is a table"),
        ("[query]\nwiegh = true\n[extractor]\nname = 'sift'", "Did you mean 'weigh'"),
        ("[fit]\ngeneration = 'x'\n[extractor]\nname = 'sift'", "generation is a whole number"),
        ("rerank = 'aqe'\n[extractor]\nname = 'sift'", "list of tables"),
    ],
)
def test_wrong_files_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.from_toml(text, "here")


def test_every_preset_builds() -> None:
    import torch

    from instsearch_cli.engine.assembly import Assembly

    known = load_registry()
    single = {part for name in presets(known) for part in parts_of_preset(name, known)}
    for name in single:
        assembly = Assembly(load_preset(name, known), known, torch.device("cpu"))
        assert assembly.searcher is not None
    examples = sorted((Path(__file__).parents[2] / "examples" / "pipelines").glob("*.toml"))
    assert examples
    for file in examples:
        pipeline = load_preset(str(file), known)
        for stage in ("extractor", "weighting", "encoder"):
            chosen = getattr(pipeline, stage)
            make_config(known.get(stage, chosen.name).load(), chosen.options, stage)
    with pytest.raises(UsageError, match="Did you mean 'sift'"):
        load_preset("sfit", known)
