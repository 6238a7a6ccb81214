"""Networks of few channels for saliency, made pictures with fixations, and a training run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from instsearch_cli.networks.training import Run
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.weighters import salgan as of_salgan
from instsearch_plugins.weighters import salnet as of_salnet

SIZE = (48, 40)  #: width and height of the made pictures
SALGAN = {"size": (16, 32), "batch": 2, "held_out": 2, "bootstrap_epochs": 2, "epochs": 2, "lr": 1e-3}
SALNET = {"size": (16, 32), "batch": 2, "held_out": 2, "iterations": 5, "lr_every": 2, "std": 0.1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_channels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks with their layers and places, and a few channels each, unless a test wants them whole."""
    if "whole" not in request.fixturenames:
        monkeypatch.setattr(of_salgan, "ENCODER", ((4, 2), (4, 2), (6, 3), (8, 3), (8, 3)))
        monkeypatch.setattr(of_salgan, "DECODER", ((8, 3), (8, 3), (6, 3), (4, 2), (4, 2)))
        narrow = [min(c[2], 6) for c in of_salnet.CONVOLUTIONS]
        table = [
            (n, i, o, k)
            for (n, _, _, k), i, o in zip(of_salnet.CONVOLUTIONS, [3, *narrow], narrow, strict=False)
        ]
        monkeypatch.setattr(of_salnet, "CONVOLUTIONS", tuple(table))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight pictures with fixations where they are bright: six to train on, one of them damaged, two held out."""
    folder, table = tmp_path / "data", {}
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 90, (SIZE[1], SIZE[0], 3), np.uint8)
        x, y = int(rng.integers(4, SIZE[0] - 12)), int(rng.integers(4, SIZE[1] - 12))
        pixels[y : y + 8, x : x + 8] += 150
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        table[f"{i}.png"] = {"size": list(SIZE), "fixations": [[[x + 4, y + 4], [x + 2, y + 6]]]}
    (folder / "images" / "2.png").write_bytes(b"no picture")
    (folder / "fixations.json").write_text(json.dumps(table))
    return folder


def train(
    cls: type[Any], data: Path, out: Path, options: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    trainer = cls(make_config(cls, options, "x"), CPU)
    with Run(out.with_name(f"{out.name}.training"), {}, Quiet()) as run:
        weights = {k: v.clone() for k, v in trainer.train(data, run).items()}
        return weights, run.finish(out, weights, CPU)
