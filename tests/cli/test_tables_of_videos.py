"""Several mAP@k of one measurement, and a sweep over an option of the dataset: xiao2020 on a small Instance-160."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.measure.datasets import measure

Cli = Callable[..., Any]
TOPS = ["mAP@10", "mAP@20", "mAP@50", "mAP@100", "mAP"]
RMAC = ("--detector", "grid", "--encoder", "regions-sum", "--rerank", "none")


@pytest.fixture
def collections(tmp_path: Path, draw: Callable[..., None]) -> Path:
    """A folder with instance160: three videos of 14, 9 and 6 frames, and 25 distractors."""
    root = tmp_path / "collections" / "instance160"
    (root / "bbox").mkdir(parents=True)
    lists = []
    for seed, (video, n) in enumerate((("Woman", 14), ("Girl2", 9), ("Car24", 6))):
        names = [f"{video}_{i:04}" for i in range(n)]
        for i, name in enumerate(names):
            draw(root / "Images" / video / f"{name}.png", 100 * seed + i % 5)
        (root / "bbox" / f"{video}.txt").write_text("".join(f"{name}\t0 0 40 48\t\n" for name in names))
        lists.append(" ".join([names[0], str(n), *names]))
    (root / "Ins160-mAP.txt").write_text("\n".join(lists) + "\n")
    for i in range(25):
        draw(root / "distractors" / f"{i:02}.png", 900 + i)
    return root.parent


@pytest.fixture
def flags(
    tiny: tuple[str, ...], collections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[object, ...]:
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    where = ("--root", collections, "--index", tmp_path / "indexes", "--present-only")
    return (*where, "--extractor", "cells", "--set", "encoder.dims=8")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pipelines that are measured, as often as they are."""
    names: list[str] = []

    def counted(
        known: Any, dataset: Any, path: Path, choose: Callable[[Any], Any], *args: Any, **options: Any
    ) -> Any:
        names.append(choose(None).name)
        return measure(known, dataset, path, choose, *args, **options)

    monkeypatch.setattr("instsearch_cli.measure.reproduce.measure", counted)
    return names


def alone(cli: Cli, collections: Path, tmp_path: Path, *more: object) -> dict[str, float]:
    """What eval says of the row R-MAC."""
    said = cli(
        *("eval", "--dataset", "instance160", "--root", collections / "instance160", "--present-only"),
        *(
            "--index",
            tmp_path / "alone",
            "--extractor",
            "cells",
            *RMAC,
            "--set",
            "encoder.dims=8",
            *more,
            "--json",
        ),
    )
    metrics: dict[str, float] = said.json["metrics"]
    return metrics


def test_one_measurement_gives_every_top(
    cli: Cli, flags: tuple[object, ...], collections: Path, tmp_path: Path, measured: list[str]
) -> None:
    run = ("reproduce", "xiao2020", "--table", 1, *flags)
    said = cli(*run, "--json").json
    assert (said["metrics"], said["datasets"]) == (TOPS, ["instance160", "instance335"])
    assert measured.count("xiao2020-1-R-MAC") == 1
    rows = {(row["name"], row["metric"]): row["results"] for row in said["rows"]}
    assert len(rows) == len(said["rows"]) == 11 * 5
    expected = alone(cli, collections, tmp_path)
    assert expected["mAP@10"] < expected["mAP"]
    for top, reported in zip(TOPS, (0.101, 0.164, 0.268, 0.307, 0.358), strict=True):
        cell = rows["R-MAC", top]["instance160"]
        assert cell["measured"] == pytest.approx(expected[top])
        assert cell["difference"] == pytest.approx(cell["measured"] - reported)
        assert cell["took"] == rows["R-MAC", "mAP"]["instance160"]["took"]
        assert cell["note"] == "fitted on itself: instre is not there"
        other = rows["R-MAC", top]["instance335"]
        assert "measured" not in other
        assert "wanted Ins335-mAP.txt" in other["why_not"]
        assert rows["DeepVision", top]["instance160"]["why_not"].endswith("the paper's is over VGG-16")
        assert rows["DASR*", top]["instance160"]["why_not"]  # no detector, or no weights of its network


def test_tops_side_by_side(cli: Cli, flags: tuple[object, ...]) -> None:
    lines = cli("reproduce", "xiao2020", "--table", 1, *flags, "--dataset", "instance160").out.splitlines()
    assert lines[0].startswith("xiao2020, table 1: ")
    assert lines[2].split() == ["instance160", *TOPS]
    assert lines[3].split() == ["paper", "here", "diff"] * 5 + ["time"]
    row = next(line.split() for line in lines if line.startswith("R-MAC"))
    assert len(row) == 1 + 3 * 5 + 3  # seconds, "s", [note]
    assert row[1:4:3] == ["0.101"]
    assert float(row[3]) == pytest.approx(float(row[2]) - 0.101, abs=0.0011)
    assert row[-1] == "[1]"
    assert "[1] fitted on itself: instre is not there" in lines
    crow, deep = (next(line for line in lines if line.startswith(n)) for n in ("CroW", "DeepVision"))
    assert deep.count("–") == 5
    assert deep.rstrip().endswith("]")
    at = [line.index("0.") for line in (crow, deep)]
    assert at[0] == at[1]


def test_tops_of_a_dataset_that_asks_for_none(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": names[0], "image": names[0], "positives": names[:9]}]
    manifest = photos / "mine.json"
    manifest.write_text(json.dumps({"name": "mine", "images": names, "queries": queries}))
    run = ("reproduce", "xiao2020", "--table", 1, "--dataset", manifest, "--extractor", "cells")
    said = cli(*run, "--index", tmp_path / "i", "--set", "encoder.dims=8", "--json").json
    found = {row["metric"]: row["results"][str(manifest)] for row in said["rows"] if row["name"] == "R-MAC"}
    assert list(found) == TOPS
    assert found["mAP@10"]["measured"] == pytest.approx(found["mAP"]["measured"])  # ten pictures
    assert found["mAP"]["reported"] is None


def test_a_sweep_over_an_option_of_the_dataset(
    cli: Cli, flags: tuple[object, ...], collections: Path, tmp_path: Path, measured: list[str]
) -> None:
    plot = tmp_path / "8.svg"
    run = ("reproduce", "xiao2020", "--figure", 8, *flags)
    told = cli(*run, "--values", "5,10,25", "--json", "--plot", plot)
    said = told.json
    assert (said["x"], said["metric"], said["datasets"]) == (
        "dataset.most-distractors",
        "mAP@50",
        ["instance160"],
    )
    assert "--keep-features" not in told.err
    assert "xiao2020-fig8-R-MAC on instance160, most-distractors 10" in told.err
    curves = {row["name"]: row["results"]["instance160"] for row in said["rows"]}
    assert "hamming needs words at keypoints" in curves["BoVW+HE"][0]["why_not"]
    for name in ("R-MAC", "CroW"):
        assert [point["x"] for point in curves[name]] == [5, 10, 25]
        found = [point["measured"] for point in curves[name]]
        assert found == sorted(found, reverse=True)
        assert found[0] > found[-1]
    # every row at one value before the next: what they learn from is the same
    assert measured[:2] == measured[len(measured) // 3 :][:2]
    assert len(set(measured)) == len(measured) / 3
    assert (tmp_path / "indexes" / "instance160-most-distractors").is_dir()
    assert not (tmp_path / "indexes" / "instance160").exists()
    assert plot.stat().st_size > 1000

    few = ("--set", "dataset.distractors=distractors", "--set", "dataset.most_distractors=5")
    expected = alone(cli, collections, tmp_path, *few)
    assert curves["R-MAC"][0]["measured"] == pytest.approx(expected["mAP@50"])


def test_distractors_from_elsewhere(
    cli: Cli, flags: tuple[object, ...], collections: Path, tmp_path: Path, draw: Callable[..., None]
) -> None:
    (collections / "instance160/distractors").rename(collections / "instance160/Images/other")
    run = ("reproduce", "xiao2020", "--figure", 8, *flags, "--values", 3, "--json")
    (point,) = next(r for r in cli(*run).json["rows"] if r["name"] == "CroW")["results"]["instance160"]
    assert "there is no distractors" in point["why_not"]
    for i in range(3):
        draw(tmp_path / "flickr" / f"{i}.png", 700 + i)
    rows = cli(*run, "--set", f"dataset.distractors={tmp_path / 'flickr'}").json["rows"]
    (point,) = next(r for r in rows if r["name"] == "CroW")["results"]["instance160"]
    assert 0 < point["measured"] <= 1


def test_options_of_a_dataset_in_a_table(cli: Cli, flags: tuple[object, ...], collections: Path) -> None:
    run = ("reproduce", "xiao2020", "--table", 1, "--dataset", "instance160", *flags)
    plain, among = (
        {
            r["metric"]: r["results"]["instance160"]["measured"]
            for r in cli(*run, *s, "--json").json["rows"]
            if r["name"] == "R-MAC"
        }
        for s in ((), ("--set", "dataset.distractors=distractors"))
    )
    assert among["mAP"] < plain["mAP"]
    wrong = cli(*run, "--set", "dataset.distracters=x", status=2).err
    assert "no row of table 1 has such an option" in wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--values", "5,many"), "dataset.most-distractors is a whole number, not 'many'"),
        (("--set", "dataset.most_distractors=3"), "figure 8 sweeps it"),
        (("--dataset", "holidays", "--values", "5"), "dataset has no option 'most-distractors'"),
        (("--set", "dataset.words=3"), "no row of figure 8 has such an option"),
    ],
)
def test_what_cannot_be_is_refused_at_once(cli: Cli, words: tuple[object, ...], said: str) -> None:
    refused = cli("reproduce", "xiao2020", "--figure", 8, *words, status=2)
    assert said in refused.err
    assert refused.out == ""


def test_curves_with_values_of_their_own(cli: Cli, flags: tuple[object, ...]) -> None:
    run = ("reproduce", "xiao2020", "--figure", 4, *flags[:-2], "--dataset", "instance160")
    said = cli(*run, "--json").json
    points = {row["name"]: row["results"]["instance160"] for row in said["rows"]}
    xs = {name: [point["x"] for point in its] for name, its in points.items()}
    assert xs["DASR, VGG-16"] == ["features.25", "features.27", "features.29"]
    assert (xs["DASR, ResNet-50"][0], len(xs["DASR, ResNet-50"])) == ("layer3.0", 9)
    assert all(point["why_not"] for its in points.values() for point in its)  # these cells have no layers
    lines = cli(*run).out.splitlines()
    assert [line.split()[0] for line in lines[4:16]] == [*xs["DASR, ResNet-50"], *xs["DASR, VGG-16"]]
    assert [len(line.split()) for line in lines[4:16]] == [3] * 12  # its place, no number, the reason
    given = cli(*run, "--values", "a,b", "--json", status=2).err
    assert "extractor has no option 'layer'" in given
