"""An encoder learnt anew from matching pairs, measured on pairs that were held out."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.measure.adapting import held
from paired_scenes import SIFT, scene
from schema_check import valid

Cli = Callable[..., Any]
SUM = ("--extractor", "cells", "--encoder", "sum", "--weighting", "flat", "--set", "encoder.dims=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four objects."""
    folder = tmp_path_factory.mktemp("adapt")
    for i in range(12):
        scene(folder / f"p/{i:02}.png", i, "ABCD"[i % 4])
    return folder


@pytest.fixture
def index(cli: Cli, tiny: tuple[str, ...], place: Path, tmp_path: Path) -> Path:
    """They are indexed once, by their keypoints, then by their colours; each test has a copy."""
    if not (place / "i").exists():
        cli("index", place / "p", "--index", place / "making", *SIFT, "--name", "points")
        cli("index", "--index", place / "making", *SUM, "--searcher", "faiss", "--name", "colours", "--quiet")
        (place / "making").rename(place / "i")
    return Path(shutil.copytree(place / "i", tmp_path / "i"))


def read(path: str | Path) -> list[tuple[str, ...]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [tuple(line) for line in csv.reader(file)]


def test_pairs_are_found_learnt_from_and_measured(cli: Cli, index: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    adapting = ("adapt", file, "--index", index, "--pipeline", "colours", "--held-out", 0.25)
    done = valid("adapt", cli(*adapting, "--by", "points", "--json").out)
    pairs, learnt = read(file), read(done["wrote"])
    assert (done["of"], done["pipeline"]) == ("colours", "colours-adapted")
    assert done["pairs"] == len(pairs) == 12
    assert done["learnt"] == len(learnt) == 9
    assert done["held_out"] == 3
    out = set(pairs) - set(learnt)
    assert not {name for pair in out for name in pair} & {name for pair in learnt for name in pair}
    opened = instsearch.open(index)
    for name, found in (("colours", done["before"]), ("colours-adapted", done["after"])):
        codes = opened.codes(pipeline=name)
        of = {image: codes["vectors"][i] for i, image in enumerate(codes.images)}
        ranks = []
        for a, b in [*out, *(pair[::-1] for pair in out)]:
            others = sorted((float(of[a] @ of[c]), c) for c in of if c != a)[::-1]
            ranks.append(1 + [c for _, c in others].index(b))
        assert found["first"] == pytest.approx(np.mean([r == 1 for r in ranks]))
        assert found["within_ten"] == pytest.approx(np.mean([r <= 10 for r in ranks]))
        assert found["reciprocal_rank"] == pytest.approx(np.mean([1 / r for r in ranks]))
    assert opened.last == "colours-adapted"
    assert opened.pipelines["colours-adapted"].encoder.options["pairs"] == done["wrote"]
    again = cli(*adapting, "--name", "again").out
    assert "12 pairs = learnt from 9" in again
    assert "colours" in again
    assert "first  in ten  mean 1/rank" in again
    assert np.array_equal(opened.codes(pipeline="again")["vectors"], codes["vectors"])


def test_all_may_be_learnt_from(index: Path, tmp_path: Path) -> None:
    opened = instsearch.open(index)
    instsearch.pairs(opened, tmp_path / "p.csv", pipeline="points")
    done = instsearch.adapt(opened, tmp_path / "p.csv", pipeline="colours", held_out=0)
    assert (done.learnt, done.held_out, done.before, done.after) == (12, 0, None, None)
    with pytest.raises(UsageError, match="from 0 to below 1"):
        instsearch.adapt(opened, tmp_path / "p.csv", pipeline="colours", held_out=1)


WRONG: list[tuple[str | None, list[str], str, int]] = [
    ("", [], "has no pair", 1),
    ("a.png\n", [], "line 1: a pair is two names of images, not 1", 1),
    ("a.png, a.png\n", [], "line 1: a pair is of two images, not of one with itself", 1),
    ("00.png,gone.png\n", [], "names 1 images that are not in the index, gone.png the first", 1),
    (None, [], "name a pipeline of keypoints with --by", 2),
    ("00.png,04.png\n", ["--by", "points"], "is there already: leave out --by", 2),
    ("00.png,04.png\n", ["--pipeline", "points"], "encoder 'bovw' learns nothing from pairs; these do: ", 1),
    ("00.png,04.png\n", [], "too few to whiten", 1),
    (None, ["--by", "colours"], "'cells' makes maps", 1),
    ("00.png,04.png\n", ["--pipeline", "colour"], "Did you mean 'colours'", 2),
]


def test_what_goes_wrong(cli: Cli, index: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    for text, flags, said, status in WRONG:
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        assert said in cli("adapt", file, "--index", index, *flags, status=status).err
        assert instsearch.open(index).last == "colours"


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40),
    st.floats(0, 0.99),
    st.integers(0, 9),
)
def test_what_is_held_out_hangs_together_with_nothing_else(
    pairs: list[tuple[int, int]], share: float, seed: int
) -> None:
    rows = np.array(pairs)
    out = held(rows, share, seed)
    assert not set(rows[out].ravel()) & set(rows[~out].ravel())
    assert out.sum() <= 3 * share * len(rows)
    assert not out.all()


def test_a_chain_is_not_torn(index: Path, tmp_path: Path) -> None:
    """Where all images hang together nothing is held out, and it is said that nothing is measured."""
    assert not held(np.array([[i, i + 1] for i in range(20)]), 0.2).any()
    rows = [f"{i:02}.png,{i + 1:02}.png" for i in range(11)]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    done = instsearch.adapt(instsearch.open(index), tmp_path / "p.csv", pipeline="colours")
    assert (done.learnt, done.held_out, done.after) == (11, 0, None)
    assert json.loads(json.dumps(done.plain()))["after"] is None
    with pytest.raises(InstsearchError, match="No such file"):
        instsearch.adapt(instsearch.open(index), tmp_path / "none.csv", pipeline="colours")
