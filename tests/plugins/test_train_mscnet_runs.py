"""Runs of training MSCNet: kills, kept views, divergence, the best epoch, curves, validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.images import read_image
from instsearch_cli.networks.training import Run
from instsearch_cli.progress import Quiet
from instsearch_plugins.encoders.mscnet_network import MSCNet
from instsearch_plugins.training import curves, mscnet
from instsearch_plugins.training.basic_conv import BasicConv
from instsearch_plugins.training.mscnet import MSCNetTrainer
from instsearch_plugins.training.validation import Patience, Validation
from killed_training import check_same_run, dying
from mscnet_training import TRIPLETS, C, data, equal, log, manifest, sta1, train, trainer, weights

__all__ = ["data", "manifest", "sta1", "weights"]  # fixtures


# kills, divergence, the end of training


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize(("mode", "views"), [("un", 0), ("un", 2), ("sta1", 0), ("sta1", 1), ("sta2", 0)])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    weights: Path,
    data: Path,
    sta1: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    views: int,
    at: int,
) -> None:
    options: dict[str, Any] = {"mode": mode, "flip": True, "validation": str(manifest), "epochs": 3}
    options |= {"views": views}
    if mode == "sta2":
        options |= TRIPLETS | {"start": str(sta1)}
    undisturbed, card = train(weights, data, tmp_path / "a.pth", **options)
    with dying(monkeypatch, MSCNetTrainer, "_backward", at + 1):
        train(weights, data, tmp_path / "b.pth", **options)
    again, card_again = train(weights, data, tmp_path / "b.pth", **options)
    assert equal(undisturbed, again)
    check_same_run(tmp_path, card, card_again, ("steps", "epochs", "images", "held out", "validation"))


def test_maps_of_kept_views_are_computed_once(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, plain = [0], BasicConv.__call__

    def counted(self: BasicConv, pixels: torch.Tensor) -> torch.Tensor:
        computed[0] += len(pixels) if len(pixels) > 1 else 0  # rehearsals have one
        return plain(self, pixels)

    monkeypatch.setattr(BasicConv, "__call__", counted)
    _, card = train(weights, data, tmp_path / "a.pth", views=2, epochs=5, batch=5)
    assert computed[0] == 2 * card["images"]["pictures"] == 18
    assert list(card["images"]["skipped"]) == [str(data / "class0" / "broken.png")]
    assert not list((tmp_path / "a.pth.training").glob("maps*"))


def test_views_without_room_are_said_before_training(
    weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("instsearch_plugins.training.kept_maps.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InstsearchError, match="take fewer views"):
        train(weights, data, tmp_path / "a.pth", views=1)
    with pytest.raises((UsageError, ValueError), match="views"):
        train(weights, data, tmp_path / "a.pth", mode="sta2", start=str(tmp_path), views=1)


def test_a_loss_that_is_not_finite_stops_and_says_where(weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InstsearchError, match=r"training diverged in un, epoch \d+, step \d+: "):
        train(weights, data, tmp_path / "x.pth", lr=1e30, epochs=9)
    assert not (tmp_path / "x.pth").exists()


def test_training_ends_early_and_the_best_weights_are_kept(
    weights: Path, data: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, offered = [0.2, 0.5, 0.4, 0.5, 0.3, 0.9], []
    plain = Patience.offer

    def offer(self: Patience, loss: float, network: nn.Module) -> None:
        offered.append({k: v.clone() for k, v in network.state_dict().items()})
        plain(self, loss, network)

    monkeypatch.setattr(Patience, "offer", offer)
    for keep, kept in (("best", 1), ("last", 4)):
        found = iter(given)
        offered.clear()
        monkeypatch.setattr(Validation, "mean_average_precision", lambda *_: next(found))  # noqa: B023
        options = {"validation": str(manifest), "patience": 3, "epochs": 6, "keep": keep}
        after, card = train(weights, data, tmp_path / f"{keep}.pth", **options)
        assert len(offered) == 5
        assert equal(after, offered[kept])
        assert card["held out"] == {"mAP": 0.5}
        assert card["validation"]["best epoch"] == 2
        assert card["validation"]["epochs"] == 5


def test_the_curves_are_the_means_of_the_log(
    weights: Path, data: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.pth"
    train(weights, data, out, validation=str(manifest))
    rows = log(out)
    found = curves.means(tmp_path / "x.pth.training" / "log.csv")
    assert set(found) == {"instance", "NGD", "mask cosine", "mAP"}
    for name, of in found.items():
        assert list(of) == [1, 2]
        for epoch, mean in of.items():
            own = [float(r["value"]) for r in rows if (r["name"], r["epoch"]) == (name, str(epoch))]
            assert mean == pytest.approx(np.mean(own))
            assert len(own) == (1 if name == "mAP" else 3)  # ten pictures in batches of four
    text = (tmp_path / "x.pth.training" / "curves.svg").read_text()
    assert text.startswith("<?xml")
    assert "MSCNet" not in text or len(text) > 1000


# validation


def test_validation_is_the_mean_of_average_precisions(tmp_path: Path) -> None:
    colours = {"a": (255, 0, 0), "b": (230, 100, 0), "c": (200, 160, 0), "d": (120, 200, 0), "e": (0, 255, 0)}
    for name, colour in colours.items():
        PIL.Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    both = np.zeros((40, 80, 3), np.uint8)
    both[:, :40], both[:, 40:] = (255, 0, 0), (0, 255, 0)
    PIL.Image.fromarray(both).save(tmp_path / "both.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    names = [f"{name}.png" for name in colours]
    queries = [
        # red half: order a b c d e; positives b, d -> (1/2 + 2/4) / 2
        {"id": "red", "image": "both.png", "box": [2, 2, 30, 30], "positives": ["b.png", "d.png"]},
        # green half: e d c b a; d is junk, e excluded: c b a; positives a -> 1/3
        {
            "id": "green",
            "image": "both.png",
            "box": [45, 0, 99, 99],
            "positives": ["a.png"],
            "junk": ["d.png"],
            "exclude": ["e.png"],
        },
        {"id": "bad", "image": "bad.png", "positives": ["a.png"]},
        # a positive that cannot be read counts as not found: a first of two
        {"id": "half", "image": "a.png", "positives": ["a.png", "bad.png"]},
    ]
    (tmp_path / "m.json").write_text(json.dumps({"images": [*names, "bad.png"], "queries": queries}))
    sizes = []

    def describe(u: Tensor) -> Tensor:
        sizes.append(tuple(u.shape[2:]))
        v = u.float().mean((2, 3))
        return v / v.norm(dim=1, keepdim=True)

    with Run(tmp_path / "run", {}, Quiet()) as run:
        found = Validation(tmp_path / "m.json", 20, 2).mean_average_precision(describe, run)
        assert found == pytest.approx(((1 / 2 + 2 / 4) / 2 + 1 / 3 + 1 / 2) / 3)
        assert sizes[:5] == [(15, 20)] * 5
        assert max(sizes[5]) in (20, 21)
        (tmp_path / "both.png").unlink()
        (tmp_path / "a.png").unlink()
        with pytest.raises(InstsearchError, match="none of its queries can be read"):
            Validation(tmp_path / "m.json", 20, 1).mean_average_precision(describe, run)


def test_validation_is_the_trained_networks(
    weights: Path, data: Path, manifest: Path, tmp_path: Path
) -> None:
    after, card = train(weights, data, tmp_path / "x.pth", validation=str(manifest), epochs=1)
    net = MSCNet(C, 3, 8)
    net.load_state_dict(after)
    conv = trainer(weights)._basic_conv()

    def z(name: str, box: bool = False) -> Tensor:
        r = 40 / (40 if box else 56)
        pixels = read_image(manifest.parent / name, lambda w, h: (round(r * w), round(r * h))).pixels
        pixels = np.ascontiguousarray(pixels[4:40, 4:44] if box else pixels)
        return net(conv(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0][0].detach()

    precisions = []
    names = [f"{kind}{i}.png" for kind in range(3) for i in range(2)]
    X = torch.stack([z(name) for name in names])
    for kind in range(3):
        order = (X @ z(f"{kind}2.png", True)).argsort(descending=True).tolist()
        ranks = sorted(order.index(i) + 1 for i in (2 * kind, 2 * kind + 1))
        precisions.append((1 / ranks[0] + 2 / ranks[1]) / 2)
    assert card["held out"]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-4)
    assert float(next(r["value"] for r in log(tmp_path / "x.pth") if r["name"] == "mAP")) == pytest.approx(
        np.mean(precisions)
    )
    assert card["validation"]["how"] == mscnet.HOW  # type: ignore[attr-defined]
