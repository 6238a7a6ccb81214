"""Networks of few channels to classify with, pictures of coloured classes, and a training run on them."""

from __future__ import annotations

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
from instsearch_plugins.extractors import decomposeme, vgg16_cam
from instsearch_plugins.training.cam_head import CamHeadTrainer

CPU = torch.device("cpu")
SMALL = {
    "short_side": (40, 48),
    "crop": 32,
    "batch": 4,
    "epochs": 3,
    "lr": 0.1,
    "lr_every": 2,
    "held_out": 0.3,
}
CLASSES = {"blue": (30, 60, 200), "green": (40, 190, 50), "red": (210, 40, 30)}


@pytest.fixture(autouse=True)
def _narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks with a few channels each."""
    monkeypatch.setattr(vgg16_cam, "BLOCKS", ((4, 4), (4, 4), (6, 6, 6), (8, 8, 8), (8, 8, 8)))
    monkeypatch.setattr(decomposeme, "BLOCKS", ((4, 4), (4, 4), (6, 6), (8, 8), (8, 8)))
    for module in (vgg16_cam, decomposeme):
        monkeypatch.setattr(module, "CHANNELS", 10)


def picture(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (56, 44)) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-25, 26, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of six pictures each, told apart by colour; one of the pictures is damaged."""
    folder = tmp_path / "data"
    for i, (name, colour) in enumerate(CLASSES.items()):
        for j in range(6):
            picture(folder / name / f"{j}.png", colour, 10 * i + j)
    (folder / "green" / "2.png").write_bytes(b"no picture")
    return folder


def make(cls: type[CamHeadTrainer], **options: Any) -> CamHeadTrainer:
    return cls(make_config(cls, SMALL | options, "x"), CPU)


def train(
    cls: type[CamHeadTrainer], data: Path, out: Path, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    trainer = make(cls, **options)
    with Run(out.with_name(f"{out.name}.training"), {}, Quiet()) as run:
        weights = {k: v.clone() for k, v in trainer.train(data, run).items()}
        return weights, run.finish(out, weights, CPU)
