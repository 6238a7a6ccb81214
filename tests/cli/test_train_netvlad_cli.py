"""`instsearch train netvlad` and what it is for, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mscnet_training import equal, picture
from random_networks import folder, squeezenet, weights_folder

__all__ = ["folder", "squeezenet", "weights_folder"]  # fixtures
Cli = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three kinds of three pictures, and ten by themselves."""
    for kind in range(3):
        for i in range(3):
            picture(tmp_path / "data" / f"kind{kind}" / f"{i}.png", kind, 10 * kind + i)
    for i in range(10):
        picture(tmp_path / "data" / f"{i}.png", i, 50 + i)
    return tmp_path / "data"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    lines = [f"kind{k}/{i}.png,kind{k}/{j}.png\n" for k in range(3) for i in range(3) for j in range(i)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    return tmp_path / "pairs.csv"


def test_train_and_index_by_the_command_line(
    cli: Cli, squeezenet: nn.Module, data: Path, pairs: Path, tmp_path: Path
) -> None:
    small = {"network": "squeezenet1_0", "max_size": 48, "words": 2, "epochs": 1}
    flags = [word for name, value in small.items() for word in (f"--{name}".replace("_", "-"), value)]
    out = tmp_path / "layer.pth"
    words = ["netvlad", "--data", data, "--pairs", pairs, "--out", out, *flags]
    done = json.loads(cli("train", *words, "--json", "--quiet").out)
    assert done["card"]["network"] == "netvlad"
    assert "--extractor squeezenet1_0" in done["use"]
    assert f"--set encoder.weights={out}" in done["use"]
    assert json.loads(cli("train", *words, "--json", "--quiet").out)["already"]
    index = tmp_path / "index"
    cli("index", data, "--index", index, *done["use"].split(), "--set", "encoder.dims=4", "--quiet")
    hits = json.loads(cli("query", data / "kind0" / "0.png", "--index", index, "--json").out)["hits"]
    assert hits[0]["path"].endswith("kind0/0.png")
    # an index is what can be trained on, too, and its names are those of the pairs
    again = ["netvlad", "--data", index, "--pairs", pairs, "--out", tmp_path / "b.pth", *flags]
    cli("train", *again, "--quiet")
    a, b = (torch.load(path, weights_only=True) for path in (out, tmp_path / "b.pth"))
    assert equal(a, b)
