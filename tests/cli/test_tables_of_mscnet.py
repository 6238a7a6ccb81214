"""xiang2019: what it reports, and that every row is a pipeline that can be built."""

from __future__ import annotations

import pytest

from instsearch_cli.engine.pipeline import STAGE_NAMES
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.measure.tables import Table, tables
from instsearch_cli.options import make_config

SCALES = (386, 550, 800, 1050)


@pytest.fixture(scope="module")
def every() -> dict[str, Table]:
    return {table.label: table for table in tables(load_registry(), "xiang2019")}


def reported(table: Table) -> dict[str, list[float]]:
    return {row.name: list(row.reported.values()) for row in table.rows}


def test_what_the_fifth_paper_reports(every: dict[str, Table]) -> None:
    assert list(every) == [*(f"table {n}" for n in range(1, 5)), *(f"figure {n}" for n in (2, 3, 4))]
    first, second, third, fourth = (reported(every[f"table {n}"]) for n in range(1, 5))
    assert [len(rows) for rows in (first, second, third, fourth)] == [6, 11, 25, 5]
    assert (first["SW + SSW"], first["SW + Gram-CS"]) == ([0.708, 0.797], [0.714, 0.815])
    assert (second["SU 5-512"], second["UN 10-1024"]) == ([0.861, 0.901, 0.854], [0.793, 0.853])
    assert third["MSCNet, UN 10-2048"] == [0.805, 0.867, 0.775, 0.808, 0.902]
    assert (third["SPoC"], third["CroW + QE"]) == ([0.531, 0.501, 0.802], [0.749, 0.848, 0.706, 0.794])
    assert fourth["MSCNet, SU 5-2048"] == [0.883, 0.916, 0.859, 0.863, 0.914]
    for name in ("UN 10-2048", "SU 5-512", "SU 5-1024"):  # expansion helps all of them
        plain, expanded = third[f"MSCNet, {name}"], third[f"MSCNet, {name} + QE"]
        assert all(b > a for a, b in zip(plain, expanded, strict=False))


def test_every_row_can_be_built(every: dict[str, Table]) -> None:
    known = load_registry()
    for table in every.values():
        for row in table.rows:
            pipeline = row.pipeline(table.base, None, (), ())
            for kind in STAGE_NAMES:
                if (stage := getattr(pipeline, kind)) is not None:
                    make_config(known.get(kind, stage.name).load(), stage.options, kind)
            for stage in pipeline.rerank:
                make_config(known.get("rerank", stage.name).load(), stage.options, f"rerank.{stage.name}")
            assert set(row.fit_on) == set(table.datasets)


def test_mscnets_rows_take_the_file_of_their_shape(every: dict[str, Table]) -> None:
    seen = set()
    for table in every.values():
        for row in table.rows:
            pipeline = row.pipeline(table.base, None, (), ())
            assert pipeline.encoder is not None
            if pipeline.encoder.name != "mscnet":
                continue
            file, D = pipeline.encoder.options["weights"], pipeline.encoder.options["dims"]
            assert file.split("-")[3].removesuffix(".pth") == D
            assert ("weights" in pipeline.extractor.options) == ("-su-" in file)
            assert ("resnet101" in file) == (pipeline.extractor.name == "resnet101")
            scales = tuple(int(s) for s in pipeline.extractor.options["scales"].split(","))
            assert scales == ((800,) if "one scale" in row.name else SCALES)
            seen.add(file)
    assert len(seen) == 11 + 2
