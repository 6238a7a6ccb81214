"""Working on images side by side gives what working on them one after the other gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsearch_cli.engine import records
from instsearch_cli.engine.assembly import Assembly
from instsearch_cli.engine.collection import Collection
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.engine.streaming import Streaming
from instsearch_formats import Index
from instsearch_plugins.encoders.blcf import BLCF
from instsearch_plugins.extractors.sift import Sift

Cli = Callable[..., Any]


def layers(path: Path) -> dict[str, bytes]:
    """Every part, by its place."""
    parts = sorted(p for kind in KINDS for p in (path / kind).rglob("part-*.h5"))
    return {str(p.relative_to(path)): p.read_bytes() for p in parts}


def collection(path: Path) -> Collection:
    """The index's last pipeline."""
    index = Index.open(path)
    record = records.last(index)
    assert record is not None
    return Collection(index, Assembly(record.pipeline, load_registry(), torch.device("cpu")))


KINDS = ("features", "local", "weights", "codes")
SIFT = ("--extractor", "sift", "--encoder", "blcf", "--weighting", "gaussian", "--keep-features")
FEW = ("--set", "encoder.words=16", "--set", "encoder.whiten=no")


def test_equal_layers_and_threads_restored(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "b" / "bad.png").write_bytes((photos / "b" / "0.png").read_bytes()[:200])
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    side_by_side: list[bool] = []
    decide = Streaming._concurrent
    monkeypatch.setattr(
        Streaming,
        "_concurrent",
        lambda self, kinds: side_by_side.append(decide(self, kinds)) or side_by_side[-1],
    )
    try:
        first = cli("index", photos, "--index", tmp_path / "a", *SIFT, *FEW, "--json").json
        assert torch.get_num_threads() == 3
        assert side_by_side
        assert all(side_by_side)
        side_by_side.clear()
        monkeypatch.setattr(Sift, "concurrent", False)
        monkeypatch.setattr(BLCF, "concurrent", False)
        second = cli("index", photos, "--index", tmp_path / "b", *SIFT, *FEW, "--json").json
        assert side_by_side
        assert not any(side_by_side)
    finally:
        torch.set_num_threads(threads)
    assert first["skipped"] == second["skipped"]
    assert len(first["skipped"]) == 1
    one, other = layers(tmp_path / "a"), layers(tmp_path / "b")
    assert one.keys() == other.keys()
    assert {name.split("/")[0] for name in one} == set(KINDS)
    for name in one:
        assert one[name] == other[name], name


def test_what_is_stored_is_read_without_threads(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("index", photos, "--index", tmp_path / "i", *SIFT, *FEW, "--quiet")
    data = collection(tmp_path / "i")
    beside: list[int] = []
    work = Streaming._side_by_side

    def noted(self: Streaming, jobs: Any) -> Any:
        for job, bad in work(self, jobs):
            beside.append(job.row)
            yield job, bad

    monkeypatch.setattr(Streaming, "_side_by_side", noted)
    jobs = [(0, ("local",)), (1, ("image", "local")), (2, ("image",)), (3, ("local",))]
    found = dict(data.stream(jobs))
    assert list(found) == [0, 1, 2, 3]
    assert beside == [1, 2]
    for row, kinds in jobs:
        described = found[row]
        assert described is not None
        assert not any(map(described.lacks, kinds))
        if "local" in kinds:
            np.testing.assert_array_equal(described.local.words, data.at(row).local.words)


def test_what_is_stored_is_kept_for_questions_alone(cli: Cli, photos: Path, tmp_path: Path) -> None:
    cli("index", photos, "--index", tmp_path / "i", *SIFT, *FEW, "--quiet")
    data = collection(tmp_path / "i")
    first = data.item("local", 1)
    assert data.item("local", 1) is not first
    data.caching = True
    kept = data.item("local", 1)
    assert data.item("local", 1) is kept
    assert kept.keys() == first.keys()
    assert all(np.array_equal(kept[name], first[name]) for name in first)
