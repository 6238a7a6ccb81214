"""A component that takes several images at once is given them so, where images come in batches."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from instsearch_cli.data import Regions, WeightMap

Cli = Callable[..., Any]
BRIGHT = ("--weighting", "bright")
HALVES = ("--detector", "halves", "--set", "extractor.side=8")


def layers(index: Path) -> dict[str, bytes]:
    """Every part of what is made of the pictures, by its place."""
    kinds = ("regions", "weights", "codes")
    parts = sorted(p for kind in kinds for p in (index / kind).rglob("part-*.h5"))
    return {str(p.relative_to(index)): p.read_bytes() for p in parts}


@pytest.fixture
def many(tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The tiny plugin's weighter and detector take several images; the calls, with the images' names."""
    plugin, calls = importlib.import_module("tiny_plugin"), list[tuple[str, list[str]]]()

    def weigh_many(self: Any, inputs: list[Any]) -> list[WeightMap]:
        calls.append(("weights", [i.name for i in inputs]))
        assert all(i.grid is not None and i.features is not None for i in inputs)
        return [self.weigh(i) for i in inputs]

    def detect_many(self: Any, inputs: list[Any]) -> list[Regions]:
        calls.append(("regions", [i.name for i in inputs]))
        return [self.detect(i) for i in inputs]

    monkeypatch.setattr(plugin.Bright, "weigh_many", weigh_many, raising=False)
    monkeypatch.setattr(plugin.Halves, "detect_many", detect_many, raising=False)
    return calls


def test_layers_are_the_same_made_together_and_one_by_one(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (photos / "b" / "bad.png").write_bytes((photos / "b" / "0.png").read_bytes()[:200])
    cli("index", photos, "--index", tmp_path / "one", *tiny[:4], *BRIGHT, *tiny[6:], *HALVES)
    calls: list[tuple[str, list[str]]] = request.getfixturevalue("many")
    cli(
        "index",
        photos,
        "--index",
        tmp_path / "together",
        *tiny[:4],
        "--weighting",
        "bright",
        *tiny[6:],
        *HALVES,
    )
    one, together = layers(tmp_path / "one"), layers(tmp_path / "together")
    assert one.keys() == together.keys()
    assert len({name.split("/")[0] for name in one}) == 3
    assert all(one[name] == together[name] for name in one)
    assert max(len(names) for _, names in calls) > 1
    names = [str(p.relative_to(photos)) for p in photos.rglob("?.png")]
    made = {
        kind: sorted(n for k, names in calls for n in names if k == kind) for kind in ("weights", "regions")
    }
    assert sorted(set(made["regions"])) == sorted(names)
    assert len(made["regions"]) <= len(names) + 1  # one picture's are counted beforehand
    assert made["weights"] == sorted(names)  # the encoder's fit reads what is written


def test_what_is_there_is_not_made_again(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, many: list[tuple[str, list[str]]]
) -> None:
    index = tmp_path / "i"
    cli("index", photos, "--index", index, *tiny[:4], *BRIGHT, *tiny[6:], *HALVES)
    many.clear()
    cli("index", "--index", index, *tiny[:4], *BRIGHT, *tiny[6:], *HALVES)
    cli("index", "--index", index, "--set", "encoder.power=3.0")
    assert many == []


@pytest.mark.parametrize("wrong", ["raises", "too few"])
def test_an_error_names_the_component_and_the_images(
    cli: Cli, tiny: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def detect_many(self: Any, inputs: list[Any]) -> list[Regions]:
        if wrong == "raises":
            raise RuntimeError("out of memory")
        return [Regions(torch.zeros(0, 4), torch.zeros(0))]

    plugin = importlib.import_module("tiny_plugin")
    monkeypatch.setattr(plugin.Halves, "detect_many", detect_many, raising=False)
    failed = cli(
        "index",
        photos,
        "--index",
        tmp_path / "i",
        *tiny[:4],
        "--weighting",
        "bright",
        *tiny[6:],
        *HALVES,
        status=1,
    )
    assert "detector 'halves' of tiny-plugin 1.0, images a/1.png, a/3.png" in failed.err
    assert ("out of memory" if wrong == "raises" else "shorter") in failed.err
