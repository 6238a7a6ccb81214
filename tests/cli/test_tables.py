"""Published tables: read from TOML, and measured again on a small collection."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch_cli.engine.pipeline import STAGE_NAMES, Pipeline
from instsearch_cli.engine.registry import Registry, load_registry
from instsearch_cli.errors import UsageError
from instsearch_cli.measure.tables import Figure, by_paper, of_dataset, parse_tables, tables
from instsearch_cli.options import make_config

Cli = Callable[..., Any]

FILE = """
paper = "p"
title = "A paper"
[pipeline.extractor]
name = "vgg16"
max-size = 340
[pipeline.encoder]
name = "blcf"
[[table]]
number = "2"
title = "t"
metric = "mAP"
datasets = ["a", "b"]
[[table.row]]
name = "one"
weighting = "gaussian"
set = ["extractor.layer=features.30", "encoder.words=7"]
rerank = ["aqe"]
reported = [0.5, nan]
"""


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


@pytest.fixture
def manifest(photos: Path) -> Path:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": n, "image": n, "box": None, "positives": [n]} for n in names[:3]]
    (photos / "mine.json").write_text(json.dumps({"name": "mine", "images": names, "queries": queries}))
    return photos / "mine.json"


def test_reproduce_measures_what_it_can(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    flags = (
        "--dataset",
        manifest,
        "--extractor",
        "cells",
        "--index",
        tmp_path / "indexes",
        "--set",
        "encoder.words=8",
    )
    said = cli("reproduce", "mohedano2018", "--table", 3, *flags, "--json").json
    assert (said["paper"], said["table"], said["datasets"]) == ("mohedano2018", "3", [str(manifest)])
    rows = {row["name"]: row["results"][str(manifest)] for row in said["rows"]}
    for name in ("None", "Gaussian", "L2-norm", "Itti-Koch", "BMS"):
        stages = (
            "--extractor",
            "cells",
            "--encoder",
            "blcf",
            "--weighting",
            name.lower().replace("2-n", "2n"),
        )
        paper = (
            "encoder.words=8",
            "encoder.n_train=3000000",
            "encoder.fit_images=9500",
            "encoder.iterations=20",
        )
        own = ("weighting.stretch=false",) if name == "L2-norm" else ()
        sets = [word for setting in (*paper, *own) for word in ("--set", setting)]
        alone = cli(
            "eval", "--dataset", manifest, "--index", tmp_path / "alone", *stages, *sets, "--json"
        ).json
        assert rows[name]["measured"] == pytest.approx(alone["metrics"]["mAP"])
        assert rows[name]["reported"] is None
    assert "no weights for salgan" in rows["SalGAN"]["why_not"]
    text = cli("reproduce", "mohedano2018", "--table", 3, *flags).out
    assert "mohedano2018, table 3" in text
    assert "[1] no weights for salnet" in text
    measured = cli("reproduce", "mohedano2018", "--table", 1, *flags, "--json").json["rows"]
    words = measured[0]["results"][str(manifest)]["measured"]
    assert 1 <= words <= 8
    assert (tmp_path / "indexes" / "mine").is_dir()


def test_reproduce_on_the_papers_datasets_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    said = cli("reproduce", "mohedano2018", "--table", 5, "--root", tmp_path, "--json").json
    for row in said["rows"]:
        for dataset, cell in row["results"].items():
            assert cell["why_not"], (row["name"], dataset)
            assert "measured" not in cell
    assert "fine-tuned" in said["rows"][3]["results"]["instre"]["why_not"]


def test_settings_go_to_the_rows_that_have_them(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    flags = (
        "--dataset",
        manifest,
        "--extractor",
        "cells",
        "--index",
        tmp_path / "i",
        "--set",
        "encoder.words=8",
    )
    rows = cli("reproduce", "mohedano2018", "--table", 5, *flags, "--json").json["rows"]
    for name, words in (("CroW", False), ("BLCF", True)):
        (row,) = [row for row in rows if row["name"] == name]
        assert "measured" in row["results"][str(manifest)]
        pipeline = (tmp_path / "i" / "mine" / "pipelines" / f"mohedano2018-5-{name}.toml").read_text()
        assert ("words = 8" in pipeline) is words
    said = cli("reproduce", "mohedano2018", "--table", 3, *flags, "--set", "encoder.wrods=8", status=2).err
    assert "no row of table 3 has such an option" in said


PAPERS = {
    "mohedano2018": "1",
    "simeoni2018": "2",
    "xiao2020": "3",
    "jimenez2017": "4",
    "xiang2019": "5",
}


def test_papers_go_by_author_and_year_and_by_their_old_numbers() -> None:
    known = load_registry()
    assert set(by_paper(known)) == set(PAPERS)
    for name, number in PAPERS.items():
        assert tables(known, name) == tables(known, f"papers/{number}") == tables(known, number)
        assert {table.paper for table in tables(known, number)} == {name}
        assert tables(known, name)[0].paper_title.endswith(name[-4:])
    (alone,) = parse_tables(FILE, "here")
    (named,) = parse_tables(FILE.replace('title = "A paper"', 'title = "A paper"\nalso = "9"'), "here")
    assert (alone.also, named.also) == ((), ("9",))


def test_reproduce_lists_and_refuses(cli: Cli) -> None:
    listed = cli("reproduce").out
    assert "mohedano2018 (papers/1)  Mohedano et al." in listed
    assert "tables 1, 3, 4, 5, 6\n" in listed
    assert "table 1; figures 5, 6, 7, 10\n" in listed
    assert "tables 1, 2, 3; figures 4, 5, 8\n" in listed
    assert "figure 7: instsearch eval --dataset instre" in listed
    assert "figure 8: instsearch saliency --precision" in listed
    papers = {paper["paper"]: paper for paper in cli("reproduce", "--json").json}
    assert {name: paper["also"] for name, paper in papers.items()} == {
        name: [f"papers/{number}", number] for name, number in PAPERS.items()
    }
    assert [table["number"] for table in papers["mohedano2018"]["tables"]] == ["1", "3", "4", "5", "6"]
    commands = {figure["number"]: figure["command"] for figure in papers["simeoni2018"]["figures"]}
    assert commands["5"] is None
    assert commands["8"].startswith("instsearch saliency --precision")
    for wrong, meant in (("paper/1", "papers/1"), ("mohedano", "mohedano2018"), ("xiao2022", "xiao2020")):
        assert f"Did you mean '{meant}'?" in cli("reproduce", wrong, status=2).err
    assert f"There is: {', '.join(sorted(PAPERS))}." in cli("reproduce", "?", status=2).err
    assert "mohedano2018 has no table 7" in cli("reproduce", "papers/1", "--table", 7, status=2).err
    assert "--table: of which paper?" in cli("reproduce", "--table", 7, status=2).err
    assert "--device: of which paper?" in cli("reproduce", "--device", "cpu", "--json", status=2).err


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (("--extractor", "sfit"), 2, "no extractor is called 'sfit'. Did you mean 'sift'?"),
        (("--rerank", "spatail"), 2, "no rerank is called 'spatail'. Did you mean 'spatial'?"),
        (("--dataset", "instr"), 2, "no dataset is called 'instr'. Did you mean 'instre'?"),
        (("--dataset", "no.json"), 1, "--dataset: no.json does not exist"),
        (("--root", "nowhere"), 1, "--root: nowhere does not exist"),
        (("--weights", "no.pth"), 1, "--weights: no.pth does not exist"),
        (("--device", "gpu"), 2, "--device is auto, cpu or cuda[:n], not 'gpu'"),
    ],
)
def test_what_no_row_could_use_is_refused_before_the_first(
    cli: Cli, flags: tuple[str, ...], status: int, said: str
) -> None:
    refused = cli("reproduce", "mohedano2018", *flags, status=status)
    assert said in refused.err
    assert refused.out == ""


def test_the_library_takes_paths_as_text(tmp_path: Path) -> None:
    (table,) = instsearch.reproduce("1", tables=["5"], root=str(tmp_path), index_path=str(tmp_path / "i"))
    assert (table["paper"], table["table"]) == ("mohedano2018", "5")
    assert all(cell["why_not"] for row in table["rows"] for cell in row["results"].values())
    with pytest.raises(UsageError, match="root of a reproduction is given as a file or a folder"):
        list(instsearch.reproduce("1", root=3))
