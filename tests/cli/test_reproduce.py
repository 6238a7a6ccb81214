"""Published tables measured again on a small collection: what is measured, missing or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instsearch
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import UsageError
from instsearch_cli.measure.tables import by_paper, parse_tables, tables
from paper_tables import FILE

Cli = Callable[..., Any]


@pytest.fixture
def manifest(photos: Path) -> Path:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": n, "image": n, "box": None, "positives": [n]} for n in names[:3]]
    (photos / "mine.json").write_text(json.dumps({"name": "mine", "images": names, "queries": queries}))
    return photos / "mine.json"


def measuring(manifest: Path, index: Path) -> tuple[object, ...]:
    cells = ("--extractor", "cells", "--set", "encoder.words=8")
    return ("--dataset", manifest, "--index", index, *cells)


def test_reproduce_measures_what_it_can(
    cli: Cli, tiny: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    flags = measuring(manifest, tmp_path / "indexes")
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
    flags = measuring(manifest, tmp_path / "i")
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
    with pytest.raises(UsageError, match="root of a reproduction: give a file or a folder"):
        list(instsearch.reproduce("1", root=3))
