"""What a classifier is trained on and measured by: folders of classes, pictures held out, and hits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cam_head_training import CLASSES, _narrow, data, picture, train
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.training import Run
from instsearch_cli.progress import Quiet
from instsearch_plugins.training.cam_head import VGG16CAMTrainer
from instsearch_plugins.training.classification import Centre, divided, hits, measure
from instsearch_plugins.training.mscnet_batches import Pictures, Sample

__all__ = ["_narrow", "data"]  # fixtures


def test_the_last_share_of_every_class_is_held_out(data: Path) -> None:
    trained_on, held_out = divided(data, 0.3)
    assert [(path.name, label) for path, label in held_out] == [
        (f"{i}.png", label) for label in CLASSES for i in (4, 5)
    ]
    assert len(trained_on) == 12
    assert not {path for path, _ in trained_on} & {path for path, _ in held_out}
    trained_on, held_out = divided(data, 0.99)  # never all
    assert (len(trained_on), len(held_out)) == (3, 15)


def test_imagenets_layout(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    root.mkdir()
    data.rename(root / "train")
    assert divided(root, 0.3) == divided(root / "train", 0.3)
    for name, colour in CLASSES.items():
        picture(root / "val" / name / "v.png", colour, 99)
    trained_on, held_out = divided(root, 0.3)
    assert (len(trained_on), [path.name for path, _ in held_out]) == (18, ["v.png"] * 3)
    picture(root / "val" / "violet" / "v.png", (200, 0, 200), 1)
    with pytest.raises(InstsearchError, match="class 'violet' is in val, not in train"):
        divided(root, 0.3)


def test_a_class_that_is_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        for j in range(2):
            picture(tmp_path / name / f"{j}.png", (9, 9, 9), j)
    assert [label for _, label in divided(tmp_path, 0.1)[0]] == ["bus", "train"]


def test_data_that_cannot_be_trained_on(data: Path, tmp_path: Path) -> None:
    picture(tmp_path / "one" / "a" / "0.png", (0, 0, 0), 0)
    picture(tmp_path / "single" / "a" / "0.png", (0, 0, 0), 0)
    picture(tmp_path / "single" / "b" / "0.png", (0, 0, 0), 0)
    (tmp_path / "flat").mkdir()
    (data / "empty").mkdir()
    for folder, message in (
        (tmp_path / "one", "one class alone, 'a'"),
        (tmp_path / "single", "class 'a' has one picture"),
        (tmp_path / "flat", "no class folders"),
        (data, "no picture in the folder '.*empty'"),
        (tmp_path / "none", "there is no folder"),
    ):
        with pytest.raises(InstsearchError, match=message) as raised:
            train(VGG16CAMTrainer, folder, tmp_path / "x.pth")
        assert str(raised.value).count("\n") < 2


def test_nothing_that_can_be_read(data: Path, tmp_path: Path) -> None:
    for path in sorted(data.rglob("[45].png")):
        path.write_bytes(b"no picture")
    with pytest.raises(InstsearchError, match=r"nothing of what is held out can be read: .*png"):
        train(VGG16CAMTrainer, data, tmp_path / "x.pth", epochs=1)


def test_the_middle_of_a_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "p.png")
    cut = Centre((40, 48), 32).read(tmp_path / "p.png", Sample(0, 0, 0))
    assert np.array_equal(cut, pixels[4:36, 14:46])


def test_hits_by_plain_loops() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(0, 4, (50, 7)).astype(np.float32), rng.integers(0, 7, 50)
    for k in (1, 2, 5):
        found = hits(torch.from_numpy(logits), torch.from_numpy(labels), k)
        for row, label, hit in zip(logits, labels, found.tolist(), strict=True):
            others = sum(row[c] >= row[label] for c in range(7) if c != label)
            assert hit == (others < k)


def test_numbers_of_what_is_held_out(tmp_path: Path) -> None:
    """Seven classes of a picture each; the classifier knows five, and puts the others last."""
    pairs = []
    for i in range(7):
        picture(tmp_path / f"{i}.png", (30 * i, 0, 0), i)
        pairs.append((tmp_path / f"{i}.png", str(i)))
    pictures = Pictures(pairs, Centre((40, 40), 32))
    logits = torch.zeros(7, 7)
    for i in range(5):
        logits[i, i] = 2.0
    logits[5:] = torch.arange(7.0).flip(0)  # class 5 is sixth, 6 seventh
    at = iter(range(0, 7, 3))

    def classify(pixels: Tensor) -> Tensor:
        start = next(at)
        return logits[start : start + len(pixels)]

    with Run(tmp_path / "run", {}, Quiet()) as run:
        found = measure(classify, pictures, 3, 1, run)
    expected = F.cross_entropy(logits, torch.arange(7)).item()
    assert found == pytest.approx({"cross-entropy": expected, "top-1": 5 / 7, "top-5": 5 / 7})
    known = math.log(math.exp(2) + 6) - 2
    tail = math.log(sum(map(math.exp, range(7))))
    assert expected == pytest.approx((5 * known + tail - 1 + tail) / 7, rel=1e-6)
