"""What a component is given, what is stored of what it makes, and what a layer is named after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from instsearch_cli import WeighterSpec
from instsearch_cli.components import BASES
from instsearch_cli.data import WeightMap
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.describe import Described, Picture
from instsearch_cli.engine.pipeline import STAGE_NAMES, Pipeline, Stage
from instsearch_cli.engine.registry import Offer, Registry, load_registry
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.stages import FEATURES, GRID, IMAGE, MAPPED, ROWS, TABLE, WEIGHTS
from instsearch_cli.errors import UsageError
from instsearch_cli.storage import from_item, to_item
from instsearch_formats.encodings import ENCODINGS

Cli = Callable[..., Any]
CPU = torch.device("cpu")


def same(a: Any, b: Any) -> None:
    """Equal to the last bit."""
    assert type(a) is type(b)
    for field in fields(a):
        mine, other = vars(a)[field.name], vars(b)[field.name]
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other), field.name
        else:
            assert mine == other, field.name


# -- the table ----------------------------------------------------------------------------------------


def test_the_table_hangs_together() -> None:
    known = {*TABLE, IMAGE, GRID}
    assert len(TABLE) == len(ROWS)
    for row in ROWS:
        assert row.stage in STAGE_NAMES
        assert row.stage in BASES
        assert {*row.reads, *row.declared, *row.if_made} <= known
        assert (row.make is None) == (row.make_many is None) or row.make is not None
    order = [row.kind for row in MAPPED]
    assert order[0] == FEATURES
    assert all(set(row.reads) - {IMAGE} <= set(order[: order.index(row.kind)]) for row in MAPPED)


def test_every_layer_comes_after_what_it_is_made_of(tiny: tuple[str, ...]) -> None:
    known = load_registry()
    for weighting, detector in (("flat", "halves"), ("bright", "halves")):
        assembly = Assembly(pipeline(weighting, detector), known, CPU)
        made = [IMAGE, GRID, FEATURES]
        for kind in assembly.kinds:
            assert set(assembly.reads(kind)) <= set(made), kind
            made.append(kind)


def pipeline(weighting: str = "flat", detector: str | None = None, side: int = 4) -> Pipeline:
    return Pipeline(
        "tiny",
        Stage("cells", {"side": side}),
        weighting=Stage(weighting),
        detector=Stage(detector) if detector else None,
        encoder=Stage("centred"),
        searcher=Stage("scan"),
    )


# -- the cells are part of a layer's identity ----------------------------------------------------------


@pytest.mark.parametrize("weighting", ["flat", "bms", "gaussian"])
def test_weights_on_other_cells_are_other_weights(tiny: tuple[str, ...], weighting: str) -> None:
    four, eight = (Assembly(pipeline(weighting, side=n), load_registry(), CPU) for n in (4, 8))
    assert four.fingerprint(WEIGHTS) != eight.fingerprint(WEIGHTS)
    assert four.identity(WEIGHTS)["inputs"] == {GRID: four.fingerprint(FEATURES)}


def test_regions_that_lie_on_cells_are_named_after_them(tiny: tuple[str, ...]) -> None:
    for detector, differ in (("grid", True), ("whole", False), ("halves", False)):
        made = [Assembly(pipeline("flat", detector, n), load_registry(), CPU) for n in (4, 8)]
        assert (made[0].fingerprint("regions") != made[1].fingerprint("regions")) is differ, detector


def test_codes_do_not_depend_on_which_cells_came_first(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    bms = (*tiny[:4], "--weighting", "bms", *tiny[6:])
    eight = ("--set", "extractor.side=8")
    cli("index", photos, "--index", tmp_path / "both", *bms)
    cli("index", "--index", tmp_path / "both", *bms, *eight)
    cli("index", photos, "--index", tmp_path / "alone", *bms, *eight)
    both, alone = (Index.open(tmp_path / name) for name in ("both", "alone"))
    assert np.asarray(both.weights("a/1.png")).shape == (1, 8, 8)
    np.testing.assert_array_equal(np.asarray(both.codes()), np.asarray(alone.codes()))


def test_words_on_finer_cells_do_not_lend_these_to_weights(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    """The grid of a picture whose features are not kept is not that of words on a map made finer."""
    words = ("--extractor", "cells", "--encoder", "blcf", "--set", "encoder.words=4")
    words += ("--set", "encoder.db-interp=2", "--set", "encoder.whiten=false")
    cli("index", photos, "--index", tmp_path / "i", *words, "--weighting", "flat")
    cli("index", "--index", tmp_path / "i", *words, "--weighting", "bms")
    assert np.asarray(Index.open(tmp_path / "i").weights("a/1.png")).shape == (1, 4, 4)


# -- what is used is what is stored --------------------------------------------------------------------


def test_what_is_made_is_what_storage_gives_back(tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i")
    index.index(
        photos,
        extractor="cells",
        encoder="centred",
        weighting="bright",
        detector="halves",
        searcher="scan",
        keep_features=True,
    )
    engine = index.engine()
    data = Collection(index.store, engine.assembly)
    for row in range(3):
        fresh = Described(engine.assembly, Picture(data.load(row)))
        for kind in fresh.kinds:
            same(fresh[kind], data.at(row)[kind])
            encoding = engine.assembly.encoding(kind)
            same(fresh[kind], from_item(encoding, to_item(encoding, fresh[kind])))


def test_codes_are_equal_whether_weights_were_stored_or_just_made(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    """Stored as f16: an encoder that got them as f32 from memory made other codes under the same name."""
    bright = (*tiny[:4], "--weighting", "bright", *tiny[6:])
    cli("index", photos, "--index", tmp_path / "at-once", *bright)
    cli("index", photos, "--index", tmp_path / "later", *bright)
    later = Index.open(tmp_path / "later")
    layer = later.engine().data.layer("codes")
    for part in layer.path.glob("part-*.h5"):
        part.unlink()
    cli("index", "--index", tmp_path / "later", *bright)  # weights are read now, not made
    np.testing.assert_array_equal(
        np.asarray(Index.open(tmp_path / "at-once").codes()),
        np.asarray(Index.open(tmp_path / "later").codes()),
    )


# -- exactly what is declared --------------------------------------------------------------------------


class Curious:
    """A weighting that declares nothing, and remembers what it was given."""

    given: ClassVar[list[Any]] = []

    def __init__(self, config: Any, device: Any) -> None:
        self.config = config

    def weigh(self, inputs: Any) -> WeightMap:
        Curious.given.append(inputs)
        return WeightMap(torch.ones(1, *inputs.grid.shape), inputs.grid)


def test_a_component_gets_what_it_declares_and_nothing_else(
    tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: Registry = load_registry()
    spec = WeighterSpec("curious", f"{__name__}:Curious", "remembers")
    monkeypatch.setattr(
        Offer, "_import", lambda self, path: Curious if path == spec.factory else LOAD(self, path)
    )
    known.add(Offer(spec, "test", "1"))
    Curious.given.clear()
    index = Index.create(tmp_path / "i")
    index.index(
        photos, extractor="cells", encoder="centred", weighting="curious", detector="halves", searcher="scan"
    )
    assert len(Curious.given) == 10
    for inputs in Curious.given:
        assert inputs.grid.shape == (4, 4)
        assert inputs.image is inputs.features is inputs.regions is inputs.local is inputs.codes is None
    load_registry.cache_clear()


LOAD = Offer._import


def test_an_encoder_that_declares_no_regions_gets_none(tiny: tuple[str, ...]) -> None:
    known = load_registry()
    with_regions = Pipeline("p", Stage("cells"), Stage("flat"), Stage("halves"), Stage("cam"), Stage("faiss"))
    assembly = Assembly(with_regions, known, CPU)
    assert assembly.reads("codes") == (FEATURES, WEIGHTS)
    assert "regions" not in assembly.identity("codes")["inputs"]


def test_layers_that_nobody_makes_and_that_wait_for_each_other(tiny: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="detector 'egm' reads weights: name a weighting too"):
        Assembly(Pipeline("p", Stage("cells"), detector=Stage("egm")), load_registry(), CPU)


def test_a_reranker_says_whose_features_it_understands(tiny: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="'lightglue' understands what extractor aliked makes, not 'cells'"):
        Assembly(Pipeline("p", Stage("cells"), rerank=(Stage("lightglue"),)), load_registry(), CPU)
    trained = Pipeline("p", Stage("xfeat"), rerank=(Stage("lighterglue"),))
    assert Assembly(trained, load_registry(), CPU).rerankers[0].name == "lighterglue"


def test_every_encoding_is_one_of_the_formats(tiny: tuple[str, ...]) -> None:
    assembly = Assembly(pipeline("flat", "halves"), load_registry(), CPU)
    for kind in (FEATURES, *assembly.kinds, "search", "cache"):
        assert assembly.encoding(kind) in ENCODINGS
