"""Real photographs, few and fast: the default pipeline and a real network find the object and say where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from real_data import INSTRE, SQUEEZENET, XFEAT

Cli = Callable[..., Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTRE.is_dir(), reason="the INSTRE photographs are not here"),
]


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three queries of textured objects over their 75 positives and 45 other photographs."""
    table = json.loads((INSTRE / "manifest-mini.json").read_text())
    queries = [q for q in table["queries"] if q["id"] in ("a05", "a09", "b03")]
    wanted = {name for q in queries for name in q["positives"]}
    others = [name for name in table["images"] if name not in wanted][::20]
    path = tmp_path_factory.mktemp("instre") / "manifest.json"
    for query in queries:
        query["image"] = str(INSTRE / query["image"])
    names = {name: str(INSTRE / name) for name in (*wanted, *others)}
    for query in queries:
        query["positives"] = [names[name] for name in query["positives"]]
    path.write_text(json.dumps({"name": "instre-few", "images": sorted(names.values()), "queries": queries}))
    return path


@pytest.mark.parametrize(
    "own",
    [
        pytest.param((), id="included"),
        pytest.param(("--set", "encoder.vocabulary=own", "--set", "encoder.words=4000"), id="own"),
    ],
)
def test_the_default_pipeline_finds_and_localises(
    cli: Cli, subset: Path, tmp_path: Path, own: tuple[str, ...]
) -> None:
    flags = (*own, "--boxes", INSTRE / "boxes.csv", "--json", "--quiet")
    run = ("eval", "--preset", "sift", "--dataset", subset, "--index", tmp_path / "i", *flags)
    words = cli(*run, "--rerank", "none", "--keep-features").json["metrics"]
    whole = cli(*run, "--keep-features").json["metrics"]
    geometric = ("--rerank", "verified-qe", "--rerank", "geometric")
    again = cli(*run, *geometric, "--keep-features").json["metrics"]
    assert whole["mAP"] > words["mAP"] > 0.8
    assert again["mAP"] > 0.8
    assert min(metrics["localised@10"] for metrics in (words, whole, again)) > 0.75


@pytest.mark.skipif(not XFEAT.exists(), reason="XFeat's weights are not here")
def test_learnt_keypoints_find_and_localise(cli: Cli, subset: Path, tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    flags = ("--preset", "xfeat", "--weights", XFEAT, "--boxes", INSTRE / "boxes.csv", "--json", "--quiet")
    words = ("--set", "encoder.words=500", "--set", "encoder.n-train=50000")
    metrics = cli("eval", *flags, *words, "--dataset", subset, "--index", tmp_path / "i").json["metrics"]
    assert metrics["mAP"] > 0.7
    assert metrics["localised@10"] > 0.75


@pytest.mark.skipif(not SQUEEZENET.exists(), reason="the SqueezeNet weights are not here")
def test_a_real_network_with_weighting_and_expansion(cli: Cli, subset: Path, tmp_path: Path) -> None:
    flags = (
        "--extractor",
        "squeezenet1_0",
        "--encoder",
        "blcf",
        "--set",
        "encoder.words=2000",
        "--json",
        "--quiet",
    )
    run = (
        "eval",
        "--dataset",
        subset,
        "--index",
        tmp_path / "i",
        *flags,
        "--weights",
        SQUEEZENET,
        "--keep-features",
    )
    none = cli(*run, "--weighting", "none", "--rerank", "none").json["metrics"]["mAP"]
    l2norm = cli(*run, "--weighting", "l2norm", "--rerank", "none").json["metrics"]["mAP"]
    expanded = cli(*run, "--weighting", "l2norm", "--rerank", "aqe").json["metrics"]["mAP"]
    assert 0.4 < none < expanded
    assert l2norm > none - 0.02
