"""What many images will take: the arithmetic by hand, the bytes against an index of as many, refusals, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import instsearch
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.measure import estimating, trials
from instsearch_cli.measure.crowding import crowd
from instsearch_cli.measure.estimating import drawn, lines, sizes_on_disk
from instsearch_cli.measure.forecast import Asking, Estimate, Line, Making, Mirror, through
from instsearch_cli.measure.trials import tried
from instsearch_cli.progress import Quiet
from instsearch_cli.report.estimate import cells, long, much, print_estimate, short
from schema_check import valid

Cli = Callable[..., Any]
FEW = ("--small", 6, "--large", 12, "--questions", 2)


def test_a_line_through_two_points() -> None:
    assert through((150, 12.0), (450, 30.0)) == Line(3.0, 0.06)
    assert through((150, 12.0), (450, 30.0)).at(10_000_000) == pytest.approx(600_003)
    assert through((10, 5.0), (20, 3.0)) == Line(4.0, 0.0)  # noise: it does not fall
    assert through((10, 1.0), (20, 4.0)) == Line(0.0, 0.2)  # nor does it begin below nothing
    assert Line(1.0, 2.0) + Line(3.0, 4.0) == Line(4.0, 6.0)


@given(
    st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 10**9)
)
def test_a_line_is_nowhere_negative_and_never_falls(n: int, more: int, y1: float, y2: float, at: int) -> None:
    line = through((n, y1), (n + more, y2))
    assert line.fixed >= 0
    assert line.each >= 0
    assert line.at(at + 1) >= line.at(at)


def of(images: int, workers: int | None = None, ray: float | None = None) -> Estimate:
    """An estimate whose parts add up in the head."""
    making = Making(
        start=Line(2.0, 0.001),
        fitting=10.0,
        mapping=Line(1.0, 0.05),
        cpu=Line(2.0, 0.1),
        search=Line(0.0, 0.002),
        core=Line(20.0, 0.12),
    )
    asking = Asking(0.1, Line(0.01, 1e-6), Line(0.2, 1e-5), Line(0.4, 2e-6), Line(3e8, 100.0), 10_000)
    layers = {"codes c": Line(1000.0, 2000.0), "search s": Line(0.0, 500.0), "others": Line(5.0, 10.0)}
    measured = ((150, 450), (2000, 16000), 2, 0.5)
    mirror = Mirror(30.0, 1024.0, "dense")
    of_them = (making, asking, layers, ("search s",), mirror, workers, ray)
    return Estimate(images, "p", "photos", *measured, *of_them)


def test_time_is_the_sum_of_the_steps() -> None:
    alone = of(1000)
    assert alone.making.line == Line(13.0, pytest.approx(0.053))
    assert alone.making.line.at(1000) == pytest.approx(66.0)
    assert alone.shared is None
    shared = of(1000, workers=4, ray=5.0)  # 0.1 / 4 an image in place of 0.05, the rest by one process
    assert shared.shared is not None
    assert shared.shared.fixed == pytest.approx(2 + 10 + 2 + 5)
    assert shared.shared.each == pytest.approx(0.001 + 0.002 + 0.025)
    assert of(1000, workers=4).shared == Line(14.0, shared.shared.each)


def test_bytes_and_questions_add_up() -> None:
    plain = of(10_000_000).plain()
    assert plain["on_disk"]["bytes"] == 1005 + 10_000_000 * 2510
    assert plain["on_disk"]["layers"]["search s"]["bytes"] == plain["memory"]["mapped"] == 5e9
    assert plain["query"]["seconds"] == pytest.approx(0.1 + 0.01 + 10 + 0.2 + 0.1)
    assert plain["query"]["stages"]["rerank"] == pytest.approx(0.3)  # as of 10,000
    assert of(5_000).asking.at(5_000) == pytest.approx(0.1 + 0.015 + 0.25)
    assert plain["memory"]["bytes"] == pytest.approx(1.3e9)
    assert plain["mirror"]["rows"] == 3e8
    assert plain["mirror"]["bytes"] == 3e8 * 1024
    assert plain["mirror"]["query_seconds"] is None
    assert plain["workers"] is None
    assert plain["machine"]["images_a_second"] == pytest.approx(1e7 / 530_013)


def test_the_table() -> None:
    rows = cells(of(10_000_000, workers=8, ray=5.0))
    assert {len(row) for row in rows} == {5}
    assert rows[0] == ("10,000,000 images", "each", "one machine", "8 workers", "mirror")
    found = {row[0].strip(): row[1:] for row in rows}
    assert found["to index"] == ("53 ms", "6.1 days", "43 hours", "not measured")
    assert found["on disk"] == ("2.5 kB", "25.1 GB", "25.1 GB", "307 GB of codes")
    assert found["search"][:2] == ("1 µs", "10 s")
    assert found["a question, warm"][1] == "10 s"
    assert found["memory of its process"][1] == "1.3 GB"
    assert {len(row) for row in cells(of(5))} == {4}
    said = [long(s) for s in (0.454, 12.3, 89.9, 91, 5399, 5401, 86400 * 2, 86400 * 4.25, 86400 * 40)]
    assert said == [
        "0.45 s",
        "12 s",
        "90 s",
        "1.5 min",
        "90 min",
        "1.5 hours",
        "48 hours",
        "4.2 days",
        "40 days",
    ]
    assert [short(s) for s in (0.00031, 0.054, 2.5, 12)] == ["0.31 ms", "54 ms", "2,500 ms", "12 s"]
    assert much(2.5e12) == "2.5 TB"


def test_files_are_drawn_evenly() -> None:
    files = [Path(f"{i:03}") for i in range(100)]
    some = drawn(files, 10, 3)
    assert [int(path.name) // 10 for path in some] == list(range(10))
    assert some == drawn(files, 10, 3) != drawn(files, 10, 4)
    assert drawn(files, 100, 0) == files


@pytest.fixture
def many(draw: Callable[..., None], tmp_path: Path) -> Path:
    """Forty pictures of one size."""
    for i in range(40):
        draw(tmp_path / "many" / f"{i:02}.png", i)
    return tmp_path / "many"


@pytest.fixture
def small_crowds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "MOST", 60)


@pytest.mark.usefixtures("small_crowds")
def test_bytes_are_those_of_an_index(cli: Cli, tiny: tuple[str, ...], many: Path, tmp_path: Path) -> None:
    run = ("estimate", "--images", "40", "--sample", many, *FEW, *tiny)
    said = valid("estimate", cli(*run, "--json").out)
    cli("index", many, "--index", tmp_path / "i", *tiny)
    index = instsearch.open(tmp_path / "i")
    real = sizes_on_disk(index, [str(index.last)])
    assert set(real) == set(said["on_disk"]["layers"])
    for name, line in said["on_disk"]["layers"].items():
        assert line["bytes"] == pytest.approx(real[name], rel=0.05), name
    assert said["on_disk"]["bytes"] == pytest.approx(sum(real.values()), rel=0.05)
    on_disk = sum(file.stat().st_size for file in (tmp_path / "i").rglob("*") if file.is_file())
    assert said["on_disk"]["bytes"] == pytest.approx(on_disk, rel=0.05)
    codes = index.codes()
    assert said["mirror"]["codes_an_image"] == 1
    assert said["mirror"]["bytes_a_code"] == codes["vectors"][0].nbytes
    assert said["measured"]["indexed"] == [6, 12]
    assert said["measured"]["asked"] == [12, 40]
    assert said["measured"]["sample"] == str(many)
    assert said["memory"]["bytes"] > 1e7
    assert not said["workers"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, which is quicker."""

    def tried(name: str, progress: Quiet, **request: Any) -> dict[str, Any]:
        return {"process": 5.0, **trials.TRIALS[name](**request)}

    monkeypatch.setattr(estimating, "tried", tried)
    monkeypatch.setattr(trials, "_tell", lambda line: None)


@pytest.mark.usefixtures("small_crowds", "here")
def test_an_index_is_a_point_and_says_which_pipeline(
    cli: Cli, tiny: tuple[str, ...], many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("index", many, "--index", tmp_path / "i", *tiny, "--set", "encoder.power=2", "--name", "own")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "i").rglob("*"))
    index = instsearch.open(tmp_path / "i")
    said = instsearch.estimate(40, index=index, small=6, large=12, questions=2)
    assert (said.pipeline, said.sample, said.sizes) == ("own", str(index.path), (6, 12))
    real = sizes_on_disk(index, ["own"])
    assert {name: line.at(40) for name, line in said.layers.items()} == pytest.approx(real)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "i").rglob("*")) == before
    print_estimate(said)
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["40", "images", "each", "one", "machine", "mirror"]
    assert "pipeline own, measured with 6 and 12 images of" in out


@pytest.mark.usefixtures("small_crowds", "here")
def test_of_few_photographs_all_are_measured(cli: Cli, tiny: tuple[str, ...], many: Path) -> None:
    given = ("--images", 50, "--sample", many, "--small", 6, "--questions", 2)
    assert cli("estimate", *given, *tiny, "--json").json["measured"]["indexed"] == [6, 40]


REFUSED: list[tuple[list[str], str]] = [
    (["--images", "0"], "'0' is no whole number of at least 1"),
    (["--images", "-3"], "no whole number of at least 1"),
    (["--images", "2.5"], "no whole number of at least 1"),
    (
        ["--images", "many"],
        "'many' is no whole number of at least 1, 10_000_000 say. See `instsearch estimate",
    ),
    (["--images", "1e11"], "images is at most 10,000,000,000, as many as an index can have"),
    (["--images", "9", "--preset", "sfit"], "Did you mean 'sift'"),
    (["--images", "9", "--small", "12"], "large is a whole number of at least 13, not 12"),
    (
        ["--images", "9", "--small", "25", "--large", "90"],
        "there are 40 photographs to measure with, and 50 are wanted",
    ),
    (["--images", "9", "--pipeline", "p"], "a pipeline is one of an index"),
]


@pytest.mark.parametrize(("flags", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(cli: Cli, tiny: tuple[str, ...], many: Path, flags: list[str], said: str) -> None:
    run = ("estimate", "--sample", many, *FEW[: 0 if "--small" in flags else 2], *FEW[4:])
    more = () if "--large" in flags else ("--large", 12)
    assert said in cli(*run, *more, *flags, *(() if "--preset" in flags else tiny), status=2).err


def test_a_sample_without_pictures_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert (
        "there is no picture in the folder"
        in cli("estimate", "--images", 9, "--sample", tmp_path / "empty", *FEW, status=1).err
    )
    with pytest.raises(UsageError, match="give photographs to measure with"):
        instsearch.estimate(9)
    with pytest.raises(UsageError, match="workers is a whole number of at least 1"):
        instsearch.estimate(9, workers=0)


def test_a_crowd_is_its_rows_again(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    cli("index", photos, "--index", tmp_path / "i", *tiny)
    index = instsearch.open(tmp_path / "i")
    before = np.asarray(index.codes())
    crowd(index, [str(index.last)], 10, 18, Quiet())
    crowd(index, [str(index.last)], 10, 25, Quiet())
    assert np.array_equal(np.asarray(index.codes()), before[np.arange(25) % 10])
    assert len(index) == 25
    hits = index.query(photos / "a/1.png", (8, 8, 40, 30), 3)
    assert [hit.row % 10 for hit in hits] == [hits[0].row % 10] * 3  # the image itself, three times


def test_what_a_measurement_ends_with_is_raised(tiny: tuple[str, ...], tmp_path: Path) -> None:
    request = {"photographs": [], "choices": [{}], "device": "cpu", "label": ""}
    with pytest.raises(
        InstsearchError, match="of 0 photographs none could be read: give others to measure with"
    ):
        tried("index", Quiet(), index=str(tmp_path / "i"), **request)
    with pytest.raises(InstsearchError, match=r"^TypeError\(.*unexpected keyword argument 'odd'"):
        tried("index", Quiet(), index=str(tmp_path / "i"), **request, odd=1)


def test_a_measurement_that_nobody_waits_for_ends_without_a_word(many: Path, tmp_path: Path) -> None:
    request = {"trial": "index", "index": str(tmp_path / "i"), "photographs": [str(many)], "choices": [{}]}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", trials.__name__],
            input=json.dumps({**request, "device": "cpu", "label": ""}),
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_weights_are_looked_for_before_anything_is_drawn(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instsearch_cli.demo.make_scenes", None)
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    said = cli("estimate", "--images", 9, "--preset", "best", status=1).err
    assert "no weights for " in said


def test_a_mirror_of_a_run_that_failed_is_dropped(
    cli: Cli, tiny: tuple[str, ...], many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("milvus_lite")
    from instsearch_plugins.searchers.milvus_server import connected

    measured = trials.tried

    def tried(name: str, progress: Quiet, **request: Any) -> dict[str, Any]:
        if request["label"] == "12 images":
            raise InstsearchError("no more")
        return measured(name, progress, **request)

    monkeypatch.setattr(estimating, "tried", tried)
    mirrored = (*tiny[:-2], "--searcher", "milvus", "--set", f"searcher.uri={tmp_path / 'm.db'}")
    assert "no more" in cli("estimate", "--images", 9, "--sample", many, *FEW, *mirrored, status=1).err
    assert (tmp_path / "m.db").is_dir()
    assert connected(str(tmp_path / "m.db"), "").client.list_collections() == []


def test_lines_by_name() -> None:
    found = lines((10, {"a": 30.0}), (20, {"a": 50.0, "b": 40.0}))
    assert found == {"a": Line(10.0, 2.0), "b": Line(0.0, 2.0)}
