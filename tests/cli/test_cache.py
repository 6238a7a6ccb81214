"""The searcher's folder in an index: what names it, and when gc takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.engine import records
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.errors import InstsearchError
from instsearch_formats import Index

Cli = Callable[..., Any]


@pytest.fixture
def made(cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path) -> Path:
    cli("index", photos, "--index", tmp_path / "i", *tiny, "--keep-features", "--quiet")
    return tmp_path / "i"


def collection(path: Path, *assignments: str) -> Collection:
    """The index's last pipeline with some options."""
    index = Index.open(path)
    pipeline = records.last(index).pipeline.with_options(assignments)
    return Collection(index, Assembly(pipeline, load_registry(), torch.device("cpu")))


def test_another_option_to_the_left_is_another_folder(made: Path) -> None:
    folder = collection(made).cache()
    assert folder is not None
    assert folder.parent == made / "cache"
    assert folder.name.startswith("scan-")
    assert collection(made).cache() == folder
    assert collection(made).segment(range(0, 3)).cache() == folder
    assert collection(made, "extractor.weights=elsewhere.pth").cache() != folder  # other weights
    assert collection(made, "encoder.power=2").cache() != folder


def test_gc_keeps_the_folders_of_recorded_pipelines_until_asked(cli: Cli, made: Path) -> None:
    kept = collection(made).cache()
    other = collection(made, "encoder.power=2").cache()
    assert kept is not None
    assert other is not None
    (kept / "x.npy").touch()
    (other / "x.npy").touch()
    assert f"would remove {other}" in cli("gc", "--index", made, "--dry-run").out
    cli("gc", "--index", made)
    assert not other.exists()
    assert (kept / "x.npy").exists()
    (kept / "y.npy").write_bytes(b"12345")
    name, digits = kept.name.rsplit("-", 1)
    facts = cli("info", "--index", made, "--json").json
    assert facts["caches"] == [{"name": name, "fingerprint": digits, "bytes": 5}]
    assert f"cache     scan             {digits[:8]}" in cli("info", "--index", made).out
    cli("verify", "--index", made, "--quiet")
    listed = cli("gc", "--index", made, "--cache", "--dry-run").out
    assert f"would remove {kept}" in listed
    assert "1 to remove" in listed
    assert kept.exists()
    cli("gc", "--index", made, "--cache")
    assert not kept.exists()
    assert cli("verify", "--index", made, "--quiet").out.startswith("sound")


def test_features_that_are_not_kept_are_named_with_the_command(cli: Cli, made: Path) -> None:
    data = collection(made)
    whole = np.concatenate([block["values"] for block in data.blocks("features")])
    some = np.concatenate([block["values"] for block in data.blocks("features", range(2, 5))])
    first = [0, *np.cumsum([block["indptr"][-1] for block in data.blocks("features", range(0, 2))])][-1]
    np.testing.assert_array_equal(some, whole[first : first + len(some)])
    assert len(some) == 3 * 16
    without = Collection(
        data.index,
        Assembly(
            replace(
                data.assembly.pipeline,
                extractor=replace(data.assembly.pipeline.extractor, options={"side": 2}),
            ),
            load_registry(),
            torch.device("cpu"),
        ),
    )
    with pytest.raises(InstsearchError, match=f"0 of 10 image rows.*--index {made} --keep-features"):
        next(iter(without.blocks("features")))


def test_the_weighter_is_at_hand(made: Path) -> None:
    data = collection(made)
    assert data.weighter is data.assembly.part("weights").component
    del data.assembly.stages["weighting"]
    assert data.weighter is None
