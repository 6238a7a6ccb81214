"""Files of kept maps: what is read back, and what a disk has lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from instsearch_plugins.training.kept_maps import MAPS, THERE, Item, KeptMaps
from instsearch_plugins.training.mscnet_batches import Crops, Shuffled
from mscnet_training import picture


@pytest.fixture
def batches(tmp_path: Path) -> Shuffled:
    for kind in range(3):
        picture(tmp_path / "data" / f"{kind}.png", kind, kind)
    pairs = [(tmp_path / "data" / f"{kind}.png", f"{kind}") for kind in range(3)]
    return Shuffled(pairs, Crops((40, 50), 40), 3, views=1)


def opened(tmp_path: Path, batches: Shuffled) -> KeptMaps:
    return KeptMaps(tmp_path, batches, lambda pixels: pixels[..., :5, :4].float() + 1, (3, 5, 4))


def load(kept: KeptMaps) -> Item:
    return kept.load(kept.batches.epoch(0)[0])[0]


def test_maps_are_read_back(tmp_path: Path, batches: Shuffled) -> None:
    kept = opened(tmp_path, batches)
    assert load(kept).values.dtype == torch.uint8
    X = kept(load(kept))
    again = load(opened(tmp_path, batches))
    assert again.values.dtype == torch.float16
    assert torch.equal(again.values.float(), X)


@pytest.mark.parametrize("name", [MAPS, THERE])
@pytest.mark.parametrize("damage", ["lost", "empty", "shorter", "longer", "another's"])
def test_maps_that_the_disk_lost_are_computed_anew(
    tmp_path: Path, batches: Shuffled, name: str, damage: str
) -> None:
    kept = opened(tmp_path, batches)
    X = kept(load(kept))
    del kept
    file = tmp_path / name
    if damage == "another's":
        np.save(file, np.ones((1, 4), bool))
    else:
        content = {
            "lost": b"",
            "empty": b"",
            "shorter": file.read_bytes()[:-1],
            "longer": file.read_bytes() + b"0",
        }
        file.write_bytes(content[damage])
    if damage == "lost":
        file.unlink()
    kept = opened(tmp_path, batches)
    assert not kept.there.any()
    assert load(kept).values.dtype == torch.uint8
    assert torch.equal(kept(load(kept)), X)
    assert torch.equal(load(opened(tmp_path, batches)).values.float(), X)
