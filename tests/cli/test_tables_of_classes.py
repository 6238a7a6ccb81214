"""Tables of class maps, and the time of an image beside what is found: jimenez2017."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.datasets import seconds_an_image
from instsearch_cli.measure.tables import Figure, Table, tables
from instsearch_cli.options import make_config
from instsearch_plugins.rerankers.cam_boxes import CAMBoxes

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def every() -> dict[str, Table]:
    return {table.label: table for table in tables(load_registry(), "jimenez2017")}


def reported(table: Table, metric: str = "mAP") -> dict[str, list[float]]:
    return {row.name: [v for (_, m), v in row.reported.items() if m == metric] for row in table.rows}


def test_what_the_paper_reports(every: dict[str, Table]) -> None:
    assert list(every) == [f"table 6.{n}" for n in range(1, 6)] + [f"figure 6.{n}" for n in range(2, 6)]
    assert list(reported(every["table 6.1"]).values()) == [
        [0.396, 0.526],
        [0.42, 0.549],
        [0.589, 0.662],
        [0.607, 0.685],
    ]
    costs = every["table 6.2"]
    assert costs.metrics == ("mAP", "seconds an image")
    assert list(reported(costs).values()) == [[0.589], [0.667], [0.709], [0.711], [0.712]]
    assert list(reported(costs, "seconds an image").values()) == [[0.49], [0.5], [0.6], [0.9], [1.5]]
    networks = reported(every["table 6.3"])
    assert networks["VGG-16, 64 CAMs"] == reported(every["table 6.4"])["OfA"][:2] == [0.712, 0.805]
    assert (networks["ResNet-50, raw"], networks["DenseNet-161, 64 CAMs"]) == ([0.389, 0.508], [0.695, 0.799])
    others = reported(every["table 6.4"])
    assert (len(others), others["SPoC"], others["OnA"]) == (8, [0.531, 0.501], [0.736, 0.855])
    again = reported(every["table 6.5"])
    assert len(again) == 9
    assert again["OfA, R 1000, QE 5"] == [0.801, 0.855, 0.769, 0.8]
    assert again["OnA, R 100, QE 10"] == [0.78, 0.874]


def test_what_the_rows_run(every: dict[str, Table]) -> None:
    for table in every.values():
        for row in table.rows:
            pipeline = row.pipeline(table.base, None, [], [])
            assert pipeline.encoder is not None
            assert pipeline.weighting is not None
            ours = pipeline.encoder.name == "cam"
            plain = pipeline.encoder.options.get("cams") == "false"
            assert pipeline.weighting.name == ("cam" if ours and not plain else "none"), row.name
            online = pipeline.searcher is not None and pipeline.searcher.name == "cam-online"
            assert online == row.name.startswith("OnA"), row.name
            whitened = ours and pipeline.encoder.options.get("whiten") != "false"
            if whitened:  # on the other city
                assert row.fit_on["oxford5k"] == "paris6k"
                assert set(row.fit_on) == set(table.datasets)
            for stage in pipeline.rerank:
                if stage.name == "cam-boxes":
                    config = make_config(CAMBoxes, stage.options, "rerank.cam-boxes")
                    assert config.expand == int(row.name.split("QE ")[1])
                    assert config.boxes == ("R 1" in row.name)
            if "R 1" in row.name:
                first = pipeline.rerank[0]
                wanted = int(row.name.split("R ")[-1].split(",")[0])
                assert int(first.options.get("depth", 100)) == wanted, row.name
    for number, name in (("6.3", "weighting.n-classes"), ("6.4", "weighting.classes")):
        figure = every[f"figure {number}"]
        assert isinstance(figure, Figure)
        assert figure.x == name
    assert isinstance(figure, Figure)
    lists = [str(value).split(",") for value in figure.values]
    assert [len(names) for names in lists] == [1, 2, 4, 8, 16]
    assert all(names == lists[-1][: len(names)] for names in lists)


TIMED = """
paper = "papers/time"
title = "t"
[pipeline.extractor]
name = "cells"
[pipeline.encoder]
name = "sum"
[[table]]
number = "1"
title = "time"
metric = ["mAP", "seconds an image"]
datasets = ["oxford5k"]
[[table.row]]
name = "sums"
reported = [[0.5, 0.25]]
"""


def test_the_time_of_an_image(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instsearch_cli.measure import datasets as measuring
    from instsearch_cli.measure import tables as module

    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    queries = [{"id": n, "image": n, "box": None, "positives": [n]} for n in names[:2]]
    manifest = photos / "mine.json"
    manifest.write_text(json.dumps({"name": "mine", "images": names, "queries": queries}))
    monkeypatch.setattr(
        module, "tables", lambda known, paper: module.parse_tables(TIMED, "here") if paper else []
    )
    seen: list[float] = []

    def noted(engine: Any, limit: int = 3) -> float:
        extract = engine.assembly.extractor.component.extract
        counted: list[int] = []
        engine.assembly.extractor.component.extract = lambda images: (counted.append(1), extract(images))[1]
        seen.append(seconds_an_image(engine, limit))
        assert len(counted) == 1 + limit  # features that are stored are made all the same
        return seen[-1]

    monkeypatch.setattr(measuring, "seconds_an_image", noted)
    flags = ("--dataset", manifest, "--index", tmp_path / "i", "--keep-features")
    said = cli("reproduce", "papers/time", *flags, "--json").json
    cells = {row["metric"]: row["results"][str(manifest)] for row in said["rows"]}
    assert cells["seconds an image"]["measured"] == seen[0] > 0
    assert set(cells) == {"mAP", "seconds an image"}
    assert "seconds an image" in cli("reproduce", "papers/time", *flags).out
    assert "tables 6.1, 6.2, 6.3, 6.4, 6.5; figures 6.3, 6.4\n" in cli("reproduce").out
