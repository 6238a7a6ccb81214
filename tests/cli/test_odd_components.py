"""Components of plugins that read pictures, learn where nothing learns, or have odd names and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli import DetectorSpec, ExtractorSpec, RerankerSpec, WeighterSpec
from instsearch_cli.components import Component, Detector, Extractor, Reranker, Weighter, own
from instsearch_cli.data import Regions
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.choosing import Choice, choose
from instsearch_cli.engine.describe import Described, Picture
from instsearch_cli.engine.pipeline import Pipeline, Stage
from instsearch_cli.engine.registry import Offer, Registry, load_registry
from instsearch_cli.engine.session import Index
from instsearch_cli.engine.stages import FEATURES, GRID, IMAGE, REGIONS, WEIGHTS
from instsearch_cli.errors import UsageError
from instsearch_cli.specs import Spec

Cli = Callable[..., Any]
Offered = Callable[[Spec, type[Any]], Registry]
CPU = torch.device("cpu")
FAKES = Path(__file__).parent / "fake_plugins"


@pytest.fixture
def offered(tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Offered:
    """``offered(spec, cls)``: the registry with one more component."""
    known, load, classes = load_registry(), Offer._import, dict[str, type[Any]]()
    monkeypatch.setattr(Offer, "_import", lambda self, path: classes.get(path) or load(self, path))

    def add(spec: Spec, cls: type[Any]) -> Registry:
        classes[spec.factory] = cls
        known.add(Offer(spec, "test", "1"))
        return known

    return add


def pipeline(side: int = 4, **stages: Stage) -> Pipeline:
    there = {"weighting": Stage("flat"), "encoder": Stage("centred"), "searcher": Stage("scan")}
    return Pipeline("tiny", Stage("cells", {"side": side}), **there | stages)


# -- pictures are as the extractor reads them ----------------------------------------------------------


class Pixels(Detector):
    """A quarter of the picture, in the pixels in which it was read."""

    def detect(self, inputs: Any) -> Regions:
        h, w = inputs.image.pixels.shape[:2]
        return Regions(torch.tensor([[0.0, 0.0, w / 4, h / 4]]), torch.ones(1))


@pytest.mark.parametrize(
    ("needs", "named"),
    [((), set()), ((IMAGE,), {IMAGE}), ((IMAGE, GRID), {GRID}), ((IMAGE, FEATURES), {FEATURES})],
)
def test_regions_of_a_picture_are_named_after_what_read_it(
    offered: Offered, needs: tuple[str, ...], named: set[str]
) -> None:
    known = offered(DetectorSpec("pixels", "t:pixels", "", needs=needs), Pixels)
    four, eight = (Assembly(pipeline(n, detector=Stage("pixels")), known, CPU) for n in (4, 8))
    assert four.identity(REGIONS)["inputs"] == dict.fromkeys(named, four.fingerprint(FEATURES))
    assert (four.fingerprint(REGIONS) != eight.fingerprint(REGIONS)) is bool(named)


def test_no_features_are_made_for_what_reads_the_picture_alone(offered: Offered) -> None:
    known = offered(DetectorSpec("pixels", "t:pixels", "", needs=(IMAGE,)), Pixels)
    assembly = Assembly(pipeline(detector=Stage("pixels")), known, CPU)
    assert Described(assembly, Picture(None, "a", (64, 48))).wants(REGIONS) == {IMAGE}
    assert not assembly.gridded(REGIONS)


def test_a_model_learnt_from_pictures_is_named_after_what_read_them(offered: Offered) -> None:
    class Learner(Weighter):
        def fit(self, data: Any, progress: Any) -> Any: ...

    known = offered(WeighterSpec("learner", "t:learner", "", needs=(IMAGE,)), Learner)
    four, eight = (Assembly(pipeline(n, weighting=Stage("learner")), known, CPU) for n in (4, 8))
    assert four.model_identity(WEIGHTS)["inputs"] == {IMAGE: four.fingerprint(FEATURES)}
    assert four.model_identity(WEIGHTS) != eight.model_identity(WEIGHTS)


def test_regions_are_the_same_whatever_was_indexed_before(
    offered: Offered, photos: Path, tmp_path: Path
) -> None:
    class Sized(Extractor):
        @dataclass(frozen=True)
        class Config:
            size: int = 32

        def fit_size(self, width: int, height: int) -> tuple[int, int]:
            return self.config.size, self.config.size

        def extract(self, images: Any) -> Any:
            cells: Any = known.get("extractor", "cells").load()
            return cells(cells.Config(), self.device).extract(images)

    offered(ExtractorSpec("sized", "t:sized", ""), Sized)
    known = offered(DetectorSpec("pixels", "t:pixels", "", needs=(IMAGE,)), Pixels)
    how: dict[str, Any] = {
        "extractor": "sized",
        "encoder": "centred",
        "detector": "pixels",
        "searcher": "scan",
    }
    index = Index.create(tmp_path / "i")
    for size in (32, 16):
        index.index(photos, **how, options=[f"extractor.size={size}"])
        np.testing.assert_array_equal(np.asarray(index.regions("a/1.png")), [[0, 0, size / 4, size / 4]])


# -- what learns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "base", "stage"),
    [
        (ExtractorSpec("learner", "t:learner", ""), Extractor, {"extractor": Stage("learner")}),
        (RerankerSpec("learner", "t:learner", ""), Reranker, {"rerank": (Stage("learner"),)}),
    ],
)
def test_what_is_never_fitted_is_refused(
    offered: Offered, spec: Spec, base: type[Component], stage: dict[str, Any]
) -> None:
    class Learner(base):  # type: ignore[valid-type]
        def fit(self, data: Any, progress: Any) -> Any: ...

    known = offered(spec, Learner)
    chosen = Pipeline(**vars(pipeline()) | stage)
    with pytest.raises(UsageError, match=f"{spec.kind} 'learner' of test 1 has a fit, which nobody calls"):
        Assembly(chosen, known, CPU)


@pytest.fixture
def _taught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES / "taught"))


@pytest.mark.usefixtures("_taught")
@pytest.mark.parametrize("name", ["os", "unlike", "maps"])
def test_space_is_judged_where_regions_are_of_learnt_weights(
    tiny: tuple[str, ...], photos: Path, tmp_path: Path, name: str
) -> None:
    index = Index.create(tmp_path / "i")
    given = [f"weighting.folder={photos}"] if name == "maps" else []
    how: dict[str, Any] = {"extractor": "cells", "encoder": "centred", "weighting": name, "detector": "egm"}
    assert index.index(photos, **how, options=given).written[REGIONS] == 10
    assert index.index(options=["detector.tau=0.2"]).written[REGIONS] == 10


def test_every_weighting_that_learns_is_tried_above() -> None:
    offers = load_registry().offers["weighting"]
    learning = {name for name, offer in offers.items() if own(offer.load().fit, Component.fit)}
    assert learning == {"os", "maps"}


# -- names and options --------------------------------------------------------------------------------


def test_a_given_name_stands_for_one_that_no_pipeline_may_have(
    offered: Offered, cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    long = "w" * 151
    known = offered(
        WeighterSpec(long, "tiny_plugin:Flat", ""), load_registry().get("weighting", "flat").load()
    )
    with pytest.raises(UsageError, match="at most 150 bytes"):
        choose(known, None, Choice(extractor="cells", encoder="centred", weighting=long))
    where = (photos, "--index", tmp_path / "i")
    cli("index", *where, *tiny[:4], "--weighting", long, *tiny[6:], "--name", "short")
    assert list(Index.open(tmp_path / "i").pipelines) == ["short"]


def test_a_recorded_pipeline_is_the_one_that_ran(tiny: tuple[str, ...]) -> None:
    known = load_registry()
    bms, spn = Stage("bms", {"width": "none"}), Stage("spn", {"thresholds": "0.2,0.4"})
    ran = Assembly(pipeline(weighting=bms, detector=spn), known, CPU)
    recorded = Pipeline.from_toml(ran.pipeline.to_toml(), "here")
    again = Assembly(recorded, known, CPU)
    assert recorded == ran.pipeline == again.pipeline
    assert again.stages["weighting"].config.width is None
    assert [again.fingerprint(kind) for kind in again.kinds] == [ran.fingerprint(kind) for kind in ran.kinds]


def test_an_option_that_no_file_can_hold_is_refused_by_name(offered: Offered) -> None:
    class Placed(Weighter):
        @dataclass(frozen=True)
        class Config:
            place: Path = Path()

    known = offered(WeighterSpec("placed", "t:placed", ""), Placed)
    with pytest.raises(UsageError, match=r"weighting: option 'place' of .*Placed is"):
        Assembly(pipeline(weighting=Stage("placed")), known, CPU)


def test_defaults_are_listed_as_they_are_typed(cli: Cli) -> None:
    assert "--set weighting.omega-o=none " in cli("plugins", "bms").out
