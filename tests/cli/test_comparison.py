"""Pipelines side by side: the randomisation test, TREC runs, the table, the JSON and the page of what differs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch_cli.measure.comparison import EXACT, randomisation_test
from instsearch_cli.measure.evaluation import Ranked
from instsearch_cli.measure.runs import decoded, encoded, read_run, write_run
from schema_check import valid

Cli = Callable[..., Any]
SHARES = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=8)


# The test


def test_a_hand_computed_case() -> None:
    """Differences 1, 1, 1: of the eight signs two give a sum of 3 or -3."""
    assert randomisation_test([0, 0, 0], [1, 1, 1]) == 2 / 8
    assert (
        randomisation_test([0, 0, 0, 0.5], [0.3, 0.2, -0.1, 0.5]) == 4 / 8
    )  # |sum| 0.4: ++-, +++ and their opposites


@given(SHARES)
def test_it_counts_what_a_plain_loop_counts(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) / 1000 for side in zip(*pairs, strict=True))
    d = b - a
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(d))
    ]
    expected = np.mean([total >= abs(d.sum()) - 1e-12 for total in sums])
    assert randomisation_test(a, b) == pytest.approx(expected)
    assert randomisation_test(a, b) == pytest.approx(randomisation_test(b, a))


def test_many_queries_are_drawn_and_agree_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(200)
    b = a + rng.normal(0.02, 0.1, 200)
    p = randomisation_test(a, b, drawn=20_000)
    z = abs((b - a).sum()) / np.sqrt(((b - a) ** 2).sum())
    from scipy.stats import norm

    assert p == pytest.approx(2 * norm.sf(z), abs=0.01)
    assert randomisation_test(a, a) == 1
    assert randomisation_test(a, a + 1, drawn=999) == 1 / 1000  # never 0
    few = randomisation_test(a[: EXACT + 1], b[: EXACT + 1])
    assert few == pytest.approx(randomisation_test(a[:EXACT], b[:EXACT]), abs=0.5)


# Runs


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=20))
def test_names_come_back(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # no file is called so
    assert not re.search(r"\s", encoded(name))
    assert decoded(encoded(name).encode()) == name.encode("utf-8", "surrogateescape").decode(
        "utf-8", "surrogateescape"
    )


def test_a_run_is_sorted_by_score_then_rank(tmp_path: Path) -> None:
    path = tmp_path / "x.trec"
    path.write_text(
        "q1 Q0 c.jpg 3 0.5 t\nq1 Q0 a%20b.jpg 2 0.5 t\n\nq2 Q0 z.jpg 1 1e3 t\nq1 Q0 d.jpg 1 0.9 t\n"
    )
    assert read_run(path) == {
        "q1": [("d.jpg", 0.9), ("a b.jpg", 0.5), ("c.jpg", 0.5)],
        "q2": [("z.jpg", 1000.0)],
    }
    write_run(path, {"q 1": [Ranked("ü b.jpg", 0.25, None, "right")]}, "mine")
    assert path.read_bytes() == "q%201 Q0 ü%20b.jpg 1 0.25 mine\n".encode()


@pytest.mark.parametrize(
    "line", ["q Q0 a 1 0.5", "q Q0 a 1 nan t", "q Q0 a one 0.5 t", "q" * 20_000, "q Q0 a 1 inf t"]
)
def test_what_is_no_run_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "x").write_text(f"q Q0 a 1 0.5 t\n{line}\n")
    with pytest.raises(instsearch.InstsearchError, match=r"x, line 2: this is no line of a TREC run"):
        read_run(tmp_path / "x")


# The verb


@pytest.fixture
def manifest(photos: Path, tmp_path: Path) -> Path:
    names = sorted(str(p.relative_to(tmp_path)) for p in photos.rglob("*.png"))
    queries = [
        {
            "id": f"q {i}",
            "image": names[i],
            "box": [8, 8, 40, 32],
            "positives": names[i : i + 3],
            "junk": names[5:6],
        }
        for i in range(3)
    ]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"name": "small", "images": names, "queries": queries}))
    (tmp_path / "boxes.csv").write_text(f"image,x,y,w,h\n{names[0]},8,8,40,32\n")
    return path


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--name", "four", "--quiet")
    cli("index", "--index", tmp_path / "i", "--set", "extractor.side=8", "--name", "eight", "--quiet")
    return tmp_path / "i"


def test_several_pipelines_side_by_side(cli: Cli, index: Path, manifest: Path, tmp_path: Path) -> None:
    run = ("eval", "--dataset", manifest, "--index", index)
    alone = {name: valid("eval", cli(*run, "--pipeline", name, "--json").out) for name in ("four", "eight")}
    both = valid("eval-comparison", cli(*run, "--pipeline", "four", "--pipeline", "eight", "--json").out)
    assert [one["name"] for one in both["pipelines"]] == ["four", "eight"]
    for one in both["pipelines"]:
        assert one["metrics"] == alone[one["name"]]["metrics"]
    (found,) = both["comparisons"]
    aps = {name: [q["ap"] for q in report["queries"]] for name, report in alone.items()}
    assert (found["a"], found["b"]) == ("four", "eight")
    assert found["mAP"] == pytest.approx([np.mean(aps["four"]), np.mean(aps["eight"])])
    assert found["p"] == randomisation_test(aps["four"], aps["eight"])
    assert [q["id"] for q in found["queries"]] == ["q 0", "q 1", "q 2"]
    assert found["better"] + found["worse"] + found["equal"] == 3
    text = cli(*run, "--pipeline", "four", "--pipeline", "eight", "--queries").out
    assert re.search(r"^eight against four: [+-]0\.\d+ mAP, p = ", text, re.MULTILINE)
    assert "localised@10" in text
    assert "n/a" in text
    assert all(f"q {i}" in text for i in range(3))
    told = cli(*run, "--pipeline", "four", "--weighting", "bright", status=2).err
    assert "a pipeline by name is as it was recorded" in told
    told = cli(*run, "--pipeline", "fuor", status=2).err
    assert "has no pipeline 'fuor', nor is a preset called so. Did you mean 'four'?" in told


def test_a_pipeline_and_its_own_run_score_the_same(
    cli: Cli, index: Path, manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest)
    out = cli(
        *run, "--index", index, "--pipeline", "four", "--pipeline", "eight", "--run", tmp_path / "r.trec"
    ).out
    assert out.endswith(f"wrote {tmp_path / 'r-four.trec'}\nwrote {tmp_path / 'r-eight.trec'}\n")
    files = [("--from-run", tmp_path / f"r-{name}.trec") for name in ("four", "eight")]
    direct = cli(*run, "--index", index, "--pipeline", "four", "--pipeline", "eight", "--json").json
    by_run = valid("eval-comparison", cli(*run, *files[0], *files[1], "--json").out)
    for one, other in zip(direct["pipelines"], by_run["pipelines"], strict=True):
        assert other["metrics"]["mAP"] == pytest.approx(one["metrics"]["mAP"])
    assert by_run["comparisons"][0]["p"] == direct["comparisons"][0]["p"]
    lines = (tmp_path / "r-four.trec").read_text().splitlines()
    (tmp_path / "half.trec").write_text(
        "\n".join(line for line in lines if not line.startswith("q%201")) + "\nx Q0 y 1 1 t\n"
    )
    told = cli(*run, "--from-run", tmp_path / "half.trec")
    assert "1 lines of queries or images that the dataset has not; 1 queries without a line" in told.err
    (tmp_path / "none.trec").write_text("x Q0 y 1 1 t\n")
    told = cli(*run, "--from-run", tmp_path / "none.trec", status=1).err
    assert "has no image of a query of 'small'; its first query is 'x'" in told
    assert "cannot read" in cli(*run, "--from-run", tmp_path / "nowhere", status=1).err


def test_the_page_shows_what_differs(cli: Cli, index: Path, manifest: Path, tmp_path: Path) -> None:
    run = ("eval", "--dataset", manifest, "--index", index, "--pipeline", "four")
    cli(*run, "--pipeline", "eight", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count("<section>") == 3
    assert "Where four, eight differ most" in page
    for sign in ("✓ right", "✗ wrong", "– junk, not counted"):
        assert sign in page
    assert 'href="./photos/a/1.png"' in page
    assert page.count("<h3>four<b>AP ") == page.count("<h3>eight<b>AP ") == 3
    assert "The worst queries of four" in cli(*run, "--html", "-").out


def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(
    cli: Cli, index: Path, manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest, "--index", index)
    for flag in ("--html", "--run", "--plot"):
        more = ("--regions", "--detector", "halves") if flag == "--plot" else ()
        told = cli(*run, *more, flag, tmp_path / "no" / "x.png", status=2).err
        assert told.startswith(f"error: {flag}: there is no folder")
    assert (
        "no --pipeline, no --html"
        in cli(*run, "--regions", "--pipeline", "four", "--html", "-", status=2).err
    )
    assert "both go to standard output" in cli(*run, "--json", "--html", "-", status=2).err


def test_pipelines_and_runs_that_contradict_each_other(
    cli: Cli, index: Path, manifest: Path, tmp_path: Path
) -> None:
    run = ("eval", "--dataset", manifest)
    cli(*run, "--index", index, "--pipeline", "four", "--run", tmp_path / "four.trec")
    ours = ("--from-run", tmp_path / "four.trec")
    assert "is there twice" in cli(*run, *ours, *ours, status=2).err
    assert (
        "is there twice"
        in cli(*run, "--index", index, "--pipeline", "four", "--pipeline", "four", status=2).err
    )
    assert (
        "--index: for pipelines, and only runs are scored" in cli(*run, *ours, "--index", index, status=2).err
    )
    assert "--run writes a file: name one" in cli(*run, "--index", index, "--run", "-", status=2).err
    both = cli(*run, *ours, "--index", index, "--pipeline", "four", "--json").json
    assert [one["name"] for one in both["pipelines"]] == ["four", str(tmp_path / "four.trec")]
    assert both["comparisons"][0]["p"] == 1
    before = cli("info", "--index", index, "--json").json["measured"]
    told = cli(*run, "--index", index, "--pipeline", "sift", "--pipeline", "fuor", status=2).err
    assert "no pipeline 'fuor'" in told
    assert cli("info", "--index", index, "--json").json["measured"] == before  # nothing was measured


def test_scores_that_rise_are_written_as_ranks(tmp_path: Path) -> None:
    hits = [Ranked("a", 0.9, None, "right"), Ranked("b", 5.0, None, "wrong"), Ranked("c", 0.1, None, "wrong")]
    write_run(tmp_path / "x", {"q": hits}, "t")
    assert [name for name, _ in read_run(tmp_path / "x")["q"]] == ["a", "b", "c"]


def test_in_python(index: Path, manifest: Path) -> None:
    four, eight = (instsearch.evaluate(index, manifest, pipeline=name) for name in ("four", "eight"))
    (found,) = instsearch.compare([four, eight])
    assert found.p == randomisation_test([q.a for q in found.pairs], [q.b for q in found.pairs])
