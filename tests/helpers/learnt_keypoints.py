"""kornia's keypoint networks with random weights, in files as their authors lay them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from instsearch_cli.data import Image
from instsearch_plugins.extractors.aliked import Aliked
from instsearch_plugins.extractors.disk import Disk
from instsearch_plugins.extractors.keynet_hardnet import KeyNetHardNet
from instsearch_plugins.extractors.learnt_keypoints import LearntKeypoints
from instsearch_plugins.extractors.xfeat import XFeat

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"aliked": Aliked, "disk": Disk, "xfeat": XFeat, "keynet-hardnet": KeyNetHardNet}


def drawn(build: Any, seed: int = 0) -> nn.Module:
    """A network with the weights that torch draws, in evaluation mode; XFeat's draws heat maps with peaks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = build()
    for name, x in network.state_dict().items():
        if name.startswith("net.keypoint_head.3"):
            x *= 20
    return network.eval()


def published(name: str, network: nn.Module) -> Any:
    """What is in the file that its authors publish."""
    state = network.state_dict()
    match name:
        case "aliked":
            return {key: x for key, x in state.items() if key != "dkd.hw_grid"}
        case "disk":
            return {"extractor": state}
        case "xfeat":
            return {key.removeprefix("net."): x for key, x in state.items()}
    return state


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A published file of each small network."""
    pytest.importorskip("kornia")
    folder = tmp_path_factory.mktemp("published")
    for name, component in SMALL.items():
        torch.save(published(name, drawn(component.build)), folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in SMALL}


def extractor(name: str, files: dict[str, Path], **options: Any) -> LearntKeypoints:
    component = SMALL[name]
    return component(component.Config(weights=str(files[name]), **options), CPU)


def picture(height: int = 96, width: int = 128, seed: int = 0, size: tuple[int, int] | None = None) -> Image:
    """Blurred noise."""
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    pixels = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    return Image(pixels, size or (width, height), "noise")
