"""A tiny network, pictures of three classes, and MSCNet trained on them."""

from __future__ import annotations

import csv
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from instsearch_cli.networks.training import Run
from instsearch_cli.options import make_config
from instsearch_cli.progress import Quiet
from instsearch_plugins.extractors.networks import Network
from instsearch_plugins.training.mscnet import MSCNetTrainer

CPU = torch.device("cpu")
C = 6
BASE = {
    "network": "tinybn",
    "crop": 40,
    "short_side": (40, 50),
    "masks": 3,
    "dims": 8,
    "batch": 4,
    "epochs": 2,
}
BASE |= {"lr": 0.05, "scale": 4.0, "validation_size": 40}
TRIPLETS = {"mode": "sta2", "identities": 2, "images": 3, "lr": 0.01, "margin": 0.5}


class TinyBN(Network):
    """Two convolutions with batch normalisation, and a classifier behind the layer."""

    architecture = "tinybn"
    default = "features.4"

    @classmethod
    def build(cls) -> nn.Module:
        features = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4, padding=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, C, 3, padding=1),
            nn.ReLU(),
        )
        head = nn.Sequential(nn.Conv2d(C, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))
        return nn.Sequential(OrderedDict(features=features, head=head))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    network = TinyBN.build()
    network.features[1].running_mean.uniform_(-0.2, 0.2)
    network.features[1].running_var.uniform_(0.5, 2)
    torch.save(network.state_dict(), tmp_path / "tinybn.pth")
    return tmp_path / "tinybn.pth"


def picture(path: Path, kind: int, seed: int, size: tuple[int, int] = (56, 48)) -> None:
    """Stripes whose width, direction and colour are the kind's, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    wave = ((x if kind % 2 else y) + rng.integers(9)) // (3 + 2 * kind) % 2
    colour = np.array([60 + 60 * (kind % 3), 200 - 50 * kind % 150, 90])
    pixels = wave[..., None] * colour + rng.integers(0, 40, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of four, two and one pictures besides a damaged one, in class folders."""
    folder = tmp_path / "data"
    for kind, n in enumerate((4, 3, 2)):
        for i in range(n):
            picture(folder / f"class{kind}" / f"{i}.png", kind, 10 * kind + i)
    (folder / "class0" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "valid"
    for kind in range(3):
        for i in range(3):
            picture(folder / f"{kind}{i}.png", kind, 100 + 10 * kind + i)
    queries = [
        {
            "id": str(kind),
            "image": f"{kind}2.png",
            "box": [4, 4, 40, 36],
            "positives": [f"{kind}0.png", f"{kind}1.png"],
        }
        for kind in range(3)
    ]
    images = [f"{kind}{i}.png" for kind in range(3) for i in range(2)]
    (folder / "manifest.json").write_text(json.dumps({"images": images, "queries": queries}))
    return folder / "manifest.json"


def trainer(weights: Path, **options: Any) -> MSCNetTrainer:
    return MSCNetTrainer(
        make_config(MSCNetTrainer, BASE | {"weights": str(weights)} | options, "mscnet"), CPU
    )


def train(weights: Path, data: Path, out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    t = trainer(weights, **options)
    asked = json.loads(
        json.dumps({"options": str(t.config), "inputs": t.identity(), "data": t.digest(data, Quiet())})
    )
    with Run(out.with_name(f"{out.name}.training"), asked, Quiet()) as run:
        trained = {k: v.detach().clone() for k, v in t.train(data, run).items()}
        return trained, run.finish(out, trained, CPU)


def log(out: Path) -> list[dict[str, str]]:
    with (out.with_name(f"{out.name}.training") / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def sta1(weights: Path, data: Path, tmp_path: Path) -> Path:
    train(weights, data, tmp_path / "sta1.pth", mode="sta1")
    return tmp_path / "sta1.pth"
