"""What every layer is named after, for every preset and for mixed pipelines, as it has been: an identity that
changes unawares makes layers anew that are there, or takes one for another.

`python tests/cli/test_identities.py` writes the stored file anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.pipeline import Fitting, Pipeline, Stage, load_preset, parts_of_preset, presets
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.networks import weights
from instsearch_formats import fingerprint

STORED = Path(__file__).parents[1] / "data" / "identities.json"
NETWORKS = ("vgg16", "resnet50", "salgan", "sam-vgg", "aliked-n16rot", "xfeat")


def stages(**named: str) -> Pipeline:
    """A pipeline from "name option=value ..." of each stage."""
    made: dict[str, Any] = {}
    for stage, text in named.items():
        name, *options = text.split()
        made[stage] = Stage(name, dict(option.split("=", 1) for option in options))
    return Pipeline("mixed", **made)


SQUEEZE, SIFT = "squeezenet1_0", "sift keypoints=500"
MIXED: dict[str, Pipeline] = {
    "blcf none": stages(extractor=SQUEEZE, weighting="none", encoder="blcf words=500"),
    "blcf bms": stages(extractor=SQUEEZE, weighting="bms", encoder="blcf words=500 sqrt=true"),
    "blcf l2norm": stages(
        extractor=SQUEEZE, weighting="l2norm stretch=false", encoder="blcf words=10000"
    ),  # what preset blcf was
    "blcf signatures": stages(extractor=SQUEEZE, encoder="blcf signatures=true db_interp=2"),
    "blcf itti": stages(extractor="vgg16 max_size=340", weighting="itti-koch", encoder="blcf idf=true"),
    "sift gaussian": stages(
        extractor=SIFT, weighting="gaussian sigma=0.5", encoder="blcf", searcher="hamming"
    ),
    "sift spread": stages(extractor="sift spread=8", encoder="vlad over=local"),
    "sift faint": stages(extractor="sift at_least=100", weighting="l2norm", encoder="blcf"),
    "sift blcf": stages(
        extractor="sift keypoints=1000",
        weighting="none",
        encoder="blcf words=10000 n_train=200000 whiten=false sqrt=true idf=true signatures=true",
        searcher="hamming",
    ),
    "sift bovw own": stages(
        extractor=SIFT, encoder="bovw vocabulary=own words=500 idf=false", searcher="hamming"
    ),
    "spoc": stages(extractor=SQUEEZE, encoder="spoc dims=64"),
    "gem channels": stages(extractor="resnet50 layer=layer3", encoder="gem p=4 channels=ssw"),
    "crow crow": stages(extractor=SQUEEZE, weighting="crow", encoder="crow", searcher="diffusion k=20"),
    "ucrow salgan": stages(extractor=SQUEEZE, weighting="salgan", encoder="ucrow", searcher="faiss dba=5"),
    "pwa sam": stages(extractor="vgg16", weighting="sam-vgg", encoder="pwa parts=10"),
    "mac": stages(extractor="vgg16 scales=300,400", encoder="mac"),
    "regions egm": stages(
        extractor=SQUEEZE, weighting="fs", detector="egm tau=0.2", encoder="regions reduce=3"
    ),
    "regions os": stages(
        extractor=SQUEEZE,
        weighting="os a=5",
        detector="egm",
        encoder="regions-sum",
        searcher="regional-diffusion",
    ),
    "whole": stages(extractor=SQUEEZE, weighting="gaussian", detector="whole", encoder="regions-sum"),
    "grid vlad": stages(extractor=SQUEEZE, detector="grid", encoder="vlad query=grid"),
    "grid blcf bms": stages(extractor=SQUEEZE, weighting="bms", detector="grid", encoder="blcf"),
    "dasr": stages(
        extractor="resnet50 layer=layer4.0",
        detector="dasr network=squeezenet1_0 merge=true",
        encoder="regions-mean",
        searcher="offline-diffusion truncate=50",
    ),
    "cam": stages(
        extractor="squeezenet1_0 logits=true",
        weighting="cam network=squeezenet1_0 n_classes=8",
        encoder="cam",
        searcher="cam-online",
    ),
    "refitted": replace(
        stages(extractor=SQUEEZE, weighting="l2norm", encoder="sum"),
        fit=Fitting(generation=2, on="/elsewhere", digest="0" * 64),
    ),
}


def identities(folder: Path) -> dict[str, Any]:
    """Of each pipeline the fingerprint of each layer and model, and what each fingerprint is taken of."""
    torch.save(torchvision.models.squeezenet1_0(weights=None).state_dict(), folder / "squeezenet1_0.pth")
    for network in NETWORKS:
        (folder / f"{network}.pth").touch()
    known = load_registry()
    single = [name for name in presets(known) if parts_of_preset(name, known) == [name]]
    pipelines = {f"preset {name}": load_preset(name, known) for name in single} | MIXED
    named: dict[str, dict[str, str]] = {}
    of: dict[str, Any] = {}
    for name, pipeline in pipelines.items():
        assembly = Assembly(pipeline, known, torch.device("cpu"))
        found = {kind: assembly.identity(kind) for kind in ("features", *assembly.kinds, "search", "cache")}
        for kind in ("features", *assembly.kinds):
            if kind != "features" and assembly.part(kind).fits:
                found[f"model of {kind}"] = assembly.model_identity(kind)
        named[name] = {kind: fingerprint(identity)[:12] for kind, identity in found.items()}
        of |= {fingerprint(identity)[:12]: identity for identity in found.values()}
    return {"pipelines": named, "identities": dict(sorted(of.items()))}


@contextmanager
def plain_weights(folder: Path) -> Iterator[None]:
    """Weights whose digests are those of their names, and the built-in plugins alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTSEARCH_WEIGHTS", str(folder))
        patch.setenv("INSTSEARCH_PLUGINS", "")
        patch.setattr(weights, "_sha256", lambda path, *_: hashlib.sha256(path.name.encode()).hexdigest())
        load_registry.cache_clear()
        yield
    load_registry.cache_clear()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("weights")
    with plain_weights(folder):
        return identities(folder)


def test_every_layer_is_named_as_it_was(found: dict[str, Any]) -> None:
    stored = json.loads(STORED.read_text())
    assert found["pipelines"].keys() == stored["pipelines"].keys()
    for name, layers in found["pipelines"].items():
        before = stored["pipelines"][name]
        assert layers.keys() == before.keys(), name
        for kind, digest in layers.items():
            assert found["identities"][digest] == stored["identities"][before[kind]], f"{name}: {kind}"
            assert digest == before[kind], f"{name}: {kind}"


def test_twenty_mixed_pipelines_and_all_presets(found: dict[str, Any]) -> None:
    several = {"best"}
    assert len(found["pipelines"]) >= 20 + len(presets(load_registry()).keys() - several)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, plain_weights(Path(temporary)):
        made = identities(Path(temporary))
    STORED.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
