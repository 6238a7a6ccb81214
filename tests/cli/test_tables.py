"""Published tables and figures, read from TOML: what they say, what is damaged, what is shipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from instsearch_cli.engine.pipeline import STAGE_NAMES, Pipeline
from instsearch_cli.engine.registry import Registry, load_registry
from instsearch_cli.errors import UsageError
from instsearch_cli.measure.tables import Figure, by_paper, of_dataset, parse_tables, tables
from instsearch_cli.options import make_config
from paper_tables import FILE

Cli = Callable[..., Any]


def test_a_file_of_tables() -> None:
    (table,) = parse_tables(FILE, "here")
    (row,) = table.rows
    assert (table.number, table.datasets, row.metrics) == ("2", ("a", "b"), ("mAP",))
    assert (row.reported, row.depths, row.dataset_settings) == ({("a", "mAP"): 0.5}, (), ())
    pipeline = row.pipeline(table.base, None, ["encoder.seed=3"], ["spatial"])
    assert pipeline.extractor.options == {"max_size": 340, "layer": "features.30"}
    assert pipeline.weighting is not None
    assert pipeline.weighting.name == "gaussian"
    assert pipeline.encoder is not None
    assert pipeline.encoder.options == {"words": "7", "seed": "3"}
    assert [stage.name for stage in pipeline.rerank] == ["aqe", "spatial"]
    other = row.pipeline(table.base, "sift", [], [])
    assert (other.extractor.name, other.extractor.options) == ("sift", {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'metric = "mAP"',
            'metric = "map"',
            "metric is one of mAP, mAP@10 and the like, words, seconds, seconds an image, not map",
        ),
        ('metric = "mAP"', 'metric = ["mAP", "mAP@0"]', "seconds an image, not mAP@0"),
        ('metric = "mAP"', 'metric = ["mAP", "mAP@10"]', "zip() argument 2 is shorter"),
        ('metric = "mAP"', 'metrics = "mAP"', "table 2 has no 'metrics'"),
        ("[0.5, nan]", "[0.5]", "not a file of tables"),
        ("[0.5, nan]", "[0.5, [0.1, 0.2]]", "zip() argument 2 is longer"),
        ('weighting = "gaussian"', 'wieghting = "gaussian"', "row 'one' has no 'wieghting'"),
        ('paper = "p"', "", "KeyError 'paper'"),
        ('paper = "p"', 'paper = "p"\nalias = "q"', "a file of tables has no 'alias'"),
        ('paper = "p"', "paper = ", "is not TOML"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match="here") as caught:
        parse_tables(FILE.replace(old, new), "here")
    assert said in str(caught.value)


def test_several_metrics_of_one_measurement() -> None:
    several = FILE.replace(
        'metric = "mAP"', 'metric = ["mAP@10", "mAP@5", "words"]\nset = ["encoder.words=3"]'
    )
    several = several.replace("[0.5, nan]", "[[0.1, nan, 30], [0.2, 0.25, nan]]")
    (table,) = parse_tables(
        several.replace('["extractor.layer', '["dataset.most=9", "extractor.layer'), "here"
    )
    (row,) = table.rows
    assert (row.metrics, row.depths, table.metrics) == (("mAP@10", "mAP@5", "words"), (10, 5), row.metrics)
    assert row.reported == {
        ("a", "mAP@10"): 0.1,
        ("a", "words"): 30,
        ("b", "mAP@10"): 0.2,
        ("b", "mAP@5"): 0.25,
    }
    assert row.dataset_settings == ("dataset.most=9",)
    pipeline = row.pipeline(table.base, None, ["dataset.most=8"], [])
    assert pipeline.encoder is not None
    assert pipeline.encoder.options == {"words": "7"}  # the row's own after the table's


FIGURES = """
paper = "p"
title = "A paper"
note = "n"
[pipeline.extractor]
name = "vgg16"
[pipeline.detector]
name = "egm"
[[figure]]
number = 5
title = "t"
metric = "mAP"
datasets = ["a"]
x = "detector.rho"
x-label = "rho"
values = [1, 2.5]
[[figure.row]]
name = "one"
weighting = "gaussian"
[[figure.row]]
name = "two"
at = 3
[[figure.row]]
name = "three"
values = [7, 8, 9]
[[figure]]
number = 8
title = "u"
command = "instsearch show"
"""


def test_a_file_of_figures() -> None:
    five, eight = parse_tables(FIGURES, "here")
    assert isinstance(five, Figure)
    assert isinstance(eight, Figure)
    assert (five.label, five.note, five.datasets) == ("figure 5", "n", ("a",))
    assert (five.x, five.x_label, five.values, five.seconds) == ("detector.rho", "rho", (1, 2.5), False)
    one, two, three = five.rows
    assert (one.at, one.metrics, one.reported, two.at) == (None, ("mAP",), {}, 3)
    assert [five.places(row) for row in five.rows] == [(1, 2.5), (3,), (7, 8, 9)]
    over = five.over([4, 5])
    assert [over.places(row) for row in over.rows] == [(4, 5), (3,), (4, 5)]
    assert five.places(three) == (7, 8, 9)
    pipeline = one.pipeline(five.base, None, ["detector.rho=2.5"], [])
    assert pipeline.weighting is not None
    assert pipeline.detector is not None
    assert (pipeline.weighting.name, pipeline.detector.options) == ("gaussian", {"rho": "2.5"})
    assert (eight.command, eight.rows, eight.label) == ("instsearch show", (), "figure 8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("values = [1, 2.5]", "values = []", "figure 5 has no values"),
        ("values = [1, 2.5]", "", "KeyError 'values'"),
        ("at = 3", "reported = [0.5]", "row 'two' has no 'reported'"),
        ("at = 3", "at = 3\nvalues = [4]", "row 'two' has one point, at 3, or values"),
        ('metric = "mAP"', 'metric = ["mAP", "words"]', "figure 5 has one metric, not ['mAP', 'words']"),
        ("x-label", "xlabel", "figure 5 has no 'xlabel'"),
        ('command = "instsearch show"', 'command = ""\nvalues = [1]', "figure 8 has no 'values'"),
    ],
)
def test_a_damaged_figure_says_what_is_wrong(old: str, new: str, said: str) -> None:
    with pytest.raises(UsageError, match="here") as caught:
        parse_tables(FIGURES.replace(old, new), "here")
    assert said in str(caught.value)


def check(known: Registry, pipeline: Pipeline) -> None:
    """Every component that a pipeline names is there and has the options that are set."""
    for kind in STAGE_NAMES:
        if (stage := getattr(pipeline, kind)) is not None:
            make_config(known.get(kind, stage.name).load(), stage.options, kind)
    for stage in pipeline.rerank:
        make_config(known.get("rerank", stage.name).load(), stage.options, stage.name)


def shipped() -> list[Any]:
    return [
        pytest.param(table, row, id=f"{table.paper}, {table.label}, {row.name}")
        for its in by_paper(load_registry()).values()
        for table in its
        for row in table.rows
    ]


@pytest.mark.parametrize(("table", "row"), shipped())
def test_every_row_that_is_shipped_can_be_built(table: Any, row: Any) -> None:
    known = load_registry()
    assert not any(math.isnan(v) for v in row.reported.values())
    swept = isinstance(table, Figure) and row.at is None
    for name in table.datasets:
        values = [s.removeprefix("dataset.").split("=") for s in row.dataset_settings]
        if swept and of_dataset(table.x):
            values += [[table.x.removeprefix("dataset."), v] for v in table.places(row)]
        for option, value in values:
            make_config(known.get("dataset", name).load(), {option: value}, "dataset")
    for name in row.fit_on.values():
        known.get("dataset", name)
    settings: list[list[str]] = [[f"{table.x}={v}"] for v in table.places(row)] if swept else [[]]
    for own in settings:
        pipeline = row.pipeline(table.base, None, own, [])
        check(known, pipeline)


def test_what_the_first_paper_reports() -> None:
    found = {table.number: table for table in tables(load_registry(), "mohedano2018")}
    assert set(found) == {"1", "3", "4", "5", "6"}
    mean = {row.name: list(row.reported.values()) for row in found["3"].rows}
    assert len(mean) == 9
    assert mean["SalGAN"] == [0.698, 0.746, 0.812]
    assert mean["L2-norm"] == [0.674, 0.740, 0.817]


def test_what_the_second_paper_reports() -> None:
    every = tables(load_registry(), "simeoni2018")
    assert [table.label for table in every] == ["table 1", *(f"figure {n}" for n in range(3, 11))]
    mean = {row.name: list(row.reported.values()) for row in every[0].rows}
    assert len(mean) == 10
    assert mean["OS.EGM-triangle"] == [0.537, 0.798, 0.714]
    assert mean["Uniform, diffusion"] == [0.703, 0.857, 0.827]
    for row in every[0].rows:
        pipeline = row.pipeline(every[0].base, None, [], [])
        assert pipeline.searcher is not None
        assert pipeline.searcher.name == ("diffusion" if ", diffusion" in row.name else "faiss")


def test_what_the_third_paper_reports() -> None:
    every = {table.label: table for table in tables(load_registry(), "xiao2020")}
    assert list(every) == [f"table {n}" for n in (1, 2, 3)] + [f"figure {n}" for n in range(1, 9) if n != 2]
    first = {row.name: row for row in every["table 1"].rows}
    tops = ("mAP@10", "mAP@20", "mAP@50", "mAP@100", "mAP")
    assert len(first) == 11
    for row in first.values():
        for dataset in ("instance160", "instance335"):
            assert row.metrics == tops
            grown = [row.reported[dataset, top] for top in tops]
            assert grown == sorted(grown)  # more hits, more found
        assert all(row.reported["instance160", t] > row.reported["instance335", t] - 0.03 for t in tops)
    stars = [first["DASR*"].reported[dataset, "mAP"] for dataset in ("instance160", "instance335")]
    assert stars == [0.771, 0.724]
    assert max(row.reported["instance160", "mAP@50"] for row in first.values()) == 0.614
    second = {row.name: row.reported["instre", "mAP"] for row in every["table 2"].rows}
    assert (len(second), second["DASR"], second["DASR*"], second["FCIS+XD"]) == (11, 0.629, 0.647, 0.067)
    third = {row.name: list(row.reported.values()) for row in every["table 3"].rows}
    assert (len(third), third["DASR+VLAD"], third["CAM"]) == (10, [0.834, 0.594, 0.690], [0.712, 0.805])
    for table in every.values():
        for row in table.rows:
            if row.name.startswith("DASR"):
                pipeline = row.pipeline(table.base, None, [], [])
                assert pipeline.extractor.options["max_size"] in (512, "512")
                assert pipeline.detector is not None
                assert pipeline.detector.name == ("dasr-star" if row.name[4:5] in ("*", "+") else "dasr")
                assert set(row.fit_on) == set(table.datasets)
