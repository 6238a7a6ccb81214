"""What saliency is trained on: batches, their order, pictures that cannot be used, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import scipy.io
import torch
from torch import Tensor

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import BadImage
from instsearch_cli.measure.saliency_metrics import auc_judd, cc, kl, nss
from instsearch_cli.networks.training import Run
from instsearch_cli.progress import Quiet
from instsearch_plugins.training.salgan import SalGANTrainer
from instsearch_plugins.training.saliency_batches import SaliencyBatches, SaliencyOptions
from real_data import SCENES
from saliency_training import SALGAN, SIZE, _few_channels, data, train

__all__ = ["_few_channels", "data"]  # fixtures


def batches(data: Path, **options: Any) -> SaliencyBatches:
    return SaliencyBatches(data, SaliencyOptions(**({"size": (16, 32), "batch": 2, "held_out": 2} | options)))


def test_a_batch_is_the_pictures_at_the_networks_size(data: Path) -> None:
    b = batches(data)
    pixels, S = b.load([("0.png", False), ("1.png", True)])
    assert pixels.shape == (2, 3, 16, 32)
    assert pixels.dtype == torch.uint8
    assert S.shape == (2, 1, 16, 32)
    for i, (name, mirrored) in enumerate((("0.png", False), ("1.png", True))):
        scene = b.fixations.read(name)
        small = cv2.resize(scene.pixels, (32, 16), interpolation=cv2.INTER_AREA)
        density = cv2.resize(scene.density, (32, 16), interpolation=cv2.INTER_AREA)
        flip = slice(None, None, -1 if mirrored else 1)
        assert np.array_equal(pixels[i].permute(1, 2, 0).numpy(), small[:, flip])
        assert np.array_equal(S[i, 0].numpy(), density[:, flip])
    again = b.load([("0.png", False), ("1.png", True)])
    assert torch.equal(again[0], pixels)
    assert torch.equal(again[1], S)


def test_the_order_follows_from_seed_stage_and_epoch(data: Path) -> None:
    b = batches(data)
    assert b.trained_on == [f"{i}.png" for i in range(6)]
    assert b.held_out == ["6.png", "7.png"]
    assert b.epoch(0, 3) == batches(data).epoch(0, 3)
    assert (
        len(
            {str(e) for e in (b.epoch(0, 0), b.epoch(0, 1), b.epoch(1, 0), batches(data, seed=1).epoch(0, 0))}
        )
        == 4
    )
    assert sorted(name for batch in b.epoch(0, 0) for name, _ in batch) == b.trained_on
    assert [len(batch) for batch in batches(data, batch=4).epoch(0, 0)] == [4, 2]
    assert not any(mirrored for e in range(9) for batch in b.epoch(0, e) for _, mirrored in batch)
    flips = [m for e in range(50) for batch in batches(data, flip=True).epoch(0, e) for _, m in batch]
    assert 0.35 < np.mean(flips) < 0.65


def test_pictures_that_cannot_be_used_are_counted_with_their_reasons(data: Path, tmp_path: Path) -> None:
    table = json.loads((data / "fixations.json").read_text())
    table["4.png"]["fixations"] = [[]]
    table["7.png"]["size"] = [9, 9]
    (data / "fixations.json").write_text(json.dumps(table))
    _, card = train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN)
    assert card["images"]["trained on"] == 4
    assert card["images"]["held out"] == 1
    skipped = card["images"]["skipped"]
    assert list(skipped) == ["2.png", "4.png", "7.png"]
    assert "nobody looked anywhere" in skipped["4.png"]
    assert "9 x 9" in skipped["7.png"]
    with pytest.raises(BadImage, match=r"2\.png: "):
        batches(data).load([("2.png", False), ("4.png", False)])


@pytest.mark.parametrize(
    ("bad", "message"), [(range(6), "can be trained on: "), ((6, 7), "is held out can be read: 6.png: ")]
)
def test_data_that_is_bad_altogether_is_an_error(data: Path, tmp_path: Path, bad: Any, message: str) -> None:
    for i in bad:
        (data / "images" / f"{i}.png").write_bytes(b"")
    with pytest.raises(InstsearchError, match=message):
        train(SalGANTrainer, data, tmp_path / "g.pth", SALGAN)


def test_the_network_is_measured_on_what_is_held_out(data: Path, tmp_path: Path) -> None:
    b = batches(data)

    def predict(pixels: Tensor) -> Tensor:
        return pixels.float().mean(1, keepdim=True)

    with Run(tmp_path / "run", {}, Quiet()) as run:
        found = b.measure(predict, run)
        loss = b.validate(lambda pixels, S: S.mean() + len(S), run)
    expected = []
    for name in b.held_out:
        scene = b.fixations.read(name)
        small = cv2.resize(scene.pixels, (32, 16), interpolation=cv2.INTER_AREA).astype(np.float32).mean(2)
        P = cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC).clip(0)
        Q, fixated = scene.density, scene.fixations
        expected.append([auc_judd(P, fixated), cc(P, Q), nss(P, fixated), kl(P, Q)])
    assert list(found) == ["AUC-Judd", "CC", "NSS", "KL"]
    assert list(found.values()) == pytest.approx(np.mean(expected, 0).tolist(), abs=1e-4)
    S = b.load([(name, False) for name in b.held_out])[1]
    assert loss == pytest.approx(float(S.mean()) + 2)


def test_salicons_train_is_trained_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "fixations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(3):
            PIL.Image.new("RGB", SIZE, (i * 60, 9, 9)).save(tmp_path / "images" / split / f"{split}{i}.jpg")
            gaze = np.zeros((1, 1), [("fixations", "O")])
            gaze[0, 0] = (np.array([[5, 6], [9, 9 + i]], np.uint16),)
            scipy.io.savemat(
                tmp_path / "fixations" / split / f"{split}{i}.mat",
                {"gaze": gaze, "resolution": np.array([SIZE[::-1]])},
            )
    b = batches(tmp_path, held_out=1)
    assert (b.trained_on, b.held_out) == (["train0.jpg", "train1.jpg"], ["train2.jpg"])
    assert b.load([("train0.jpg", False)])[1].max() > 0


def test_more_held_out_than_there_are(data: Path) -> None:
    with pytest.raises(UsageError, match="8 of 8 images cannot be held out"):
        batches(data, held_out=8)


@pytest.mark.skipif(not SCENES.is_dir(), reason="scene-fixations is not here")
def test_the_real_pictures_are_four_hundred_and_a_hundred() -> None:
    b = SaliencyBatches(SCENES, SaliencyOptions(size=(48, 64)))
    assert (len(b.trained_on), len(b.held_out)) == (400, 100)
    pixels, S = b.load(b.epoch(0, 0)[0][:2])
    assert pixels.shape == (2, 3, 48, 64)
    assert 0.5 < S.max() <= 1
